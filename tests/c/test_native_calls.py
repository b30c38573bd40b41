"""native.c and native/preload.c: what a C library waits for in libc parks its task.

Each test runs a script under ``evergreen run --native``. There, *driver* is native_driver.c by way of
ctypes.CDLL, which gives the GIL away for each call, and *holder* the same by ctypes.PyDLL, which keeps it.
"""

import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

PRELUDE = """
import ctypes, errno, os, socket, struct, sys, threading, time
import evergreen
from evergreen import native, patcher
driver = ctypes.CDLL(sys.argv[1], use_errno=True)
holder = ctypes.PyDLL(sys.argv[1], use_errno=True)
libc = ctypes.CDLL(None, use_errno=True)

def settle():
    while True:
        evergreen.sleep(0)
        if not evergreen.current.loop.stats()["ready"]:
            return

def parked(name):
    return native.status().calls[name]
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """The path of native_driver.c, compiled."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    path = tmp_path_factory.mktemp("native") / "driver.so"
    source = Path(__file__).with_name("native_driver.c")
    command = [*compiler, "-shared", "-fPIC", "-O1", "-o", path, source, "-lpthread"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip(f"there is no C compiler ({compiler[0]}) to build the test's driver with")
    return path


@pytest.fixture
def run_child(driver, tmp_path):
    """Return a function that runs code with the driver."""

    def run_native(code, *args):
        script = tmp_path / "script.py"
        script.write_text(PRELUDE + textwrap.dedent(code))
        command = [sys.executable, "-m", "evergreen", "run", "--native", script, driver, *args]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)

    return run_native


@pytest.fixture
def run_failing(run_child):
    """Return a function that runs code that ends with an exception, and returns what it printed."""

    def run_native(code):
        child = run_child(code)
        assert child.returncode != 0
        return child.stderr

    return run_native


@pytest.fixture
def run(run_child):
    """Return a function that runs code with the driver; the code must end well, and quietly."""

    def run_native(code, *args):
        child = run_child(code, *args)
        assert (child.returncode, child.stderr) == (0, ""), child.stdout + child.stderr
        return child.stdout

    return run_native


# ---- waiting to read -------------------------------------------------------------------

READS = """
    poll ppoll ppoll_mask poll_chk ppoll_chk select pselect epoll_wait
    recv recvfrom recvmsg read readv read_chk recv_chk recvfrom_chk
""".split()


@pytest.mark.parametrize("name", READS)
def test_a_call_that_waits_for_data_lets_others_run(run, name):
    run(
        """
        for library in (driver, holder):
            call = getattr(library, "read_by_" + sys.argv[2])
            pairs = [socket.socketpair() for _ in range(10)]
            results = [None] * 10
            def read(i):
                results[i] = call(pairs[i][1].fileno())
            tasks = [evergreen.spawn(read, i) for i in range(10)]
            settle()
            assert results == [None] * 10  # all ten wait at the same time
            for i in reversed(range(10)):
                pairs[i][0].send(bytes([65 + i]))
            for task in tasks:
                task.join()
            assert results == list(range(65, 75)), results
        calls = {call: n for call, n in native.status().calls.items() if n}
        assert set(calls) == {sys.argv[2].removesuffix("_chk").removesuffix("_mask")}, calls
        """,
        name,
    )


@pytest.mark.parametrize("name", ["read", "readv", "read_chk"])
def test_reading_from_a_pipe_lets_others_run(run, name):
    run(
        """
        call = getattr(driver, "read_by_" + sys.argv[2])
        reader, writer = os.pipe()
        task = evergreen.spawn(call, reader)
        settle()
        assert task.is_alive()
        os.write(writer, b"x")
        assert task.result() == ord("x")
        os.close(writer)
        assert call(reader) == -1  # the end
        """,
        name,
    )


@pytest.mark.parametrize("call", ["accept", "accept4"])
def test_accepting_lets_others_run(run, call):
    run(
        """
        listener = socket.create_server(("127.0.0.1", 0))
        accept = getattr(libc, sys.argv[2])
        tasks = [evergreen.spawn(accept, listener.fileno(), None, None, 0) for _ in range(2)]
        settle()
        assert parked(sys.argv[2]) == 2
        peers = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        accepted = [socket.socket(fileno=task.result()) for task in tasks]
        assert {a.getpeername() for a in accepted} == {p.getsockname() for p in peers}
        """,
        call,
    )


