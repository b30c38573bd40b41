"""patch_os.c: descriptors and children let other tasks run while they are waited for."""

import errno
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import syslog
import termios
import threading
import time
import tty

import pytest
from helpers import in_thread, parked, settle

import evergreen
from evergreen import _threads, patcher, spawn

BIG = bytes(range(256)) * 12_000  # much more than a pipe holds


@pytest.fixture
def patched(hub):
    with patcher.patched(os=True, select=True):
        yield hub


@pytest.fixture
def pipe(patched):
    r, w = os.pipe()
    yield r, w
    for fd in (r, w):
        try:
            os.close(fd)
        except OSError:
            pass  # the test did


@pytest.fixture
def terminal(patched):
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield master, slave
    os.close(master)
    os.close(slave)


@pytest.fixture(params=["pipe", "socket", "terminal", "fifo"])
def channel(request, tmp_path, patched):
    """The two descriptors of anything that is no regular file: to read from, and to write to."""
    if request.param == "pipe":
        r, w = os.pipe()
    elif request.param == "socket":
        r, w = (end.detach() for end in socket.socketpair())
    elif request.param == "terminal":
        r, w = pty.openpty()
        tty.setraw(w)
    else:
        os.mkfifo(tmp_path / "fifo")
        r = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        w = os.open(tmp_path / "fifo", os.O_WRONLY)
        os.set_blocking(r, True)
    yield r, w
    for fd in (r, w):
        try:
            os.close(fd)
        except OSError:
            pass  # the test did


def fill(fd):
    """Write until the kernel takes no more; return how much that was."""
    os.set_blocking(fd, False)
    sent = 0
    try:
        while True:
            sent += os.write(fd, bytes(4096))
    except BlockingIOError:
        os.set_blocking(fd, True)
        return sent


def read_all(fd, size):
    got = b""
    while len(got) < size:
        got += os.read(fd, 100_000)
    return got


def sleeper(seconds=60):
    """A child that sleeps."""
    return subprocess.Popen(["sleep", str(seconds)])


# ---- reading --------------------------------------------------------------------------------


def test_read_lets_other_tasks_run_until_data_comes(channel):
    r, w = channel
    task = parked(os.read, r, 10)
    os.write(w, b"hello")
    assert task.result() == b"hello"


def test_read_is_woken_by_a_native_thread(pipe):
    r, w = pipe
    task = parked(os.read, r, 10)
    in_thread(os.write, w, b"hello")
    assert task.result() == b"hello"


def test_read_returns_nothing_at_the_end(pipe):
    r, w = pipe
    task = parked(os.read, r, 10)
    os.close(w)
    assert task.result() == b""


def test_two_tasks_may_read_one_pipe(pipe):
    r, w = pipe
    tasks = [parked(os.read, r, 1) for _ in range(2)]
    os.write(w, b"ab")
    assert sorted(task.result() for task in tasks) == [b"a", b"b"]


def test_a_call_on_the_wrong_end_of_a_pipe_fails_at_once(pipe):
    r, w = pipe
    with open(__file__, "rb") as file:
        for call, *arguments in (
            (os.read, w, 1),
            (os.readv, w, [bytearray(1)]),
            (os.write, r, b"x"),
            (os.writev, r, [b"x"]),
            (os.sendfile, r, file.fileno(), 0, 1),
        ):
            with pytest.raises(OSError) as caught:
                spawn(call, *arguments).result(2)
            assert caught.value.errno == errno.EBADF


def test_readv_lets_other_tasks_run(channel):
    r, w = channel
    buffers = [bytearray(3), bytearray(3)]
    task = parked(os.readv, r, buffers)
    os.write(w, b"hello")
    assert task.result() == 5
    assert buffers == [b"hel", b"lo\0"]


def test_a_killed_read_loses_nothing(channel):
    r, w = channel
    task = parked(os.read, r, 10)
    task.kill()
    task.join()
    os.write(w, b"hello")
    assert os.read(r, 10) == b"hello"


