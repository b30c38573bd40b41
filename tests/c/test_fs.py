"""fs.c: the table of file system operations, and how a request ends."""

import errno
import gc
import inspect
import os
import pty
import resource
import signal
import socket
import stat
import threading
import weakref
from pathlib import Path

import greenlet
import pytest
from helpers import in_thread, output_of, settle, slow_file, threads_in_open

from evergreen import Task, TaskExit, offload_to, sleep, spawn
from evergreen import _evergreen_c as core
from evergreen.event import Event
from evergreen.io import fs
from evergreen.timeout import Timeout


@pytest.fixture(autouse=True)
def nothing_left(hub):
    """Each test ends with as many descriptors as it began with, and no request on its way."""
    fs.listdir()  # makes what is made once: the bell of the lanes, the set of descriptors
    with socket.socket() as unconnected:
        core.wait_fd(unconnected, 2)
    before = len(os.listdir("/proc/self/fd"))
    yield
    with Timeout(10):
        while hub.stats()["requests"]:
            sleep(0.001)
        while len(os.listdir("/proc/self/fd")) != before:
            sleep(0.001)


@pytest.fixture
def stuck(tmp_path):
    """A lane with one thread, and that is stuck: it opens a file whose disk does not answer."""
    limit = core.work_limit("file", 1)
    with slow_file(tmp_path / "stuck") as release:
        victim = spawn(fs.open, tmp_path / "stuck", os.O_RDONLY)
        while threads_in_open() == 0:
            sleep(0.001)
        victim.file, victim.release = tmp_path / "stuck", release
        yield victim
        release()
        try:
            os.close(victim.result())
        except (TaskExit, OSError):
            pass
        core.work_limit("file", limit)


# ---- results -----------------------------------------------------------------------------------


