"""port.c: the libuv loop of a hub, and the descriptors that it stands on."""

import textwrap

import pytest
from helpers import output_of, run_python

PRELUDE = """
import ctypes, os, resource, signal, socket, sys, threading
import evergreen
from evergreen import _evergreen_c as core, EventLoop, patcher, sleep, spawn
from evergreen.event import Event
from evergreen.io import fs, tcp

libc = ctypes.CDLL(None)
start_native_thread = core.patch_native("_thread", "start_new_thread")
native_sleep = core.patch_native("time", "sleep")

def numbers():
    return set(map(int, os.listdir("/proc/self/fd"))) - {0, 1, 2}

class Echo(tcp.TCPServer):
    def handle_connection(self, connection):
        connection.write(connection.read_bytes(5))

def check():
    "Timers, threads, files, sockets, streams and signals work."
    sleep(0.001)
    event = Event()
    start_native_thread(event.set, ())
    assert event.wait(10)
    assert fs.stat("/")
    here, there = socket.socketpair()
    task = spawn(core.wait_fd, here, 1, 10)
    sleep(0)
    os.write(there.fileno(), b"x")
    assert task.result() is True
    here.close(), there.close()
    server = Echo()
    server.bind(("127.0.0.1", 0))
    serving = spawn(server.serve)
    sleep(0)
    client = tcp.TCPClient()
    client.connect(server.sockname)
    client.write(b"hello")
    assert client.read_bytes(5) == b"hello"
    client.close()
    server.close()
    event = Event()
    signal.signal(signal.SIGALRM, lambda *frame: event.set())
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    assert event.wait(10)

def wait_for(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def take_all():
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return taken
"""
QUIET = ("-W", "ignore::DeprecationWarning")


def play(code, *args):
    return output_of(PRELUDE + textwrap.dedent(code), *args, timeout=40, options=QUIET)


# ---- descriptors of the loop's own that are closed, or mean other files --------------------------

CLOSERS = {
    "closefrom, in C": "libc.closefrom(3)",
    "each one, in C": "[libc.close(fd) for fd in range(3, 1024)]",
    "dup2 over each one, in C": "[libc.dup2(file, fd) for fd in own]",
    "os.closerange": "os.closerange(3, 1024)",
    "os.closerange of all there may be": "os.closerange(3, 2**31 - 1)",
    "os.close": "close_each()",
    "os.dup2": "[os.dup2(file, fd) for fd in own]",
}
CLOSE = """
def close_each():
    for fd in range(3, 1024):
        try:
            os.close(fd)
        except OSError:
            pass

if sys.argv[2] == "patched":
    patcher.patch()
before = numbers()
check()
own = numbers() - before
path = f"/tmp/evergreen-{os.getpid()}"
file = os.open(path, os.O_CREAT | os.O_RDWR)
os.unlink(path)
"""


@pytest.mark.parametrize("patched", ["patched", "unpatched"])
@pytest.mark.parametrize("closer", CLOSERS)
def test_a_loop_goes_on_after_its_own_descriptors_were_closed_or_given_to_others(closer, patched):
    out = play(
        CLOSE
        + """
exec(sys.argv[1])
check()
if "dup2" in sys.argv[1]:
    assert os.fstat(file).st_size == 0  # no wake-up was written to what has the number now
print("well")
""",
        CLOSERS[closer],
        patched,
    )
    assert out == "well\n"


@pytest.mark.parametrize("patched", ["patched", "unpatched"])
@pytest.mark.parametrize("closer", CLOSERS)
def test_a_child_goes_on_after_the_loops_descriptors_were_closed_or_given_to_others(closer, patched):
    out = play(
        CLOSE
        + """
pid = os.fork()
if pid == 0:
    exec(sys.argv[1])
    check()
    pid = os.fork()
    if pid == 0:
        check()
        os._exit(7)
    os._exit(wait_for(pid))
check()
print(wait_for(pid))
""",
        CLOSERS[closer],
        patched,
    )
    assert out == "7\n"


def test_a_loop_that_sleeps_goes_on_after_a_native_thread_has_closed_its_descriptors():
    out = play(
        """
        check()
        def close():
            native_sleep(0.05)
            libc.closefrom(3)
            native_sleep(0.05)
            event.set()
        event = Event()
        start_native_thread(close, ())
        assert event.wait(10)
        check()
        print("well")
        """
    )
    assert out == "well\n"