def test_the_address_of_a_datagram_is_filled_in_after_the_wait(run):
    run(
        """
        receiver, sender = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
        for s in (receiver, sender):
            s.bind(("127.0.0.1", 0))
        buffer, address = ctypes.create_string_buffer(9), ctypes.create_string_buffer(16)
        length = ctypes.c_int(16)
        task = evergreen.spawn(libc.recvfrom, receiver.fileno(), buffer, 9, 0, address, ctypes.byref(length))
        settle()
        sender.sendto(b"hello", receiver.getsockname())
        assert (task.result(), buffer.value, length.value) == (5, b"hello", 16)
        assert struct.unpack("!H", address.raw[2:4])[0] == sender.getsockname()[1]
        """
    )


def test_waitall_waits_for_all(run):
    run(
        """
        here, there = socket.socketpair()
        buffer = ctypes.create_string_buffer(10)
        task = evergreen.spawn(libc.recv, there.fileno(), buffer, 10, socket.MSG_WAITALL)
        for part in (b"abc", b"defg", b"hij"):
            settle()
            assert task.is_alive()
            here.send(part)
        assert (task.result(), buffer.raw) == (10, b"abcdefghij")
        task = evergreen.spawn(libc.recv, there.fileno(), buffer, 10, socket.MSG_WAITALL)
        settle()
        here.send(b"xyz")
        here.close()
        assert (task.result(), buffer.raw[:3]) == (3, b"xyz")
        """
    )


def test_a_driver_whose_data_is_always_there_lets_others_run(run):
    run(
        """
        here, there = socket.socketpair()
        here.send(bytes(100_000))
        turns = 0
        def others():
            global turns
            while True:
                evergreen.sleep(0)
                turns += 1
        other = evergreen.spawn(others)
        assert evergreen.spawn(driver.read_many, there.fileno(), 100_000).result() == 100_000
        assert turns > 100
        assert native.status().caught == 0  # nothing had to be waited for
        other.kill()
        """
    )


# ---- waiting to write ------------------------------------------------------------------


WRITES = [("socket", name) for name in ("send", "sendto", "sendmsg", "write", "writev")]
WRITES += [("pipe", "write"), ("pipe", "writev")]


@pytest.mark.parametrize(("kind", "name"), WRITES)
def test_a_call_that_waits_for_room_writes_all_and_lets_others_run(run, kind, name):
    run(
        """
        if sys.argv[3] == "pipe":
            reader, writer = os.pipe()
        else:
            pair = socket.socketpair()
            reader, writer = pair[0].fileno(), pair[1].fileno()
        call = getattr(driver, "write_by_" + sys.argv[2])
        call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
        call.restype = ctypes.c_ssize_t
        data = os.urandom(1_000_000)
        task = evergreen.spawn(call, writer, data, len(data))
        settle()
        assert task.is_alive()
        got = bytearray()
        os.set_blocking(reader, False)
        while len(got) < len(data):
            try:
                got += os.read(reader, 300_000)
            except BlockingIOError:
                evergreen.sleep(0.001)
        assert task.result() == len(data)
        assert got == data
        """,
        name,
        kind,
    )


def test_a_datagram_waits_until_its_receiver_has_room(run):
    run(
        """
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind("\\0evergreen-test-%d" % os.getpid())
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = struct.pack("H", socket.AF_UNIX) + receiver.getsockname()
        sent = []
        def send():
            for i in range(40):
                sent.append(libc.sendto(sender.fileno(), b"x", 1, 0, address, len(address)))
        task = evergreen.spawn(send)
        settle()
        assert len(sent) < 40
        for _ in range(40):
            receiver.recv(1)
        task.join()
        assert sent == [1] * 40
        """
    )