def test_read_of_an_eventfd_waits_for_it(patched):
    fd = os.eventfd(0)
    task = parked(os.read, fd, 8)
    os.eventfd_write(fd, 3)
    assert int.from_bytes(task.result(), sys.byteorder) == 3
    os.close(fd)


def test_regular_files_are_read_at_once(patched, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    ran = []
    evergreen.sleep(0)
    task = spawn(ran.append, 1)
    fd = os.open(path, os.O_RDWR)
    assert os.read(fd, 10) == b"hello"
    assert os.write(fd, BIG) == len(BIG)
    os.close(fd)
    assert not ran
    task.join()


def test_a_busy_reader_lets_others_have_their_turn(patched):
    fd = os.open("/dev/zero", os.O_RDONLY)
    ran = []
    task = spawn(ran.append, 1)
    for _ in range(100):
        os.read(fd, 1)
    assert ran
    task.join()
    os.close(fd)


def test_what_the_program_made_non_blocking_does_not_wait(channel):
    r, w = channel
    for fd in channel:
        os.set_blocking(fd, False)
    with pytest.raises(BlockingIOError):
        os.read(r, 1)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(w, bytes(1000))


def test_the_mode_of_a_descriptor_is_not_touched(channel):
    r, w = channel
    flags = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in channel]
    task = parked(os.read, r, 1)
    assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in channel] == flags
    os.write(w, b"x")
    task.join()
    assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in channel] == flags


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((-1, 1), OSError),
        ((10_000, 1), OSError),
        (("0", 1), TypeError),
        ((0, "1"), TypeError),
        ((0, -1), OSError),
        ((0, 1 << 70), OverflowError),
        ((0,), TypeError),
    ],
)
def test_bad_arguments_are_refused_in_the_words_of_python(hub, args, error):
    with pytest.raises(error) as native:
        os.read(*args)
    with patcher.patched(os=True), pytest.raises(error) as ours:
        os.read(*args)
    assert str(ours.value) == str(native.value)


# ---- writing --------------------------------------------------------------------------------


def test_write_waits_until_all_is_taken(channel):
    r, w = channel
    task = parked(os.write, w, BIG)
    assert read_all(r, len(BIG)) == BIG
    assert task.result() == len(BIG)


def test_writev_waits_until_all_is_taken(channel):
    r, w = channel
    task = parked(os.writev, w, [BIG[:1000], bytearray(), memoryview(BIG)[1000:]])
    assert read_all(r, len(BIG)) == BIG
    assert task.result() == len(BIG)


def test_writev_refuses_what_is_no_buffer(pipe):
    with pytest.raises(TypeError):
        os.writev(pipe[1], ["text"])


def test_small_writes_to_a_full_pipe_are_not_torn(pipe):
    r, w = pipe
    size = fill(w)
    tasks = [parked(os.write, w, letter * 4096) for letter in (b"a", b"b", b"c")]
    rest = read_all(r, size + 3 * 4096)[size:]
    assert sorted(rest[i : i + 4096] for i in range(0, len(rest), 4096)) == [
        letter * 4096 for letter in (b"a", b"b", b"c")
    ]
    for task in tasks:
        assert task.result() == 4096


def test_write_to_a_pipe_that_nobody_reads_is_an_error(pipe):
    r, w = pipe
    fill(w)
    task = parked(os.write, w, b"x")
    os.close(r)
    with pytest.raises(BrokenPipeError):
        task.result()


def test_write_says_how_much_went_before_the_pipe_broke(pipe):
    r, w = pipe
    task = parked(os.write, w, BIG)
    os.close(r)
    assert 0 < task.result() < len(BIG)


def test_write_in_a_callback_blocks_as_ever(patched):
    r, w = os.pipe()
    done = []
    patched.call_soon(lambda: done.append(os.write(w, b"hello")))
    settle()
    assert done == [5]
    os.close(r)
    os.close(w)


