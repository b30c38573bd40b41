"""patch_file.c: opening a FIFO, and with files=True regular files, let other tasks run."""

import errno
import functools
import io
import os
import socket
import stat
from pathlib import Path

import pytest
from helpers import in_thread, output_of, parked, settle, slow_file, threads_in_open

import evergreen
from evergreen import TaskExit, patcher, sleep, spawn
from evergreen import _evergreen_c as core
from evergreen.io import fs
from evergreen.timeout import Timeout


class EarlyFile(io.FileIO):
    """Made before anything is patched, with the __init__ of its base."""


class EarlyInit(io.FileIO):
    """The same, calling it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


@pytest.fixture
def patched(hub):
    with patcher.patched(os=True):
        yield hub


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


@pytest.fixture
def descriptors(patched, tmp_path):
    """Afterwards there are as many as before, once what was left to end has ended."""
    fs.listdir(tmp_path)  # makes what is made once: the bell of the lanes, the set of descriptors
    with socket.socket() as unconnected:
        core.wait_fd(unconnected, 2)
    before = len(os.listdir("/proc/self/fd"))
    yield
    with Timeout(10):
        while patched.stats()["requests"] or len(os.listdir("/proc/self/fd")) != before:
            sleep(0.001)


def with_files(test):
    """Patched for the test alone: pytest uses files, too, and there may be no thread for them."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        with patcher.patched(files=True):
            test(*args, **kwargs)

    return run


@pytest.fixture
def busy(hub, tmp_path):
    """The threads of the file lane, one of each kind, are busy until release() is called."""
    before = core.work_limit("file", 1), evergreen.lane_limit("file", 1)
    path = tmp_path / "slow"
    with slow_file(path) as answer:
        victims = [spawn(fs.open, path), spawn(evergreen.offload_to, "file", native("open"), path, 0)]
        while threads_in_open() < 2:
            sleep(0.001)
        released = []

        def release():
            answer()
            for victim in victims:
                os.close(victim.result())
            released.append(True)

        yield release
        if not released:
            release()
    path.unlink()
    evergreen.lane_limit("file", before[1])
    core.work_limit("file", before[0])


def native(name):
    return core.patch_native("posix", name)


# ---- FIFOs ------------------------------------------------------------------------------


def descriptor(opened):
    """The number of an open file, which is closed without closing that."""
    if isinstance(opened, int):
        return opened
    copy = os.dup(opened.fileno())
    opened.close()
    return copy


OPENERS = {
    "open": lambda path: open(path, "rb"),
    "open of bytes": lambda path: open(os.fsencode(path), "rb", buffering=0),
    "FileIO": lambda path: io.FileIO(str(path)),
    "FileIO of keywords": lambda path: io.FileIO(file=path, mode="rb"),
    "subclass": lambda path: EarlyFile(path),
    "subclass with __init__": lambda path: EarlyInit(path, "r"),
    "Path.open": lambda path: path.open("rb", buffering=0),
    "os.open": lambda path: os.open(path, os.O_RDONLY),
    "os.open of keywords": lambda path: os.open(path=path, flags=os.O_RDONLY, mode=0o600, dir_fd=None),
    "io.open_code": lambda path: io.open_code(str(path)),
}


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
def test_opening_a_fifo_lets_other_tasks_run(descriptors, fifo, opener):
    task = parked(opener, fifo)
    assert task.waiting[0] == "open"
    writer = os.open(fifo, os.O_WRONLY)  # does not block: the other end is there
    reader = descriptor(task.result())
    os.write(writer, b"hello")
    assert os.read(reader, 10) == b"hello"
    assert os.get_inheritable(reader) is False
    os.close(reader)
    os.close(writer)


def test_two_tasks_meet_at_a_fifo(descriptors, fifo):
    def write():
        with open(fifo, "w") as file:
            return file.write("hello\n")

    def read():
        with open(fifo) as file:
            return file.read()

    reader = spawn(read)
    assert (spawn(write).result(), reader.result()) == (6, "hello\n")