def test_stat_is_what_os_says(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    os.utime(path, ns=(1_234_567_890_123_456_789, -1_500_000_000))
    os.symlink(path, tmp_path / "link")
    names = [name for name in dir(os.stat_result) if name.startswith("st_")]
    fd = os.open(path, os.O_RDONLY)
    pairs = [
        (fs.stat(path), os.stat(path)),
        (fs.lstat(tmp_path / "link"), os.lstat(tmp_path / "link")),
        (fs.fstat(fd), os.fstat(fd)),
        (fs.stat(b"/"), os.stat("/")),
    ]
    os.close(fd)
    for ours, theirs in pairs:
        assert type(ours) is os.stat_result
        assert tuple(ours) == tuple(theirs)
        assert {name: getattr(ours, name) for name in names} == {
            name: getattr(theirs, name) for name in names
        }


def test_statvfs_is_what_os_says():
    ours, theirs = fs.statvfs("/proc"), os.statvfs("/proc")
    assert type(ours) is os.statvfs_result
    assert (tuple(ours), ours.f_fsid) == (tuple(theirs), theirs.f_fsid)
    assert fs.statfs is fs.statvfs


def test_open_write_read_and_close(tmp_path):
    fd = fs.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    assert os.get_inheritable(fd) is False
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    assert fs.write(fd, b"hello ") == 6
    assert fs.write(fd, memoryview(bytearray(b"world"))) == 5
    assert fs.write(fd, b"H", 0) == 1
    assert fs.read(fd, 100) == b""
    assert fs.read(fd, 5, 0) == b"Hello"
    assert fs.read(fd, 100, 6) == b"world"
    assert fs.read(fd, 100, offset=100) == b""
    os.lseek(fd, 0, os.SEEK_SET)
    assert fs.read(fd, 6) == b"Hello "
    assert fs.read(fd, 6) == b"world"
    assert fs.read(fd, 0) == b""
    assert fs.close(fd) is None
    with pytest.raises(OSError) as caught:
        os.fstat(fd)
    assert caught.value.errno == errno.EBADF


def test_readinto_fills_a_buffer(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    fd = os.open(path, os.O_RDONLY)
    buffer = bytearray(10)
    assert fs.readinto(fd, buffer, 95) == 5
    assert bytes(buffer) == bytes([95, 96, 97, 98, 99, 0, 0, 0, 0, 0])
    assert fs.readinto(fd, memoryview(buffer)[5:]) == 5
    assert bytes(buffer[5:]) == bytes(range(5))
    os.close(fd)
    with pytest.raises(TypeError):
        fs.readinto(0, b"read-only")


def test_names_are_of_the_kind_that_was_asked_with(tmp_path):
    (tmp_path / "b").write_text("")
    (tmp_path / "a").mkdir()
    os.symlink("b", tmp_path / "link")
    assert fs.listdir(tmp_path) == ["a", "b", "link"]
    assert fs.listdir(os.fsencode(tmp_path)) == [b"a", b"b", b"link"]
    assert fs.listdir() == sorted(os.listdir())
    assert fs.listdir(None) == sorted(os.listdir())
    assert fs.readlink(tmp_path / "link") == "b"
    assert fs.readlink(os.fsencode(tmp_path / "link")) == b"b"
    assert fs.realpath(tmp_path / "link") == os.path.realpath(tmp_path / "b")
    made = fs.mkdtemp(os.fsencode(tmp_path / "dir-XXXXXX"))
    assert isinstance(made, bytes) and stat.S_IMODE(os.stat(made).st_mode) == 0o700
    fd, made = fs.mkstemp(tmp_path / "file-XXXXXX")
    assert os.path.samestat(os.fstat(fd), os.stat(made))
    assert os.get_inheritable(fd) is False
    os.close(fd)


def test_a_name_that_is_no_text_comes_back_as_os_shows_it(tmp_path):
    (tmp_path / os.fsdecode(b"\xff")).write_text("")
    assert fs.listdir(tmp_path) == os.listdir(tmp_path)
    assert fs.stat(tmp_path / os.fsdecode(b"\xff")).st_size == 0


def test_the_rest_of_the_table(tmp_path):
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    a.write_bytes(b"contents")
    a.chmod(0o755)
    assert fs.copyfile(a, b) == str(b)
    assert (b.read_bytes(), stat.S_IMODE(b.stat().st_mode)) == (b"contents", 0o755)
    fs.rename(b, c)
    assert not b.exists()
    fs.link(c, b)
    assert b.samefile(c)
    fs.unlink(c)
    fs.symlink("b", c)
    assert os.readlink(c) == "b"
    fs.chmod(b, 0o600)
    assert stat.S_IMODE(b.stat().st_mode) == 0o600
    fs.utime(b, (1.5, 2.5))
    assert (b.stat().st_atime, b.stat().st_mtime) == (1.5, 2.5)
    fs.utime(b, ns=(-1, 5))
    assert (b.stat().st_atime_ns, b.stat().st_mtime_ns) == (-1, 5)
    fs.utime(c, ns=(1, 2), follow_symlinks=False)
    assert (os.lstat(c).st_mtime_ns, b.stat().st_mtime_ns) == (2, 5)
    fs.utime(b)
    assert b.stat().st_mtime_ns > a.stat().st_ctime_ns - 10**9
    with pytest.raises(ValueError):
        fs.utime(b, (1, 2), ns=(1, 2))
    with open(b) as opened:
        fs.futime(opened, (3.5, 4.5))
        assert (b.stat().st_atime, b.stat().st_mtime) == (3.5, 4.5)
        fs.futime(opened, ns=(-1, 6))
        assert (b.stat().st_atime_ns, b.stat().st_mtime_ns) == (-1, 6)
        fs.futime(opened)
        assert b.stat().st_mtime_ns > a.stat().st_ctime_ns - 10**9
    with pytest.raises(OSError) as closed:
        fs.futime(10**6)
    assert closed.value.errno == errno.EBADF
    assert fs.access(b, os.R_OK | os.W_OK) is True
    assert fs.access(tmp_path / "nowhere", os.F_OK) is False
    fs.chown(b, -1, os.getgid())
    fs.lchown(c, os.getuid(), -1)
    fd = os.open(b, os.O_RDWR)
    fs.fchown(fd, -1, -1)
    fs.fchmod(fd, 0o644)
    assert stat.S_IMODE(b.stat().st_mode) == 0o644
    fs.ftruncate(fd, 3)
    assert b.read_bytes() == b"con"
    fs.fsync(fd)
    fs.fdatasync(fd)
    os.close(fd)
    fs.mkdir(tmp_path / "dir", 0o700)
    assert stat.S_IMODE((tmp_path / "dir").stat().st_mode) == 0o700
    fs.rmdir(tmp_path / "dir")
    assert not (tmp_path / "dir").exists()


def test_sendfile_copies_between_descriptors(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 100_000)
    fd = os.open(path, os.O_RDONLY)
    here, there = socket.socketpair()
    here.setblocking(False)
    received = []

    def receive():
        there.settimeout(30)
        while data := there.recv(65536):
            received.append(data)

    thread = threading.Thread(target=receive)
    thread.start()
    sent = 0
    while n := fs.sendfile(here, fd, sent, 1 << 30):
        sent += n
    here.close()
    thread.join(30)
    there.close()
    assert b"".join(received) == path.read_bytes()
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    assert fs.sendfile(out, fd, None, 7) == 7
    assert fs.sendfile(out, fd, None, 3) == 3
    os.close(out)
    os.close(fd)
    assert (tmp_path / "out").read_bytes() == b"0123456789"


def test_every_operation_tells_its_signature():
    for name, function in vars(core).items():
        if name.startswith("fs_"):
            parameters = list(inspect.signature(function).parameters)
            assert parameters[-1] == "callback", name
            assert function.__module__ == "evergreen.io.fs"


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [str, os.fsencode, Path], ids=["str", "bytes", "path"])
@pytest.mark.parametrize(
    "name, extra",
    [
        ("open", (os.O_RDONLY,)),
        ("stat", ()),
        ("unlink", ()),
        ("listdir", ()),
        ("chmod", (0,)),
        ("rename", None),
    ],
)
def test_errors_are_those_of_os(tmp_path, make, name, extra):
    path = make(tmp_path / "nowhere")
    extra = (path,) if extra is None else extra
    with pytest.raises(FileNotFoundError) as theirs:
        getattr(os, name)(path, *extra)
    with pytest.raises(FileNotFoundError) as ours:
        getattr(fs, name)(path, *extra)
    assert str(ours.value) == str(theirs.value)
    assert ours.value.args == theirs.value.args
    assert ours.value.filename == theirs.value.filename
    assert ours.value.filename2 == theirs.value.filename2


def test_errors_of_other_kinds(tmp_path):
    with pytest.raises(IsADirectoryError):
        fs.open(tmp_path, os.O_WRONLY)
    with pytest.raises(NotADirectoryError):
        fs.listdir("/dev/null")
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        fs.read(fd, 1)
    os.close(fd)
    for call in (
        lambda: fs.read(fd, 1),
        lambda: fs.write(fd, b"x"),
        lambda: fs.close(fd),
        lambda: fs.fstat(fd),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert (caught.value.errno, caught.value.filename) == (errno.EBADF, None)
    with pytest.raises(OSError) as caught:
        fs.mkdtemp(tmp_path / "no-template")
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: fs.open(), TypeError),
        (lambda: fs.open(1.5), TypeError),
        (lambda: fs.open("a\0b"), ValueError),
        (lambda: fs.open("a", flags="r"), TypeError),
        (lambda: fs.open("a", 0, 0, 0), TypeError),
        (lambda: fs.open("a", path="b"), TypeError),
        (lambda: fs.open("a", nothing=1), TypeError),
        (lambda: fs.open("a", 1 << 40), OverflowError),
        (lambda: fs.read(0, -1), ValueError),
        (lambda: fs.read(0, 1 << 100), OverflowError),
        (lambda: fs.read(0, 1, -1), ValueError),
        (lambda: fs.read("0", 1), TypeError),
        (lambda: fs.read(-1, 1), ValueError),
        (lambda: fs.write(0, "text"), TypeError),
        (lambda: fs.write(0, 5), TypeError),
        (lambda: fs.stat("/", callback=5), TypeError),
    ],
)
def test_bad_arguments_are_told(call, error):
    with pytest.raises(error):
        call()