@pytest.mark.parametrize("way", ["write", "send", "writev"])
def test_what_tasks_send_arrives_in_the_order_in_which_they_did(run, way):
    run(
        f"""
        here, there = socket.socketpair()
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        order = bytearray()

        class Part(ctypes.Structure):
            _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]

        def send(name):
            for _ in range(100):
                order.extend(name)
                if {way!r} == "write":
                    libc.write(here.fileno(), name, 1)
                elif {way!r} == "send":
                    libc.send(here.fileno(), name, 1, 0)
                else:
                    libc.writev(here.fileno(), ctypes.byref(Part(name, 1)), 1)

        for task in [evergreen.spawn(send, name) for name in (b"a", b"b")]:
            task.join()
        got = b""
        while len(got) < 200:
            got += there.recv(200)
        assert got == order
        assert order != b"a" * 100 + b"b" * 100  # they took turns
        """
    )


def test_what_was_sent_before_a_broken_connection_is_counted(run):
    run(
        """
        here, there = socket.socketpair()
        data = bytes(10_000_000)
        send = driver.write_by_send
        send.argtypes, send.restype = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t], ctypes.c_ssize_t
        task = evergreen.spawn(send, here.fileno(), data, len(data))
        settle()
        there.close()  # no SIGPIPE: some of it went out
        assert 0 < task.result() < len(data)
        """
    )


# ---- connecting ------------------------------------------------------------------------


def test_connecting_reaches_the_listener_or_says_why_not(run):
    run(
        """
        listener = socket.create_server(("127.0.0.1", 0))
        def connect(port):
            s = socket.socket()
            s.setblocking(True)
            address = struct.pack("H", socket.AF_INET) + struct.pack("!H4s8x", port, bytes([127, 0, 0, 1]))
            status = libc.connect(s.fileno(), address, 16)
            assert os.get_blocking(s.fileno())
            return status, ctypes.get_errno() if status else s.getpeername()[1]
        port = listener.getsockname()[1]
        assert evergreen.spawn(connect, port).result() == (0, port)
        listener.close()
        assert evergreen.spawn(connect, port).result() == (-1, errno.ECONNREFUSED)
        """
    )


def test_connecting_waits_for_a_full_backlog(run):
    run(
        """
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\\0evergreen-test-%d" % os.getpid())
        listener.listen(0)
        address = struct.pack("H", socket.AF_UNIX) + listener.getsockname()
        done = []
        def connect():
            s = socket.socket(socket.AF_UNIX)
            done.append(libc.connect(s.fileno(), address, len(address)))
        tasks = [evergreen.spawn(connect) for _ in range(3)]
        evergreen.sleep(0.01)
        assert len(done) < 3
        accepted = [listener.accept() for _ in range(3)]
        for task in tasks:
            task.join()
        assert done == [0, 0, 0]
        """
    )


# ---- sleeping --------------------------------------------------------------------------

NAPS = ["usleep", "nanosleep", "clock_nanosleep", "clock_nanosleep_until", "poll", "select"]


@pytest.mark.parametrize("name", NAPS)
def test_naps_of_many_tasks_pass_together(run, name):
    run(
        """
        ticks = []
        def tick():
            while True:
                evergreen.sleep(0.005)
                ticks.append(time.monotonic())
        ticker = evergreen.spawn(tick)
        for library in (driver, holder):
            nap = getattr(library, "nap_by_" + sys.argv[2])
            start = time.monotonic()
            tasks = [evergreen.spawn(nap, 200) for _ in range(20)]
            assert [task.result() for task in tasks] == [0] * 20
            assert 0.2 <= time.monotonic() - start < 2  # 4 s if they were one after the other
        ticker.kill()
        assert len(ticks) > 20  # while they slept
        assert parked(sys.argv[2].removesuffix("_until")) == 40
        """,
        name,
    )


def test_sleep_lets_others_run(run):
    run(
        """
        tasks = [evergreen.spawn(libc.sleep, 1) for _ in range(5)]
        start = time.monotonic()
        assert [task.result() for task in tasks] == [0] * 5
        assert 1 <= time.monotonic() - start < 3
        """
    )


# ---- calls for a native thread ---------------------------------------------------------


def test_flock_waits_its_turn_and_lets_others_run(run, tmp_path):
    run(
        """
        files = [open(sys.argv[2], "w") for _ in range(4)]
        LOCK_EX, LOCK_UN = 2, 8
        order = []
        def use(file):
            assert libc.flock(file.fileno(), LOCK_EX) == 0
            order.append(file)
            evergreen.sleep(0.01)
            order.append(file)
            libc.flock(file.fileno(), LOCK_UN)
        tasks = [evergreen.spawn(use, file) for file in files]
        for task in tasks:
            task.join()
        assert len(order) == 8 and order[::2] == order[1::2]
        assert parked("flock") == 3
        """,
        tmp_path / "lock",
    )