@pytest.mark.parametrize("kind", ["tcp", "unix", "pipe"])
def test_sendfile_never_blocks_the_thread(patched, tmp_path, kind):
    path = tmp_path / "file"
    path.write_bytes(BIG)
    if kind == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as server:
            a = socket.create_connection(server.getsockname())
            b = server.accept()[0]
        r, w = a.detach(), b.detach()
    else:
        r, w = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())

    def send():
        at = 0
        while at < len(BIG):
            at += os.sendfile(w, file.fileno(), at, len(BIG) - at)

    with open(path, "rb") as file:
        task = parked(send)
        assert read_all(r, len(BIG)) == BIG
        task.join()
        os.lseek(file.fileno(), 17, os.SEEK_SET)
        assert os.sendfile(out_fd=w, in_fd=file.fileno(), offset=None, count=10) == 10
        assert os.read(r, 10) == BIG[17:27]
    os.close(r)
    os.close(w)


# ---- closing --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "closerange", "dup2"])
def test_closing_wakes_who_waits(pipe, how):
    r, w = pipe
    task = parked(os.read, r, 1)
    if how == "close":
        os.close(r)
    elif how == "closerange":
        os.closerange(r, r + 1)
    else:
        os.dup2(w, r)
    with pytest.raises(OSError) as caught:
        task.result()
    assert caught.value.errno == errno.EBADF


def test_dup2_of_nothing_closes_nothing(pipe):
    r, w = pipe
    task = parked(os.read, r, 1)
    with pytest.raises(OSError):
        os.dup2(10_000, r)
    os.dup2(r, r)
    settle()
    assert task.is_alive()
    os.write(w, b"x")
    assert task.result() == b"x"


# ---- children -------------------------------------------------------------------------------


def test_children_are_waited_for_together(patched):
    with patcher.patched():
        start = time.monotonic()
        tasks = [spawn(subprocess.run, ["sleep", "0.2"]) for _ in range(20)]
        assert [task.result().returncode for task in tasks] == [0] * 20
        assert time.monotonic() - start < 2  # one after the other they take 4


@pytest.mark.parametrize(
    "wait",
    [
        lambda pid: os.waitpid(pid, 0),
        lambda pid: os.waitpid(-1, 0),
        lambda pid: os.waitpid(0, 0),
        lambda pid: os.waitpid(pid, os.WUNTRACED),
        lambda pid: os.wait(),
        lambda pid: os.wait3(0)[:2],
        lambda pid: os.wait3(options=0)[:2],
        lambda pid: os.wait4(pid, 0)[:2],
        lambda pid: os.wait4(pid=pid, options=0)[:2],
    ],
)
def test_waiting_lets_other_tasks_run_and_finds_the_child(patched, wait):
    child = sleeper()
    task = parked(wait, child.pid)
    os.kill(child.pid, signal.SIGTERM)
    assert task.result() == (child.pid, signal.SIGTERM)
    with pytest.raises(ChildProcessError):
        wait(child.pid)
    child.returncode = 0


@pytest.mark.parametrize("kind", ["pid", "pidfd", "all"])
def test_waitid_lets_other_tasks_run(patched, kind):
    child = sleeper()
    fd = os.pidfd_open(child.pid)
    which = {"pid": (os.P_PID, child.pid), "pidfd": (os.P_PIDFD, fd), "all": (os.P_ALL, 0)}[kind]
    task = parked(os.waitid, *which, os.WEXITED | os.WNOWAIT)
    os.kill(child.pid, signal.SIGKILL)
    assert task.result().si_status == signal.SIGKILL
    assert os.waitid(*which, os.WEXITED).si_pid == child.pid  # WNOWAIT had left it
    os.close(fd)
    child.returncode = 0


def test_a_stopped_child_is_reported_to_who_asked(patched):
    child = sleeper()
    task = parked(os.waitpid, child.pid, os.WUNTRACED)
    os.kill(child.pid, signal.SIGSTOP)
    pid, status = task.result()
    assert pid == child.pid and os.WIFSTOPPED(status)
    child.kill()
    assert child.wait() == -signal.SIGKILL