def test_a_loop_whose_descriptors_were_closed_is_destroyed_without_harm():
    out = play(
        """
        for _ in range(3):
            check()
            file = os.open("/dev/null", os.O_RDONLY)
            libc.closefrom(file + 1)
            taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
            evergreen.current.loop.destroy()
            for fd in taken:
                os.close(fd)  # none was closed with the loop
            os.close(file)
        print("well")
        """
    )
    assert out == "well\n"


@pytest.mark.parametrize("closer", ["libc.close(fd)", "libc.dup2(file, fd)"])
@pytest.mark.parametrize("forks", [False, True])
def test_a_loop_goes_on_after_any_one_of_its_descriptors_was_closed_or_given_to_another(closer, forks):
    out = play(
        f"""
        import time
        patcher.patch()
        before = numbers()
        check()
        own = numbers() - before
        assert len(own) > 6
        file = os.open("/dev/null", os.O_RDWR)
        for fd in own:
            {closer}
            if {forks}:
                pid = os.fork()
                if pid == 0:
                    check()
                    os._exit(7)
                assert wait_for(pid) == 7
            check()
            began = time.process_time()
            sleep(0.1)
            assert time.process_time() - began < 0.09  # it does not go round and round
        print("well")
        """
    )
    assert out == "well\n"


@pytest.mark.parametrize("closer", ["libc.closefrom(3)", "os.closerange(3, 1024)"])
def test_files_that_have_the_numbers_of_the_loops_lost_descriptors_are_the_programs(closer):
    out = play(
        f"""
        before = numbers()
        check()
        own = numbers() - before
        {closer}
        patcher.patch()
        file = os.open("/dev/null", os.O_RDONLY)
        for fd in own:
            if fd != file:
                os.dup2(file, fd)
        os.set_inheritable(min(own), True)
        pid = os.fork()
        if pid == 0:
            for fd in own:
                assert os.path.realpath(f"/proc/self/fd/{{fd}}") == "/dev/null", fd
                assert os.get_inheritable(fd) == (fd in (min(own), *own - {{file}})), fd
                os.close(fd)
            check()
            os._exit(7)
        assert wait_for(pid) == 7
        for fd in own:
            os.close(fd)
        check()
        print("well")
        """
    )
    assert out == "well\n"


def test_close_and_closerange_spare_what_the_loop_stands_on():
    out = play(
        """
        patcher.patch(os=True, socket=True)
        before = numbers()
        sleep(0.001)
        own = numbers() - before
        assert own
        for fd in own:
            try:
                os.close(fd)
            except OSError as exc:
                assert exc.errno == 9
            else:
                raise AssertionError
        assert own <= numbers()
        mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
        os.closerange(3, 1024)
        assert numbers() - own <= {3}  # that of listdir()
        assert own <= numbers()
        print("well")
        """
    )
    assert out == "well\n"


# ---- closed standard streams ---------------------------------------------------------------------


def test_a_program_without_standard_streams_runs_forks_and_ends():
    code = PRELUDE + textwrap.dedent(
        """
        out = os.dup(2)
        os.close(0), os.close(1), os.close(2)
        check()
        pid = os.fork()
        if pid == 0:
            check()
            evergreen.current.loop.destroy()
            os._exit(7)
        assert wait_for(pid) == 7
        evergreen.current.loop.destroy()
        os.write(out, b"well")
        os._exit(0)
        """
    )
    child = run_python(code, options=QUIET)
    assert (child.returncode, child.stderr) == (0, "well")


# ---- no descriptors left -------------------------------------------------------------------------


@pytest.mark.parametrize("left", range(12))
def test_a_loop_for_which_there_are_no_descriptors_is_an_os_error(left):
    out = play(
        """
        left = int(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = take_all()
        for fd in taken[:left]:
            os.close(fd)
        try:
            sleep(0.001)
            spawn(sleep, 0.001).join()
            assert left >= 6, left
        except OSError as exc:
            assert exc.errno == 24 and left < 10, left
        for fd in taken[left:]:
            os.close(fd)
        check()
        print("well")
        """,
        left,
    )
    assert out == "well\n"