def test_a_task_killed_while_it_waits_for_flock_does_not_keep_the_lock(run, tmp_path):
    run(
        """
        first, second, third = (open(sys.argv[2], "w") for _ in range(3))
        LOCK_EX, LOCK_NB, LOCK_UN = 2, 4, 8
        assert libc.flock(first.fileno(), LOCK_EX) == 0
        result = []
        def use():
            result.append((libc.flock(second.fileno(), LOCK_EX), ctypes.get_errno()))
        task = evergreen.spawn(use)
        evergreen.sleep(0.02)  # its native thread is in flock() by now, most likely
        task.kill()
        task.join()
        assert result == [(-1, errno.EINTR)]
        libc.flock(first.fileno(), LOCK_UN)
        assert evergreen.spawn(libc.flock, third.fileno(), LOCK_EX).result() == 0
        """,
        tmp_path / "lock",
    )


def test_getaddrinfo_asks_in_a_native_thread(run):
    run(
        """
        found = ctypes.c_void_p()
        def look_up(name):
            return libc.getaddrinfo(name, b"80", None, ctypes.byref(found))
        assert evergreen.spawn(look_up, b"localhost").result() == 0
        assert found.value and parked("getaddrinfo") == 1
        libc.freeaddrinfo(found)
        assert evergreen.spawn(look_up, b"127.0.0.1").result() == 0
        libc.freeaddrinfo(found)
        assert parked("getaddrinfo") == 1  # no name, no thread
        assert evergreen.spawn(look_up, b"no such name").result() != 0
        """
    )


# ---- as in libc ------------------------------------------------------------------------


def test_what_does_not_block_does_not_wait(run):
    run(
        """
        here, there = socket.socketpair()
        buffer = ctypes.create_string_buffer(1)
        def ask(flags):
            got = libc.recv(there.fileno(), buffer, 1, flags)
            return got, ctypes.get_errno()
        assert evergreen.spawn(ask, socket.MSG_DONTWAIT).result() == (-1, errno.EAGAIN)
        there.setblocking(False)
        assert evergreen.spawn(ask, 0).result() == (-1, errno.EAGAIN)
        assert evergreen.spawn(driver.read_by_read, there.fileno()).result() == -1
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        assert evergreen.spawn(libc.accept, listener.fileno(), None, None).result() == -1
        reader, writer = os.pipe2(os.O_NONBLOCK)
        assert evergreen.spawn(driver.read_by_read, reader).result() == -1
        size = evergreen.spawn(driver.write_by_write, writer, bytes(1_000_000), 1_000_000).result()
        assert 0 < size < 1_000_000
        assert evergreen.spawn(driver.poll_revents, reader, 0).result() == 1
        assert native.status().caught == 0, native.status()
        """
    )


@pytest.mark.parametrize("call", ["recv", "accept"])
def test_a_sockets_own_timeout_ends_the_call(run, call):
    run(
        """
        quiet = socket.create_server(("127.0.0.1", 0)) if sys.argv[2] == "accept" else socket.socketpair()[0]
        peer = socket.socketpair()
        if sys.argv[2] == "recv":
            quiet = peer[0]
        quiet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50_000))
        buffer = ctypes.create_string_buffer(1)
        def ask():
            arguments = (buffer, 1, 0) if sys.argv[2] == "recv" else (None, None)
            return getattr(libc, sys.argv[2])(quiet.fileno(), *arguments), ctypes.get_errno()
        start = time.monotonic()
        task = evergreen.spawn(ask)
        settle()
        assert task.is_alive()
        assert task.result() == (-1, errno.EAGAIN)
        assert time.monotonic() - start >= 0.05
        assert parked(sys.argv[2]) == 1
        """,
        call,
    )


def test_poll_reports_hang_ups_bad_descriptors_and_its_timeout(run):
    run(
        """
        POLLIN, POLLHUP, POLLNVAL = 1, 16, 32
        here, there = socket.socketpair()
        assert evergreen.spawn(driver.poll_revents, there.fileno(), 20).result() == 0
        task = evergreen.spawn(driver.poll_revents, there.fileno(), -1)
        settle()
        here.close()
        assert task.result() == POLLIN | POLLHUP
        assert evergreen.spawn(driver.poll_revents, 999, -1).result() == POLLNVAL
        """
    )