def test_a_fifo_relative_to_a_directory(descriptors, fifo):
    folder = os.open(fifo.parent, os.O_RDONLY | os.O_DIRECTORY)
    task = parked(os.open, fifo.name, os.O_WRONLY, dir_fd=folder)
    os.close(os.open(fifo, os.O_RDONLY))
    os.close(task.result())
    os.close(folder)


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
def test_a_task_that_is_killed_while_it_opens_leaves_no_descriptor(descriptors, fifo, opener):
    task = parked(opener, fifo)
    while not threads_in_open():
        sleep(0.001)
    task.kill()
    with pytest.raises(TaskExit):
        task.result()
    os.close(os.open(fifo, os.O_WRONLY))  # what was begun ends with this: see the fixture


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK, os.O_RDONLY | os.O_PATH])
def test_what_does_not_wait_for_the_other_end_is_opened_at_once(descriptors, fifo, flags):
    ran = []
    task = spawn(ran.append, 1)
    os.close(os.open(fifo, flags))
    assert not ran
    task.join()


def test_a_non_blocking_writer_without_a_reader_fails_as_ever(patched, fifo):
    with pytest.raises(OSError) as caught:
        os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    assert caught.value.errno == errno.ENXIO


@with_files
def test_fifos_delay_no_files(hub, fifo, tmp_path):
    before = core.work_limit("file", 1)
    openers = [parked(open, fifo, "rb", 0) for _ in range(3)]
    (tmp_path / "file").write_bytes(b"hello")
    assert (tmp_path / "file").read_bytes() == b"hello"
    assert all(opener.is_alive() for opener in openers)
    os.close(os.open(fifo, os.O_WRONLY))
    for opener in openers:
        opener.result().close()
    core.work_limit("file", before)


def test_a_native_thread_opens_a_fifo_natively(patched, fifo):
    def both_ends():
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        os.close(os.open(fifo, os.O_WRONLY))
        os.close(reader)
        return core.loop_here()

    assert in_thread(both_ends) is None


def test_a_device_is_opened_as_ever(descriptors):
    with open("/dev/null", "wb", 0) as null, open("/dev/ptmx", "rb+", 0) as terminal:
        assert null.write(b"hello") == 5
        assert terminal.isatty()


@pytest.mark.parametrize("group", ["os", "files"])
@pytest.mark.parametrize("name", ["absent", b"absent", Path("absent"), "file/absent", "a\0b", "\udcff"])
def test_errors_are_those_of_the_native_calls(hub, tmp_path, monkeypatch, group, name):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    calls = [
        lambda: open(name),
        lambda: io.FileIO(name),
        lambda: io.FileIO(name, "q"),
        lambda: io.FileIO(name, "r", False),
        lambda: os.open(name, os.O_RDONLY),
        lambda: os.stat(name),
        lambda: os.rename(name, "other"),
    ]

    def errors():
        found = []
        for call in calls:
            with pytest.raises((OSError, ValueError)) as caught:
                call()
            exc = caught.value
            found.append(
                (type(exc), str(exc), getattr(exc, "filename", None), getattr(exc, "filename2", None))
            )
        return found

    native = errors()
    with patcher.patched(**{group: True}):
        assert errors() == native