@pytest.mark.parametrize("limit", [64, 30, 10])
def test_a_child_without_descriptors_sleeps_waits_and_ends(limit):
    out = play(
        """
        check()
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
        taken = take_all()
        pid = os.fork()
        if pid == 0:
            sleep(0.02)
            event = Event()
            start_native_thread(event.set, ())
            assert event.wait(10)
            here = spawn(lambda: (sleep(0.001), 5)[1])
            assert here.result() == 5
            for _ in range(2):
                pid = os.fork()
                if pid == 0:
                    sleep(0.001)
                    os._exit(7)
                assert wait_for(pid) == 7
            os._exit(7)
        print(wait_for(pid))
        for fd in taken:
            os.close(fd)
        sleep(0.001)
        """,
        limit,
    )
    assert out == "7\n"


def test_a_child_whose_parent_had_no_descriptors_left_is_whole_when_some_are_free():
    out = play(
        """
        check()
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
        taken = take_all()
        pid = os.fork()
        if pid == 0:
            sleep(0.001)
            for fd in taken:
                os.close(fd)
            check()
            os._exit(7)
        print(wait_for(pid))
        """
    )
    assert out == "7\n"


def test_a_loop_that_was_lost_and_cannot_be_made_anew_goes_on_and_is_whole_later():
    out = play(
        """
        check()
        own = numbers()
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
        taken = take_all()
        for fd in own:
            libc.dup2(taken[0], fd)
        sleep(0.02)
        task = spawn(lambda: (sleep(0.001), 5)[1])
        assert task.result() == 5
        for fd in taken:
            os.close(fd)
        check()
        print("well")
        """
    )
    assert out == "well\n"


# ---- streams whose descriptor is closed ----------------------------------------------------------


@pytest.mark.parametrize("closer", ["libc.close", "os.close"])
def test_a_stream_whose_descriptor_was_closed_fails_and_aborts_nothing(closer):
    out = play(
        f"""
        server = Echo()
        server.bind(("127.0.0.1", 0))
        serving = spawn(server.serve)
        sleep(0)
        client = tcp.TCPClient()
        client.connect(server.sockname)
        for fd in numbers():
            if fd < 100 and os.path.exists(f"/proc/self/fd/{{fd}}"):
                {closer}(fd)
        for use in (lambda: (client.write(b"hello"), client.read_bytes(5)), serving.result):
            try:
                use()
            except OSError:
                print("failed")
        check()
        print("well")
        evergreen.current.loop.destroy()
        """
    )
    assert out == "failed\nfailed\nwell\n"


# ---- forks ----------------------------------------------------------------------------------------


def test_a_generation_of_forks_leaves_no_descriptor_behind():
    out = play(
        """
        def generation(k):
            sleep(0.001)
            fs.stat("/")
            print(len(numbers()), flush=True)
            if k == 4:
                return
            pid = os.fork()
            if pid == 0:
                generation(k + 1)
                os._exit(0)
            assert wait_for(pid) == 0
        generation(0)
        """
    )
    first, *others = map(int, out.split())
    assert len(set(others)) == 1
    assert others[0] <= first


def test_a_child_has_no_descriptors_of_loops_of_other_threads():
    out = play(
        """
        def other():
            EventLoop()
            check_quietly()
            ready.set()
            sleep(100)
        def check_quietly():
            here, there = socket.socketpair()
            core.wait_fd(here, 1, 0.001)
            fs.stat("/")
        check_quietly()
        pid = os.fork()
        if pid == 0:
            print(len(numbers()), flush=True)
            os._exit(7)
        wait_for(pid)
        ready = Event()
        start_native_thread(other, ())
        ready.wait(10)
        pid = os.fork()
        if pid == 0:
            print(len(numbers()), flush=True)
            os._exit(7)
        wait_for(pid)
        os._exit(0)
        """
    )
    alone, beside = out.split()
    assert alone == beside


def test_a_childs_loop_is_made_when_something_needs_it():
    out = play(
        """
        check()
        before = numbers()
        pid = os.fork()
        if pid == 0:
            forked = numbers()
            assert len(forked) < len(before)
            sleep(0.001)
            assert len(numbers()) > len(forked)
            os._exit(7)
        print(wait_for(pid))
        """
    )
    assert out == "7\n"


def test_the_loops_descriptors_stand_apart_from_those_that_programs_use():
    out = play(
        """
        before = numbers()
        sleep(0.001)
        own = sorted(numbers() - before)
        low = [fd for fd in own if fd < 100]
        assert len(own) > 4 and len(low) == 2, own  # a pipe that a child gives up for libuv's
        print("well")
        """
    )
    assert out == "well\n"