def test_errno_is_left_alone_by_a_call_that_succeeds(run):
    run(
        """
        here, there = socket.socketpair()
        task = evergreen.spawn(driver.errno_after, there.fileno())
        settle()
        here.send(b"x")
        assert task.result() == 77
        """
    )


def test_an_exception_that_is_set_stays_set(run):
    run(
        """
        here, there = socket.socketpair()
        task = evergreen.spawn(holder.poll_with_exception, there.fileno())
        settle()
        here.send(b"x")
        assert task.result() == ord("x")
        """
    )


def test_closing_the_descriptor_in_python_ends_the_wait(run):
    run(
        """
        here, there = socket.socketpair()
        buffer = ctypes.create_string_buffer(1)
        def read():
            return libc.recv(fd, buffer, 1, 0), ctypes.get_errno()
        fd = there.fileno()
        task = evergreen.spawn(read)
        settle()
        there.close()
        assert task.result() == (-1, errno.EBADF)
        """
    )


def test_a_task_dump_names_the_call(run):
    run(
        """
        here, there = socket.socketpair()
        task = evergreen.spawn(driver.read_by_recv, there.fileno())
        settle()
        assert task.waiting[0] == "native recv"
        here.send(b"x")
        task.join()
        """
    )


def test_what_waits_for_ever_and_for_nothing_is_a_deadlock(run):
    run(
        """
        task = evergreen.spawn(libc.poll, None, 0, -1)
        try:
            task.join()
        except evergreen.Deadlock as deadlock:
            assert "native poll" in str(deadlock)
        else:
            raise AssertionError("it has ended")
        task.kill()
        task.join()
        """
    )


def test_loops_of_several_threads_cooperate_each(run):
    run(
        """
        def work(done):
            loop = evergreen.EventLoop()
            tasks = [evergreen.spawn(driver.nap_by_usleep, 100) for _ in range(20)]
            for task in tasks:
                task.join()
            loop.destroy()
            done.release()
        start = time.monotonic()
        original = patcher.original("_thread")
        locks = [original.allocate_lock() for _ in range(3)]
        for lock in locks:
            lock.acquire()
            original.start_new_thread(work, (lock,))
        for lock in locks:
            lock.acquire()
        assert parked("usleep") == 60
        assert time.monotonic() - start < 1.5  # 2 s if one thread's were one after the other
        """
    )


# ---- whose calls go straight to libc ---------------------------------------------------


def test_callbacks_threads_and_code_before_the_loop_block_natively(run):
    run(
        """
        driver.nap_by_usleep(1)  # there is no event loop yet
        assert evergreen.current.loop
        evergreen.current.loop.call_soon(driver.nap_by_usleep, 1)
        settle()
        ended = patcher.original("_thread").allocate_lock()
        ended.acquire()
        def work():
            driver.nap_by_usleep(1)
            ended.release()
        patcher.original("_thread").start_new_thread(work, ())
        ended.acquire()
        assert native.status().caught == 0
        driver.nap_by_usleep(1)  # the main greenlet waits like a task
        assert native.status().caught == 1
        """
    )


def test_python_itself_is_left_to_the_patches(run):
    run(
        """
        order = []
        def nap():
            patcher.original("time").sleep(0.01)
            order.append("slept")
        tasks = [evergreen.spawn(nap), evergreen.spawn(order.append, "next")]
        for task in tasks:
            task.join()
        assert order == ["slept", "next"]  # the native function means to block
        assert native.status().caught == 0
        """
    )


def test_a_signal_handler_in_c_does_not_park(run):
    run(
        """
        # It also checks that sigaction() tells what it was told.
        assert evergreen.spawn(driver.sleep_in_handler).result() == 1
        assert native.status().caught == 0
        """
    )


def test_a_child_that_c_code_forks_blocks_natively(run):
    run(
        """
        here, there = socket.socketpair()
        def send_later():
            patcher.original("time").sleep(0.05)
            here.send(b"x")
        patcher.original("_thread").start_new_thread(send_later, ())
        assert evergreen.spawn(driver.read_in_child, there.fileno()).result() == ord("x")
        """
    )