def test_a_killed_wait_takes_no_child(patched):
    child = sleeper()
    for args in ((child.pid, 0), (-1, 0)):
        task = parked(os.waitpid, *args)
        task.kill()
        task.join()
    child.terminate()
    assert child.wait() == -signal.SIGTERM


def test_wnohang_does_not_wait(patched):
    child = sleeper()
    assert os.waitpid(child.pid, os.WNOHANG) == (0, 0)
    assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG) is None
    child.kill()
    child.wait()


def test_waiting_for_no_child_is_an_error(patched):
    for wait in (os.wait, lambda: os.waitpid(-1, 0), lambda: os.waitpid(1, 0)):
        with pytest.raises(ChildProcessError):
            wait()


def test_communicate_feeds_and_reads_at_once(patched):
    task = spawn(subprocess.run, ["cat"], input=BIG, capture_output=True)
    ticks = 0
    while task.is_alive():
        evergreen.sleep(0.0001)
        ticks += 1
    assert task.result().stdout == BIG
    assert ticks > 1


def test_the_timeout_of_a_child_holds(patched):
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "60"], timeout=0.01)


@pytest.mark.parametrize(
    "poll",
    [
        lambda pid: os.waitpid(pid, os.WNOHANG)[0],
        lambda pid: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG),
    ],
)
def test_who_polls_for_a_child_lets_others_run(patched, poll):
    read, write = os.pipe()
    child = subprocess.Popen(["cat"], stdin=read)
    os.close(read)
    task, end = spawn(lambda: (evergreen.sleep(0.001), os.close(write))), time.monotonic() + 10
    while not poll(child.pid):
        assert time.monotonic() < end
    child.returncode = 0  # it is gone
    task.join()


@pytest.mark.parametrize("call", [lambda: syslog.syslog(syslog.LOG_DEBUG, "unseen"), syslog.openlog])
def test_syslog_lets_other_tasks_run(patched, call):
    mask = syslog.setlogmask(syslog.LOG_MASK(syslog.LOG_EMERG))
    try:
        others = spawn(lambda: None)
        call()
        assert not others.is_alive()
    finally:
        syslog.closelog()
        syslog.setlogmask(mask)


def test_system_and_popen_let_other_tasks_run(patched):
    system = parked(os.system, "read line < /dev/null; sleep 0.05; exit 3")
    assert os.waitstatus_to_exitcode(system.result()) == 3
    with os.popen("sleep 0.02; echo hello") as stream:
        assert parked(stream.read).result() == "hello\n"


# ---- locks of files ---------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    opened = [open(path, "r+") for _ in range(3)]
    yield opened
    for file in opened:
        file.close()


def idle():
    """Wait until no native thread of ours has work."""
    while _threads.slow._waiting != _threads.slow._threads:
        evergreen.sleep(0.001)