def test_a_full_disk_is_an_error():
    fd = fs.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError) as caught:
        fs.write(fd, b"x")
    fs.close(fd)
    assert caught.value.errno == errno.ENOSPC


def test_a_file_size_limit_is_an_error(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    fd = fs.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert fs.write(fd, b"x" * 1500) == 1000
        with pytest.raises(OSError) as caught:
            fs.write(fd, b"x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        fs.close(fd)
    assert caught.value.errno == errno.EFBIG


def test_too_many_open_files_is_an_error():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) // 2, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            fs.open("/dev/null")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.errno == errno.EMFILE


# ---- waiting ---------------------------------------------------------------------------------------


def test_others_run_while_a_call_blocks(stuck):
    ran = []
    spawn(ran.append, 1)
    settle()
    assert ran == [1]
    assert stuck.waiting[:2] == ("open", str(stuck.file))
    stuck.release()
    os.fstat(stuck.result())


def test_a_lane_whose_threads_do_not_come_back_grows(stuck, tmp_path):
    assert [spawn(fs.stat, tmp_path).result(10) for _ in range(3)] == [os.stat(tmp_path)] * 3
    assert stuck.is_alive()


def test_a_call_waits_for_a_thread_when_all_are_busy(stuck, tmp_path):
    waiting = spawn(fs.stat, tmp_path)
    settle()
    assert waiting.is_alive()
    stuck.release()
    assert waiting.result() == os.stat(tmp_path)


def test_a_killed_call_that_was_not_begun_is_not_made(stuck, tmp_path):
    victim = spawn(fs.mkdir, tmp_path / "never")
    settle()
    victim.kill()
    with pytest.raises(TaskExit):
        victim.result()
    stuck.release()
    stuck.join()
    assert fs.listdir(tmp_path) == ["stuck"]


def test_a_killed_open_closes_what_it_opens(stuck):
    stuck.kill()
    assert stuck.join(10)
    stuck.release()  # nothing_left() sees that the descriptor goes away


def test_a_timeout_ends_a_wait(stuck):
    with pytest.raises(Timeout):
        with Timeout(0.002):
            fs.stat("/")


def test_an_open_that_ended_before_its_task_was_killed_is_closed(hub, tmp_path):
    (tmp_path / "file").write_text("")
    victim = spawn(fs.open, tmp_path / "file")
    settle()

    def poll():  # from a callback: what comes in is handled after it
        if hub.stats()["requests"] and victim.is_alive():
            hub.call_soon(poll)
        else:
            victim.kill()

    hub.call_soon(poll)
    while victim.is_alive():
        sleep(0)
    try:
        os.close(victim.result())
    except TaskExit:
        pass  # nothing_left() sees that the descriptor is closed


def test_close_is_done_although_the_task_is_killed(stuck, tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    victim = spawn(fs.close, fd)
    settle()
    victim.kill()
    with pytest.raises(TaskExit):
        victim.result()
    stuck.release()
    while fd_is_open(fd):
        sleep(0.001)


def fd_is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_close_is_done_by_a_task_that_is_being_killed(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)

    def work():
        in_thread(Task.current().kill)  # it takes effect at the next wait, which is close()
        fs.close(fd)

    with pytest.raises(TaskExit):
        spawn(work).result()
    assert not fd_is_open(fd)


def test_close_in_a_callback_closes(hub, tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    hub.call_soon(fs.close, fd)
    settle()
    assert not fd_is_open(fd)


def test_closing_wakes_those_who_read():
    read_end, write_end = os.pipe()
    reader = spawn(fs.read, read_end, 1)
    settle()
    fs.close(read_end)
    with pytest.raises(OSError) as caught:
        reader.result()
    os.close(write_end)
    assert caught.value.errno == errno.EBADF


def test_a_blocking_call_in_a_callback_is_refused(hub, tmp_path):
    caught = []

    def callback():
        try:
            fs.stat(tmp_path)
        except RuntimeError as exc:
            caught.append(str(exc))

    hub.call_soon(callback)
    settle()
    assert "block the event loop" in caught[0]


def test_a_read_of_what_the_page_cache_has_starts_no_request(hub, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 10000)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    got, buffer = [], bytearray(10)
    hub.call_soon(lambda: got.append(fs.read(fd, 4096, 0)))  # where nothing may wait
    hub.call_soon(lambda: got.append(fs.read(fd, 20000, 0)))
    hub.call_soon(lambda: got.append(fs.readinto(fd, buffer)))
    settle()
    os.close(fd)
    assert [len(got[0]), len(got[1]), got[2]] == [4096, 10000, 10]


def test_a_read_of_what_is_on_the_disk_alone(tmp_path):
    path = tmp_path / "file"
    data = os.urandom(1 << 20)
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    for offset in (0, 100_000, None):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(fd, 10, 0)  # some of it is in memory again
        assert fs.read(fd, 1 << 21, offset) == data[offset or 0 :]
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.pread(fd, 10, 0)
    buffer = bytearray(1 << 20)
    assert fs.readinto(fd, buffer, 0) == 1 << 20
    assert buffer == data
    os.close(fd)


def test_closing_a_pipe_needs_no_thread(stuck):
    read_end, write_end = os.pipe()
    fs.close(read_end)
    fs.close(write_end)
    assert not fd_is_open(read_end)


def test_a_big_read_is_not_made_on_the_loops_thread(hub, stuck, tmp_path):
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    reader = spawn(fs.read, fd, 3_000_000, 0)
    settle()
    assert reader.is_alive()
    stuck.release()
    assert reader.result() == bytes(3_000_000)
    os.close(fd)


def test_warm_reads_let_others_run(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    seen = []
    spawn(seen.append, 1)
    while not seen:
        fs.read(fd, 1, 0)
    os.close(fd)


def test_a_pipe_is_waited_for_in_no_thread(stuck):
    read_end, write_end = os.pipe()
    readers = [spawn(fs.read, read_end, 5) for _ in range(3)]
    settle()
    assert {reader.waiting[0] for reader in readers} == {"readable"}
    assert fs.write(write_end, b"helloworld!") == 11
    assert [reader.result() for reader in readers] == [b"hello", b"world", b"!"]
    os.close(write_end)
    assert fs.read(read_end, 1) == b""
    os.close(read_end)


def test_writing_to_a_full_pipe_waits(stuck):
    read_end, write_end = os.pipe()
    data = b"x" * 300_000
    sent = [0]

    def write():
        while sent[0] < len(data):
            sent[0] += fs.write(write_end, data[sent[0] :])

    writer = spawn(write)
    settle()
    assert 0 < sent[0] < len(data)
    received = 0
    while received < len(data):
        received += len(fs.read(read_end, 65536))
    writer.result()
    os.close(read_end)
    with pytest.raises(BrokenPipeError):
        fs.write(write_end, b"x")
    os.close(write_end)


def test_offsets_are_refused_by_what_has_none():
    read_end, write_end = os.pipe()
    for call in (lambda: fs.read(read_end, 1, 0), lambda: fs.write(write_end, b"x", 0)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ESPIPE
    os.close(read_end)
    os.close(write_end)


def test_many_calls_at_once(tmp_path):
    def work(number):
        path = tmp_path / str(number)
        fd = fs.open(path, os.O_RDWR | os.O_CREAT)
        try:
            fs.write(fd, b"%d" % number)
            return fs.read(fd, 100, 0)
        finally:
            fs.close(fd)
            fs.unlink(path)

    tasks = [spawn(work, number) for number in range(500)]
    assert [task.result() for task in tasks] == [b"%d" % number for number in range(500)]
    assert fs.listdir(tmp_path) == []


def test_a_thread_without_a_loop_just_does_it(tmp_path):
    def work():
        fd = fs.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        fs.write(fd, b"abc")
        buffer = bytearray(2)
        fs.readinto(fd, buffer, 0)
        data = fs.read(fd, 10, 1)
        fs.close(fd)
        with pytest.raises(FileNotFoundError):
            fs.stat(tmp_path / "nowhere")
        with pytest.raises(RuntimeError, match="no event loop"):
            fs.stat(tmp_path, callback=print)
        return bytes(buffer), data, fs.listdir(tmp_path), core.loop_here()

    assert in_thread(work) == (b"ab", b"bc", ["file"], None)


# ---- callbacks -------------------------------------------------------------------------------------


def test_a_callback_gets_the_request(hub, tmp_path):
    done = Event()
    seen = []

    def callback(request):
        seen.append((request, greenlet.getcurrent(), request.result))
        done.set()

    request = fs.stat(tmp_path, callback=callback)
    assert (request.loop, request.path, request.result, request.error) == (hub, str(tmp_path), None, None)
    assert request.done is False
    request.mine = "an attribute"
    done.wait()
    assert seen == [(request, hub.greenlet, os.stat(tmp_path))]
    assert request.result == os.stat(tmp_path)
    assert (request.error, request.done, request.mine) == (None, True, "an attribute")
    assert request.cancel() is False


def call(function, *args):
    """Start an operation with a callback; wait, and return its request."""
    done = Event()
    request = function(*args, callback=lambda request: done.set())
    done.wait()
    assert request.done
    return request


def test_an_error_is_the_requests(tmp_path):
    request = call(fs.open, tmp_path / "nowhere")
    assert request.result is None
    assert isinstance(request.error, FileNotFoundError)
    assert request.error.filename == str(tmp_path / "nowhere")


def test_every_kind_of_result_comes_to_a_callback(tmp_path):
    fd = call(fs.open, tmp_path / "file", os.O_RDWR | os.O_CREAT).result
    assert call(fs.write, fd, b"data").result == 4
    assert call(fs.read, fd, 10, 0).result == b"data"
    buffer = bytearray(10)
    assert call(fs.readinto, fd, buffer, 2).result == 2
    assert buffer[:2] == b"ta"
    assert call(fs.close, fd).result is None
    assert call(fs.listdir, tmp_path).result == ["file"]
    assert [entry.name for entry in call(fs.scandir, tmp_path).result] == ["file"]
    assert call(fs.access, tmp_path, os.R_OK).result is True
    directory = call(fs.opendir, tmp_path).result
    assert [entry.name for entry in call(fs.readdir, directory).result] == ["file"]
    assert call(fs.readdir, directory).result == []
    assert call(fs.closedir, directory).result is None
    assert directory.closed
    read_end, write_end = os.pipe()
    os.write(write_end, b"pipe")
    assert call(fs.read, read_end, 10).result == b"pipe"
    os.close(read_end)
    os.close(write_end)


def test_what_a_callback_raises_goes_to_the_excepthook(hub, tmp_path):
    reported, hook = [], hub.excepthook
    hub.excepthook = reported.append

    def callback(request):
        raise ValueError("in a callback")

    request = fs.stat(tmp_path, callback=callback)
    while not request.done:
        sleep(0.001)
    hub.excepthook = hook
    assert str(reported.pop().exc_value) == "in a callback"


def test_a_request_that_nobody_holds_is_called_back(tmp_path):
    done = Event()
    fs.stat(tmp_path, callback=lambda request: done.set())
    gc.collect()
    assert done.wait(10)


def test_a_request_that_is_over_is_freed(tmp_path):
    request = call(fs.stat, tmp_path)
    request.itself = request
    gone = weakref.ref(request)
    del request
    gc.collect()
    assert gone() is None


def test_cancel_before_it_begins(stuck, tmp_path):
    seen = []
    request = fs.mkdir(tmp_path / "never", callback=seen.append)
    assert request.cancel() is True
    settle()
    assert seen == [request]
    assert request.error.errno == errno.ECANCELED
    stuck.release()
    assert fs.listdir(tmp_path) == ["stuck"]


def test_cancel_while_it_is_under_way(stuck, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    done = Event()
    request = fs.open(tmp_path / "fifo", os.O_RDONLY, callback=lambda request: done.set())
    while threads_in_open() < 2:
        sleep(0.001)
    assert request.cancel() is True
    settle()
    assert request.done is False
    os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
    done.wait()
    assert (request.result, request.error.errno) == (None, errno.ECANCELED)


def test_cancel_from_another_thread(stuck, tmp_path):
    done = Event()
    request = fs.stat(tmp_path, callback=lambda request: done.set())
    assert in_thread(request.cancel) is True
    assert done.wait(10)
    assert request.error.errno == errno.ECANCELED


def test_many_waits_without_end_keep_no_operation_from_a_thread(hub, tmp_path):
    limit = core.work_limit("file", 2)
    os.mkfifo(tmp_path / "fifo")
    pipes = [os.pipe() for _ in range(8)]
    full_r, full_w = os.pipe()
    fs.write(full_w, bytes(65536))
    terminal = pty.openpty()
    seen = []
    requests = [fs.read(r, 5, callback=seen.append) for r, _ in pipes]
    requests += [fs.readinto(r, bytearray(5), callback=seen.append) for r, _ in pipes]
    requests += [fs.write(full_w, bytes(4096), callback=seen.append) for _ in range(8)]
    requests += [fs.read(terminal[0], 5, callback=seen.append) for _ in range(8)]
    requests += [fs.open(tmp_path / "fifo", callback=seen.append) for _ in range(8)]
    requests += [fs.copyfile(tmp_path / "fifo", tmp_path / "copy", callback=seen.append)]
    tasks = [spawn(fs.open, tmp_path / "fifo") for _ in range(8)]
    assert fs.stat("/") == os.stat("/")
    assert offload_to("file", os.stat, "/") == os.stat("/")
    assert seen == []
    for _, w in pipes:
        os.write(w, b"helloworld")
    while len(seen) < 16:
        sleep(0.001)
    assert [request.result for request in requests[:16]] == [b"hello"] * 8 + [5] * 8
    for request in requests[16:32]:
        assert request.cancel() is True
    while len(seen) < 32:
        sleep(0.001)
    assert {request.error.errno for request in seen[16:]} == {errno.ECANCELED}
    writer = os.open(tmp_path / "fifo", os.O_RDWR)
    opened = [task.result() for task in tasks]
    os.close(writer)
    while len(seen) < len(requests):
        sleep(0.001)
    assert (requests[-1].result, os.stat(tmp_path / "copy").st_size) == (str(tmp_path / "copy"), 0)
    opened += [request.result for request in requests[32:-1]]
    for fd in [*opened, *terminal, full_r, full_w, *(end for pipe in pipes for end in pipe)]:
        os.close(fd)
    core.work_limit("file", limit)


def test_a_request_that_waits_for_a_descriptor_hears_of_its_end(hub):
    r, w = os.pipe()
    seen = []
    fs.read(r, 5, callback=seen.append)
    fs.close(r)
    while not seen:
        sleep(0)
    assert seen[0].error.errno == errno.EBADF
    os.close(w)


def test_run_waits_for_requests(hub, tmp_path):
    request = fs.stat(tmp_path, callback=lambda request: None)
    hub.run()
    assert request.result == os.stat(tmp_path)


def test_requests_of_two_loops(hub, tmp_path):
    from evergreen import run

    def work():
        return [len(fs.listdir(tmp_path)) for _ in range(50)]

    other = threading.Thread(target=run, args=(work,))
    other.start()
    assert work() == [0] * 50
    while other.is_alive():
        sleep(0.001)


# ---- the end of a loop, and fork -------------------------------------------------------------------


def test_a_loop_can_be_destroyed_with_requests_on_their_way(tmp_path):
    output_of(
        """
        import os, sys, time
        import evergreen
        from evergreen.io import fs

        fifo = sys.argv[1]
        os.mkfifo(fifo)
        called = []
        for turn in range(3):
            loop = evergreen.EventLoop()
            before = len(os.listdir("/proc/self/fd"))
            task = evergreen.spawn(fs.open, fifo)
            request = fs.open(fifo, callback=called.append)
            more = [fs.stat("/", callback=called.append) for _ in range(100)]
            while sum("wait_for_partner" in open(f"/proc/self/task/{thread}/wchan").read()
                      for thread in os.listdir("/proc/self/task")) < 2:
                evergreen.sleep(0.001)
            loop.destroy()
            assert not task.is_alive()
            os.close(os.open(fifo, os.O_WRONLY))  # the opens end now, for nobody
            deadline = time.monotonic() + 10
            while len(os.listdir("/proc/self/fd")) >= before:  # less the loop's own
                assert time.monotonic() < deadline
                time.sleep(0.001)
        assert fs.listdir("/")
        """,
        tmp_path / "fifo",
    )


def test_what_was_to_be_closed_is_closed_with_the_loop(tmp_path):
    output_of(
        """
        import os, sys
        import evergreen
        from evergreen import _evergreen_c as core
        from evergreen.io import fs

        core.work_limit("file", 1)
        os.mkfifo(sys.argv[1])
        loop = evergreen.EventLoop()
        evergreen.spawn(fs.open, sys.argv[1])  # nobody opens the other end
        evergreen.sleep(0.01)
        fds = [os.open("/", os.O_RDONLY) for _ in range(2)]
        evergreen.spawn(fs.close, fds[0])
        fs.close(fds[1], callback=print)
        evergreen.sleep(0.01)
        loop.destroy()
        for fd in fds:
            try:
                os.fstat(fd)
            except OSError:
                continue
            print("open", file=sys.stderr)
        """,
        tmp_path / "fifo",
    )


def test_a_process_ends_while_a_call_is_stuck(tmp_path):
    output_of(
        """
        import os, sys
        import evergreen
        from evergreen.io import fs

        os.mkfifo(sys.argv[1])
        evergreen.spawn(fs.open, sys.argv[1])
        evergreen.sleep(0.01)
        """,
        tmp_path / "fifo",
    )


QUIET = ("-W", "ignore::DeprecationWarning")  # of a fork in a process with threads


def test_a_forked_child_has_threads_of_its_own(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    out = output_of(
        """
        import os, sys
        import evergreen
        from evergreen.io import fs

        stuck = evergreen.spawn(fs.open, sys.argv[1])
        evergreen.sleep(0.01)
        pid = os.fork()
        if pid == 0:
            print(fs.stat("/") == os.stat("/"), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print(fs.stat("/") == os.stat("/"))
        """,
        tmp_path / "fifo",
        options=QUIET,
    )
    assert out == "True\nTrue\n"


def test_kept_tasks_of_a_forked_child_are_told_that_their_calls_are_lost(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    out = output_of(
        """
        import os, sys
        import evergreen
        from evergreen.io import fs

        stuck = evergreen.spawn(fs.open, sys.argv[1])
        evergreen.sleep(0.01)
        pid = evergreen.fork(keep_tasks=True)
        if pid == 0:
            try:
                stuck.result()
            except OSError as exc:
                print(exc.strerror, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        stuck.kill()
        """,
        tmp_path / "fifo",
        options=QUIET,
    )
    assert out == "Operation canceled\n"


LIMITS = [2**bits + more for bits in (31, 32, 63, 64) for more in (-1, 0)]


@pytest.mark.parametrize("number", [0, -1, *LIMITS, *(-n for n in LIMITS), 1.5, float("nan"), float("inf")])
def test_modes_users_and_times_at_their_limits_are_as_in_os(hub, tmp_path, number):
    def outcome(function, *args, **kwargs):
        path.write_text("")
        path.chmod(0o600)
        try:
            function(path, *args, **kwargs)
        except Exception as exc:
            return type(exc)
        return path.stat().st_mode, path.stat().st_uid, path.stat().st_gid

    path = tmp_path / "file"
    assert outcome(fs.chmod, number) == outcome(os.chmod, number)
    assert outcome(fs.chown, number, -1) == outcome(os.chown, number, -1)
    assert outcome(fs.chown, -1, number) == outcome(os.chown, -1, number)


@pytest.mark.parametrize("ns", [0, -1, -999_999_999, -(10**9), 2**63 - 1, -(2**63), -(2**63) + 1])
def test_times_at_the_limits_of_int64_are_exact(hub, tmp_path, ns):
    path = Path("/dev/shm/evergreen-limits") if os.path.isdir("/dev/shm") else tmp_path / "file"
    path.touch()
    try:
        fs.utime(path, ns=(ns, ns))
        here = path.stat().st_mtime_ns
        os.utime(path, ns=(ns, ns))
        assert here == path.stat().st_mtime_ns
    finally:
        path.unlink()