def test_a_child_of_os_fork_cooperates(run):
    out = run(
        """
        patcher.unpatch()
        def child():
            tasks = [evergreen.spawn(driver.nap_by_usleep, 50) for _ in range(5)]
            for task in tasks:
                task.join()
            os.write(1, b"%d" % parked("usleep"))
        def main():
            pid = os.fork()
            if pid == 0:
                child()
                os._exit(0)
            os.waitpid(pid, 0)
        evergreen.spawn(main).join()
        """
    )
    assert out == "5"


def test_a_mutex_that_a_parked_task_holds_does_not_stop_the_thread(run):
    run(
        """
        pairs = [socket.socketpair() for _ in range(3)]
        tasks = [evergreen.spawn(driver.read_locked, there.fileno()) for _, there in pairs]
        settle()
        for here, _ in reversed(pairs):
            here.send(b"x")
            settle()
        assert [task.result() for task in tasks] == [ord("x")] * 3
        """
    )


# ---- kills and timeouts ----------------------------------------------------------------


def test_a_kill_interrupts_the_call_and_is_raised_at_the_next_wait(run):
    run(
        """
        here, there = socket.socketpair()
        log = []
        def read():
            log.append(errno.errorcode[driver.poll_errno(there.fileno())])
            try:
                evergreen.sleep(0)
            except evergreen.TaskExit:
                log.append("exit")
                raise
        for library in (driver, holder):
            task = evergreen.spawn(read)
            settle()
            task.kill()
            task.join()
        assert log == ["EINTR", "exit"] * 2, log
        """
    )


def test_an_interrupted_nap_tells_what_was_left(run):
    run(
        """
        driver.nap_rest.argtypes, driver.nap_rest.restype = [ctypes.c_long], ctypes.c_long
        left = []
        task = evergreen.spawn(lambda: left.append(driver.nap_rest(10_000)))
        settle()
        task.kill()
        task.join()
        assert 5_000 < left[0] <= 10_000, left
        """
    )


def test_a_library_that_ignores_the_interruption_is_told_twice_and_then_waits(run):
    run(
        """
        here, there = socket.socketpair()
        calls = []
        task = evergreen.spawn(lambda: calls.append(driver.insist(there.fileno())))
        settle()
        task.kill()
        settle()
        assert task.is_alive() and not calls
        here.send(b"x")
        task.join()
        assert calls == [3]
        task = evergreen.spawn(lambda: calls.append(driver.insist(there.fileno())))
        settle()
        """
    )


def test_a_kill_is_what_a_task_ends_with_whose_call_failed_because_of_it(run):
    run(
        """
        class DriverError(Exception):
            pass
        def query():
            number = driver.poll_errno(there.fileno())
            raise DriverError(number)
        here, there = socket.socketpair()
        task = evergreen.spawn(query)
        settle()
        task.kill()
        try:
            task.result()
        except evergreen.TaskExit as exc:
            assert isinstance(exc.__context__, DriverError)
        else:
            raise AssertionError("it was killed")
        """
    )


def test_a_scope_whose_time_is_up_in_a_call_ends_as_anywhere_else(run):
    run(
        """
        class DriverError(Exception):
            pass
        def query():
            raise DriverError(driver.poll_errno(there.fileno()))
        here, there = socket.socketpair()
        def main():
            with evergreen.move_on_after(0.02) as scope:
                query()
            assert scope.expired
            try:
                with evergreen.fail_after(0.02):
                    query()
            except TimeoutError as exc:
                assert isinstance(exc.__context__, DriverError)
            else:
                raise AssertionError("it has not failed")
            from evergreen.timeout import Timeout
            try:
                with Timeout(0.02) as timeout:
                    query()
            except Timeout as exc:
                assert exc is timeout and isinstance(exc.__context__, DriverError)
            with Timeout(0.02, False):
                query()
            evergreen.sleep(0.001)  # nothing is left that would hit this
        evergreen.spawn(main).result()
        """
    )


def test_ctrl_c_reaches_a_main_program_that_waits_in_c_code(run):
    run(
        """
        import signal
        here, there = socket.socketpair()
        evergreen.spawn(os.kill, os.getpid(), signal.SIGINT)
        assert driver.poll_errno(there.fileno()) == errno.EINTR
        try:
            evergreen.sleep(0)
        except KeyboardInterrupt:
            sys.exit()
        raise AssertionError("nothing was raised")
        """
    )