def test_flock_lets_other_tasks_run(patched, files):
    fcntl.flock(files[0], fcntl.LOCK_EX)
    task = parked(fcntl.flock, files[1], fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        fcntl.flock(files[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(files[0], fcntl.LOCK_UN)
    task.join()
    with pytest.raises(BlockingIOError):
        fcntl.flock(files[0], fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_killed_flock_takes_no_lock(patched, files):
    fcntl.flock(files[0], fcntl.LOCK_EX)
    task = parked(fcntl.flock, files[1], fcntl.LOCK_EX)
    task.kill()
    task.join()
    fcntl.flock(files[0], fcntl.LOCK_UN)
    idle()
    fcntl.flock(files[2], fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("how", ["fcntl", "os"])
def test_lockf_lets_other_tasks_run(patched, files, how):
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, 2); print(1, flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code, files[0].name], stdin=-1, stdout=-1, text=True)
    assert child.stdout.readline() == "1\n"
    if how == "fcntl":
        task = parked(fcntl.lockf, files[1], fcntl.LOCK_EX)
    else:
        task = parked(os.lockf, files[1].fileno(), os.F_LOCK, 0)
    child.communicate("\n")
    task.join()


# ---- where no task runs -----------------------------------------------------------------------


def test_native_threads_block_as_ever(pipe):
    r, w = pipe
    got = []
    thread = threading.Thread(target=lambda: got.append(os.read(r, 5)))
    thread.start()
    os.write(w, b"hello")
    thread.join()
    assert got == [b"hello"]


def test_a_pty_talks_to_itself_in_one_thread(terminal):
    master, slave = terminal
    task = parked(os.write, slave, BIG)
    assert read_all(master, len(BIG)) == BIG
    assert task.result() == len(BIG)
    assert select.select([master], [], [], 0) == ([], [], [])


# ---- eventfd, splice, locks by fcntl(), terminals ------------------------------------------------------


def test_reading_an_eventfd_lets_other_tasks_run(patched):
    fd = os.eventfd(0)
    readers = [parked(os.eventfd_read, fd) for _ in range(2)]
    os.eventfd_write(fd, 3)
    assert readers[0].result() == 3
    os.eventfd_write(fd, 4)
    assert readers[1].result() == 4
    os.eventfd_write(fd, 2**64 - 2)
    writer = parked(os.eventfd_write, fd, 1)
    assert os.eventfd_read(fd) == 2**64 - 2
    writer.join()
    assert os.eventfd_read(fd=fd) == 1
    nonblocking = os.eventfd(0, os.EFD_NONBLOCK)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(nonblocking)
    os.close(fd)
    os.close(nonblocking)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_splicing_lets_other_tasks_run(patched, kind):
    r, w = os.pipe()
    a, b = (end.detach() for end in socket.socketpair()) if kind == "socket" else reversed(os.pipe())
    task = parked(os.splice, r, a, 100)
    os.write(w, b"hello")
    assert task.result() == 5
    assert os.read(b, 9) == b"hello"

    def pump():
        moved = 0
        while moved < 3_000_000:
            moved += os.splice(src=r, dst=a, count=1 << 20)
        return moved

    pumping, writing = spawn(pump), spawn(os.write, w, bytes(3_000_000))
    received = 0
    while received < 3_000_000:
        received += len(os.read(b, 65536))
    assert (pumping.result(), writing.result()) == (3_000_000, 3_000_000)
    with pytest.raises(OSError):
        os.splice(w, a, 1)
    with pytest.raises(BlockingIOError):
        os.splice(r, a, 1, flags=os.SPLICE_F_NONBLOCK)
    for fd in (r, w, a, b):
        os.close(fd)


@pytest.mark.parametrize("command", ["F_SETLKW", "F_OFD_SETLKW"])
def test_a_lock_by_fcntl_lets_other_tasks_run(patched, tmp_path, command):
    if not hasattr(fcntl, command):
        pytest.skip(f"this Python's fcntl has no {command}")
    path = tmp_path / "file"
    path.write_bytes(b"x")
    code = f"import fcntl; f = open({str(path)!r}, 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with open(path, "r+") as file:
        task = parked(fcntl.fcntl, file, getattr(fcntl, command), lock)
        victim = parked(fcntl.fcntl, file.fileno(), getattr(fcntl, command), lock)
        victim.kill()
        victim.join()
        assert task.is_alive()
        holder.communicate(b"\n")
        assert task.result(10) == lock
        assert fcntl.fcntl(file, getattr(fcntl, command), lock) == lock


def test_draining_a_terminal_lets_other_tasks_run(terminal):
    master, slave = terminal
    ran = []
    spawn(ran.append, 1)
    termios.tcdrain(slave)
    assert ran == [1]
    attributes = termios.tcgetattr(slave)
    for when in (termios.TCSANOW, termios.TCSADRAIN, termios.TCSAFLUSH):
        termios.tcsetattr(slave, when, attributes)
    with pytest.raises(termios.error):
        termios.tcdrain(99999)