def test_audit_hooks_see_what_they_always_saw(tmp_path):
    code = """
    import os, sys
    from evergreen import patcher
    seen = []
    os.mkfifo("fifo")
    sys.addaudithook(lambda event, args: event == "open" and "fifo" in str(args[0]) and seen.append(args))

    def both():
        ends = os.open("fifo", os.O_RDWR), open("fifo", "rb", 0)
        ends[1].close()
        ends = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK), os.open("fifo", os.O_WRONLY)
        result = list(seen)
        seen.clear()
        return result

    native = both()
    for group in ("os", "files"):
        with patcher.patched(**{group: True}):
            assert both() == native, (group, native)
    print(len(native))
    """
    assert (
        output_of(code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
        == "4\n"
    )


# ---- regular files -------------------------------------------------------------------------


def test_files_are_native_unless_asked_for(tmp_path, busy):
    with patcher.patched():
        assert not patcher.is_patched("files")
        (tmp_path / "file").write_bytes(b"hello")  # there is no thread to wait for
        assert (tmp_path / "file").stat().st_size == 5


OPERATIONS = {
    "open": lambda path, fd: open(path).close(),
    "os.open": lambda path, fd: os.close(os.open(path, os.O_RDONLY)),
    "FileIO.write": lambda path, fd: io.FileIO(fd, "w", closefd=False).write(b"HELLO"),
    "FileIO.truncate": lambda path, fd: io.FileIO(fd, "w", closefd=False).truncate(3),
    "text": lambda path, fd: open(fd, "w", closefd=False).write("HELLO"),
    "os.write": lambda path, fd: os.write(fd, b"HELLO"),
    "os.writev": lambda path, fd: os.writev(fd, [b"HEL", b"LO"]),
    "os.pwrite": lambda path, fd: os.pwrite(fd, b"HELLO", 0),
    "os.pwritev": lambda path, fd: os.pwritev(fd, [b"HELLO"], 0),
    "os.readv": lambda path, fd: os.readv(fd, [bytearray(3)]),
    "os.preadv": lambda path, fd: os.preadv(fd, [bytearray(3)], 1),
    "os.fsync": lambda path, fd: os.fsync(fd),
    "os.fdatasync": lambda path, fd: os.fdatasync(fd),
    "os.ftruncate": lambda path, fd: os.ftruncate(fd, 3),
    "os.truncate": lambda path, fd: os.truncate(path, 3),
    "os.stat": lambda path, fd: os.stat(path),
    "os.lstat": lambda path, fd: os.lstat(path),
    "os.access": lambda path, fd: os.access(path, os.R_OK),
    "os.listdir": lambda path, fd: os.listdir(path.parent),
    "os.scandir": lambda path, fd: os.scandir(path.parent).close(),
    "os.mkdir": lambda path, fd: os.mkdir(f"{path}-folder"),
    "os.rename": lambda path, fd: os.rename(path, f"{path}-new"),
    "os.unlink": lambda path, fd: os.unlink(path),
    "os.remove": lambda path, fd: os.remove(path),
    "os.utime": lambda path, fd: os.utime(path, (1, 2)),
    "os.chmod": lambda path, fd: os.chmod(path, 0o600),
    "os.symlink": lambda path, fd: os.symlink(path, f"{path}-link"),
    "Path.exists": lambda path, fd: path.exists(),
    "os.path.getsize": lambda path, fd: os.path.getsize(path),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@with_files
def test_an_operation_that_takes_long_lets_other_tasks_run(tmp_path, busy, operation):
    path = tmp_path / "file"
    fd = native("open")(path, os.O_RDWR | os.O_CREAT)
    ticks = []

    def tick():
        while True:
            ticks.append(1)
            sleep(0.001)

    ticker = spawn(tick)
    task = parked(operation, path, fd)
    while len(ticks) < 5:
        sleep(0.001)
    assert task.is_alive()
    busy()
    task.result()
    ticker.kill()
    os.close(fd)


@pytest.fixture
def cold(tmp_path):
    """A file that the page cache does not have."""
    files = []
    for name in ("probe", "cold"):
        fd = os.open(tmp_path / name, os.O_RDWR | os.O_CREAT)
        os.write(fd, bytes(range(256)) * 256)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        files.append(fd)
    try:
        os.preadv(files[0], [bytearray(1)], 0, os.RWF_NOWAIT)  # the kernel then begins to read it
    except BlockingIOError:
        os.lseek(files[1], 0, os.SEEK_SET)
        yield files[1]
    else:
        pytest.skip("this file system keeps all it has in memory, or cannot say so")
    finally:
        for fd in files:
            os.close(fd)


READERS = {
    "FileIO.read": lambda fd: io.FileIO(fd, closefd=False).read(4096),
    "FileIO.readall": lambda fd: io.FileIO(fd, closefd=False).readall(),
    "BufferedReader.read": lambda fd: open(fd, "rb", closefd=False).read(),
    "BufferedReader.readinto": lambda fd: open(fd, "rb", closefd=False).readinto(bytearray(100)),
    "text": lambda fd: open(fd, encoding="utf-8", errors="replace", closefd=False).readline(),
    "os.read": lambda fd: os.read(fd, 100),
    "os.pread": lambda fd: os.pread(fd, 100, 5000),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@with_files
def test_reading_what_is_not_in_memory_lets_other_tasks_run(cold, busy, reader):
    task = parked(reader, cold)
    assert task.waiting[0] == "read"
    busy()
    got = task.result()
    os.lseek(cold, 0, os.SEEK_SET)
    patcher.unpatch(files=True)
    assert got == reader(cold)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@with_files
def test_what_the_page_cache_has_is_read_at_once(tmp_path, busy, reader):
    path = tmp_path / "file"
    fd = native("open")(path, os.O_RDWR | os.O_CREAT)
    native("write")(fd, b"line\n" * 2000)
    os.lseek(fd, 0, os.SEEK_SET)
    assert reader(fd)  # no thread is free to do it
    os.close(fd)


@with_files
def test_a_killed_write_that_was_not_begun_writes_nothing(tmp_path, busy):
    path = tmp_path / "file"
    fd = native("open")(path, os.O_RDWR | os.O_CREAT)
    task = parked(os.write, fd, b"hello")
    task.kill()
    task.join()
    busy()
    assert os.fstat(fd).st_size == 0
    os.close(fd)


@with_files
def test_a_killed_open_that_was_not_begun_makes_nothing(tmp_path, busy):
    task = parked(open, tmp_path / "file", "w")
    task.kill()
    task.join()
    busy()
    assert not (tmp_path / "file").exists()


@with_files
def test_the_memory_of_a_killed_reader_is_left_alone(cold, busy):
    into = bytearray(100)
    task = parked(io.FileIO(cold, closefd=False).readinto, into)
    task.kill()
    task.join()
    busy()
    assert into == bytes(100)


@with_files
def test_two_tasks_share_a_buffered_file(tmp_path, busy):
    with open(native("open")(tmp_path / "file", os.O_RDWR | os.O_CREAT), "rb+", 64) as file:
        first = parked(file.write, b"a" * 100)
        others = [parked(file.write, b"b"), parked(file.seek, 0), parked(file.tell), parked(file.read, 1)]
        busy()
        assert first.result() == 100
        for other in others:
            other.result()
        file.seek(0)
        assert file.read(100) == b"a" * 100


@with_files
def test_appending_and_positions(hub, tmp_path):
    path = tmp_path / "file"
    with open(path, "wb") as file:
        assert (file.write(b"hello"), file.tell()) == (5, 5)
    with open(path, "ab") as file:
        assert (file.tell(), file.write(b" world"), file.tell()) == (5, 6, 11)
    with open(path, "rb+", buffering=0) as file:
        assert (file.seek(6), file.read(3), file.tell(), file.truncate()) == (6, b"wor", 9, 9)
        assert (file.read(), file.readall(), file.readinto(bytearray(3))) == (b"", b"", 0)
    assert path.read_text() == "hello wor"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@with_files
def test_files_in_a_callback_are_native(hub, tmp_path):
    found = []

    def callback():
        (tmp_path / "file").write_bytes(b"hello")
        found.append((tmp_path / "file").read_bytes())

    hub.call_soon(callback)
    settle()
    assert found == [b"hello"]


def test_importing_in_two_tasks_at_once(tmp_path):
    for name in "ab":
        (tmp_path / f"module_{name}.py").write_text(f"import time, module_c\nname = '{name}'\n")
    (tmp_path / "module_c.py").write_text("import time\ntime.sleep(0.01)\nname = 'c'\n")
    code = """
    import importlib, sys
    import evergreen
    from evergreen import patcher
    patcher.patch(files=True)
    sys.path.insert(0, sys.argv[1])
    tasks = [evergreen.spawn(importlib.import_module, f"module_{name}") for name in "abcab"]
    print([task.result().name for task in tasks])
    """
    assert output_of(code, tmp_path) == "['a', 'b', 'c', 'a', 'b']\n"