def test_a_program_that_ends_by_a_drivers_error_because_of_ctrl_c_says_so(run_failing):
    error = run_failing(
        """
        import signal
        here, there = socket.socketpair()
        evergreen.spawn(os.kill, os.getpid(), signal.SIGINT)
        raise OSError(driver.poll_errno(there.fileno()), "the driver's error")
        """
    )
    assert "the driver's error" in error
    assert error.rstrip().endswith("KeyboardInterrupt")


def test_tasks_killed_in_c_code_leak_nothing(run):
    run(
        """
        names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
        class Info(ctypes.Structure):
            _fields_ = [(name, ctypes.c_size_t) for name in names]
        try:
            libc.mallinfo2.restype = Info
        except AttributeError:
            sys.exit()  # another C library than glibc
        here, there = socket.socketpair()
        def kill_many(n):
            calls = [driver.read_by_select, driver.read_by_recv, driver.poll_revents, driver.read_by_readv]
            for call in calls * n:
                tasks = [evergreen.spawn(call, there.fileno(), -1) for _ in range(25)]
                settle()
                for task in tasks:
                    task.kill()
                for task in tasks:
                    task.join()
        kill_many(4)
        before = libc.mallinfo2().uordblks
        descriptors = len(os.listdir("/proc/self/fd"))
        kill_many(40)
        assert libc.mallinfo2().uordblks - before < 100_000  # 4,000 kills
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert evergreen.current.loop.stats()["descriptors"] == 0
        """
    )


# ---- what the kernel says -----------------------------------------------------------------


def test_what_the_kernel_refuses_fails_with_the_kernels_errno_and_writes_nothing_else(run):
    run(
        """
        BAD = 8  # no address
        timespec, second = struct.Struct("ll"), struct.pack("ll", 1, 0)
        connected, peer = socket.socketpair()
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        tcp = socket.socket()
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        r, w = os.pipe()
        file = os.open(sys.argv[1], os.O_RDONLY)
        closed = os.dup2(0, 99)
        os.close(closed)
        iov = struct.pack("QQ", BAD, 1)
        message = struct.pack("QI4xQQQQi4x", 0, 0, BAD, 1, 0, 0, 0)
        calls = [(libc.accept, fd, None, None) for fd in
                 (connected.fileno(), udp.fileno(), tcp.fileno(), bound.fileno(), r, file, closed, -1)]
        calls += [(libc.accept4, *call[1:], 0) for call in calls]
        for fd in (tcp.fileno(), bound.fileno(), r, w, file, closed, -1):
            calls += [(libc.recv, fd, None, 0, 0), (libc.recv, fd, ctypes.create_string_buffer(8), 8, 0),
                      (libc.recvmsg, fd, BAD, 0), (libc.sendmsg, fd, BAD, 0),
                      (libc.recvmsg, fd, message, 0), (libc.sendto, fd, b"x", 1, 0, BAD, 16),
                      (libc.connect, fd, BAD, 16)]
        for fd in (connected.fileno(), r, w, file, closed, -1):
            calls += [(libc.readv, fd, BAD, 1), (libc.writev, fd, BAD, 1), (libc.readv, fd, iov, -1),
                      (libc.readv, fd, iov, 0), (libc.writev, fd, iov, 2000), (libc.writev, fd, iov, 1),
                      (libc.epoll_wait, fd, BAD, 1, 1000), (libc.flock, fd, 77)]
        calls += [(libc.connect, udp.fileno(), b"\\xff\\xff" + bytes(14), 16),
                  (libc.connect, tcp.fileno(), b"\\xff\\xff" + bytes(14), 16),
                  (libc.recvmsg, connected.fileno(), BAD, 0), (libc.sendmsg, connected.fileno(), BAD, 0),
                  (libc.send, connected.fileno(), BAD, 1, 0), (libc.write, connected.fileno(), BAD, 1),
                  (libc.poll, BAD, 1, 1000), (libc.poll, BAD, -1, 1000),
                  (libc.ppoll, BAD, 1, second, None), (libc.ppoll, BAD, 1, second, BAD),
                  (libc.nanosleep, BAD, None), (libc.nanosleep, timespec.pack(1, -1), None),
                  (libc.clock_nanosleep, 1, 0, BAD, None), (libc.clock_nanosleep, 99, 0, second, None)]
        for n in (1, 64, 65, 1024, 2000, 2**31 - 1, -1):
            for sets in ((BAD, None, None), (None, BAD, None), (None, None, BAD)):
                calls += [(libc.select, n, *sets, second), (libc.pselect, n, *sets, second, None)]
        libc.nanosleep.argtypes = [ctypes.c_void_p] * 2
        libc.clock_nanosleep.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        libc.select.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 4
        libc.pselect.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 5

        def outcomes():
            found = []
            for function, *arguments in calls:
                ctypes.set_errno(0)
                found.append((function(*arguments), os.strerror(ctypes.get_errno())))
            return found
        natively = []
        ended = patcher.original("_thread").allocate_lock()
        ended.acquire()
        def make_all():
            natively.extend(outcomes())
            ended.release()
        patcher.original("_thread").start_new_thread(make_all, ())  # which has no loop
        ended.acquire()
        in_task = evergreen.spawn(outcomes).result()
        for call, expected, got in zip(calls, natively, in_task):
            assert got == expected, (call[0].__name__, call[1:], expected, got)
        """
    )


def test_select_touches_no_more_of_a_set_than_the_table_of_descriptors_is_long(run):
    run(
        """
        import mmap
        libc.select.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 4
        libc.pselect.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 5
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        def size():
            return int(open("/proc/self/status").read().split("FDSize:")[1].split()[0])
        memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + mmap.PAGESIZE
        assert libc.mprotect(end, mmap.PAGESIZE, 0) == 0
        def check(a, n, name):
            r = a.fileno()
            fds = end - size() // 8
            word = ctypes.c_ubyte.from_address(fds + r // 8)
            word.value |= 1 << r % 8
            wait = struct.pack("ll", 0, 1000)  # ns or us
            rest = [None] if name == "pselect" else []
            found = getattr(libc, name)(n, fds, None, None, wait, *rest)
            assert (found, word.value, ctypes.get_errno()) == (0, 0, 0)
            word.value |= 1 << r % 8
            task = evergreen.spawn(getattr(libc, name), n, None, fds, None, None, *rest)
            assert task.result() == 1 and word.value == 1 << r % 8
            word.value = 0
        for copies in (0, 100, 1000):
            kept = [os.dup(0) for i in range(copies)]
            a, b = socket.socketpair()
            for n in (size() - 1, size(), size() + 1, 5000, 100_000, 2**31 - 1):
                for name in ("select", "pselect"):
                    evergreen.spawn(check, a, n, name).result()
        """
    )


def test_peeking_for_all_and_a_low_mark_wait_for_so_much(run):
    run(
        """
        buffer = ctypes.create_string_buffer(8)
        server = socket.create_server(("127.0.0.1", 0))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
        for pair in "tcp", "unix":
            if pair == "tcp":
                a = socket.create_connection(server.getsockname())
                b = server.accept()[0]
            else:
                a, b = socket.socketpair()
                libc.setsockopt(b.fileno(), socket.SOL_SOCKET, socket.SO_RCVLOWAT, struct.pack("i", 4), 4)
            for call, least in ((libc.recv, 4), (libc.read, 4)):
                task = evergreen.spawn(call, b.fileno(), buffer, 8, 0)
                settle()
                for byte in range(3):
                    a.send(b"x")
                    evergreen.sleep(0.01)
                    assert task.is_alive()
                a.send(b"x")
                assert task.result() == 4
            if pair == "tcp":
                task = evergreen.spawn(libc.recv, b.fileno(), buffer, 8, socket.MSG_PEEK | socket.MSG_WAITALL)
                settle()
                a.send(b"12345")
                evergreen.sleep(0.01)
                assert task.is_alive()
                a.send(b"678")
                assert task.result() == 8 and b.recv(8) == b"12345678" == buffer.raw
                task = evergreen.spawn(libc.recv, b.fileno(), buffer, 8, socket.MSG_PEEK | socket.MSG_WAITALL)
                settle()
                a.send(b"12")
                a.close()
                assert task.result() == 2  # no more will come
        """
    )
