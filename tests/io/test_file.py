"""evergreen/io/file.py: file objects."""

import builtins
import errno
import gc
import io
import os
import threading
import warnings

import pytest
from helpers import in_thread, output_of, settle

from evergreen import TaskExit, sleep, spawn
from evergreen.io import file, fs
from evergreen.timeout import Timeout


@pytest.fixture(autouse=True)
def nothing_left(hub):
    fs.listdir()
    yield
    with Timeout(10):
        while hub.stats()["requests"]:
            sleep(0.001)


# ---- like the builtin -----------------------------------------------------------------------------

TEXT = "first line\nzweite Zeile: äöü\r\nthird\rline \U0001f333\n" * 3000 + "no newline"


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
def test_text_is_read_as_the_builtin_reads_it(tmp_path, newline):
    (tmp_path / "file").write_bytes(TEXT.encode())

    def facts(open):
        with open(tmp_path / "file", encoding="utf-8", newline=newline) as f:
            first = [f.readline(), f.readline(5), f.tell(), f.read(7)]
            f.seek(first[2])
            return [*first, f.readlines(100), next(f), list(f), f.read(), f.newlines, f.encoding]

    assert facts(file.open) == facts(builtins.open)


@pytest.mark.parametrize("buffering", [-1, 0, 5, 100_000])
def test_bytes_are_read_as_the_builtin_reads_them(tmp_path, buffering):
    (tmp_path / "file").write_bytes(TEXT.encode())

    def facts(open):
        with open(tmp_path / "file", "rb", buffering) as f:
            found = [f.read(10), f.readline(), f.seek(100), f.tell(), f.read(0)]
            buffer = bytearray(20)
            found += [f.readinto(buffer), buffer, f.seek(-5, os.SEEK_END), f.read()]
            f.seek(0)
            return [*found, f.readlines(), f.read(), f.seekable(), f.writable(), f.readable(), f.isatty()]

    assert facts(file.open) == facts(builtins.open)


@pytest.mark.parametrize("mode", ["w", "wb", "a", "ab", "w+", "w+b", "r+", "r+b", "a+b", "x", "xb"])
def test_writing_leaves_what_the_builtin_leaves(tmp_path, mode):
    text = "b" not in mode

    def facts(open, name):
        path = tmp_path / name
        if "x" not in mode:
            path.write_bytes(b"what was there before")
        with open(path, mode) as f:
            found = [f.mode, f.write("one\n" if text else b"one\n"), f.tell()]
            f.writelines(["two", "three"] if text else [b"two", b"three"])
            f.flush()
            found.append(path.read_bytes())
            if "+" in mode:
                f.seek(2)
                found += [f.read(3), f.tell()]
                f.seek(4)
                f.write("W" if text else b"W")
            found += [f.tell(), f.truncate()]
        return [*found, path.read_bytes(), f.closed]

    assert facts(file.open, "ours") == facts(builtins.open, "theirs")


def test_line_buffering_writes_at_each_line(tmp_path):
    with file.open(tmp_path / "file", "w", 1) as f:
        f.write("one\ntw")
        assert (tmp_path / "file").read_text() == "one\ntw"
        f.write("o")
        assert (tmp_path / "file").read_text() == "one\ntw"


@pytest.mark.parametrize(
    "args",
    [
        ("/dev/null", "rw"),
        ("/dev/null", ""),
        ("/dev/null", "z"),
        ("/dev/null", "rr"),
        ("/dev/null", "rbt"),
        ("/dev/null", "r", 0),
        ("/dev/null", "rb", -1, "utf-8"),
        ("/dev/null", "rb", -1, None, "strict"),
        ("/dev/null", "rb", -1, None, None, "\n"),
        ("/dev/null", "r", -1, None, None, "x"),
        ("/dev/null", "r", -1, None, None, None, False),
        ("/dev/null", 5),
        (1.5,),
        (-1,),
        ("nowhere",),
        ("/", "w"),
        ("/",),
        ("a\0b",),
    ],
)
def test_errors_are_those_of_the_builtin(args):
    with pytest.raises(Exception) as theirs:
        builtins.open(*args)
    with pytest.raises(type(theirs.value)) as ours:
        file.open(*args)
    if isinstance(theirs.value, OSError):
        assert str(ours.value) == str(theirs.value)


def test_wrong_directions_are_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    for mode, buffering, call in [
        ("r", -1, lambda f: f.write("x")),
        ("rb", 0, lambda f: f.write(b"x")),
        ("rb", 0, lambda f: f.truncate()),
        ("ab", 0, lambda f: f.read(1)),
        ("ab", 0, lambda f: f.read()),
        ("ab", 0, lambda f: f.readinto(bytearray(1))),
        ("a", -1, lambda f: f.read()),
    ]:
        with file.open(tmp_path / "file", mode, buffering) as f:
            with pytest.raises(io.UnsupportedOperation):
                call(f)
    for call in (f.read, f.fileno, f.tell, f.seekable, f.writable, f.isatty):
        with pytest.raises(ValueError):
            call()
    with file.open(tmp_path / "file", "rb", 0) as f:
        assert repr(f) == f"<RawFile name={str(tmp_path / 'file')!r} mode='rb' closefd=True>"
    assert repr(f) == "<RawFile [closed]>"
    f.close()


def test_a_descriptor_can_be_opened_and_kept(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with file.open(fd, "w", closefd=False) as f:
        assert (f.fileno(), f.name) == (fd, fd)
        f.write("text")
    os.lseek(fd, 0, os.SEEK_SET)
    with file.open(fd) as f:
        assert f.read() == "text"
    with pytest.raises(OSError):
        os.fstat(fd)
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        file.open(directory)
    os.close(directory)


def test_an_opener_is_called(tmp_path):
    def opener(path, flags):
        return os.open(path, flags, 0o600, dir_fd=directory)

    directory = os.open(tmp_path, os.O_RDONLY)
    with file.open("file", "x", opener=opener) as f:
        f.write("text")
    os.close(directory)
    assert (tmp_path / "file").read_text() == "text"
    for wrong, error in [(lambda *args: -1, ValueError), (lambda *args: "fd", TypeError)]:
        with pytest.raises(error):
            file.open("file", opener=wrong)


def test_a_detached_buffer_goes_on(tmp_path):
    (tmp_path / "file").write_text("text")
    f = file.open(tmp_path / "file")
    buffer = f.detach()
    del f
    assert buffer.read() == b"text"
    raw = buffer.detach()
    del buffer
    assert raw.seek(0) == 0
    assert raw.readall() == b"text"
    raw.close()


def test_big_files_come_whole(tmp_path):
    data = os.urandom(5_000_000)
    with file.open(tmp_path / "file", "wb") as f:
        for at in range(0, len(data), 1000):
            f.write(data[at : at + 1000])
    with file.open(tmp_path / "file", "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert f.read() == data
    with file.open("/proc/self/status") as f:  # whose size is told as 0
        assert f.read().startswith("Name:")


# ---- tasks ----------------------------------------------------------------------------------------


def pipe_file(mode="rb", buffering=-1):
    read_end, write_end = os.pipe()
    return file.open(read_end, mode, buffering), write_end


def test_a_pipe_lets_others_run():
    f, write_end = pipe_file("r")
    reader = spawn(f.readline)
    settle()
    assert reader.is_alive()
    os.write(write_end, b"one\ntwo\n")
    assert reader.result() == "one\n"
    assert f.readline() == "two\n"
    os.close(write_end)
    assert f.read() == ""
    f.close()


def test_two_tasks_read_one_file_in_turn():
    f, write_end = pipe_file()
    readers = [spawn(f.read, 4) for _ in range(5)]
    settle()
    assert all(reader.is_alive() for reader in readers)
    for number in range(5):
        os.write(write_end, b"%04d" % number)
    assert [reader.result() for reader in readers] == [b"%04d" % number for number in range(5)]
    os.close(write_end)
    f.close()


def test_a_task_killed_while_it_waits_for_its_turn_passes_it_on():
    f, write_end = pipe_file()
    first, second, third = (spawn(f.read, 1) for _ in range(3))
    settle()
    assert second.waiting[0] == "turn"
    second.kill()
    os.write(write_end, b"12")
    assert (first.result(), third.result()) == (b"1", b"2")
    with pytest.raises(TaskExit):
        second.result()
    os.close(write_end)
    f.close()


def test_a_task_killed_when_its_turn_has_come_passes_it_on():
    f, write_end = pipe_file()
    first, second, third = (spawn(f.read, 1) for _ in range(3))
    settle()

    def when_first_ends():
        first.join()
        second.kill()  # it was woken, and has not run

    spawn(when_first_ends)
    settle()
    os.write(write_end, b"123")
    assert third.result() in (b"2", b"3")
    second.join()
    os.close(write_end)
    f.close()


def test_a_task_killed_while_it_reads_leaves_the_file_usable():
    f, write_end = pipe_file()
    victim = spawn(f.read, 4)
    settle()
    victim.kill()
    victim.join()
    os.write(write_end, b"data")
    assert f.read(4) == b"data"
    os.close(write_end)
    f.close()


def test_tasks_of_two_loops_and_a_thread_share_a_file(tmp_path):
    from evergreen import run

    with file.open(tmp_path / "file", "w") as f:

        def write(name):
            for number in range(200):
                f.write(f"{name} {number}\n")
                if number % 10 == 0:
                    f.flush()

        threads = [
            threading.Thread(target=run, args=(write, "loop")),
            threading.Thread(target=write, args=("thread",)),
        ]
        for thread in threads:
            thread.start()
        tasks = [spawn(write, f"task{number}") for number in range(3)]
        for task in tasks:
            task.result()
        while any(thread.is_alive() for thread in threads):
            sleep(0.001)
    lines = (tmp_path / "file").read_text().splitlines()
    expected = [f"{name} {n}" for name in ("loop", "thread", "task0", "task1", "task2") for n in range(200)]
    assert sorted(lines) == sorted(expected)


def test_lines_written_by_many_tasks_are_whole(tmp_path):
    with file.open(tmp_path / "file", "wb") as f:
        tasks = [spawn(f.write, b"%d" % number * 2000 + b"\n") for number in range(10) for _ in range(20)]
        for task in tasks:
            task.result()
    lines = (tmp_path / "file").read_bytes().splitlines()
    assert len(lines) == 200
    assert {len(set(line)) for line in lines} == {1}


def test_a_thread_without_a_loop_has_plain_files(tmp_path):
    def work():
        with file.open(tmp_path / "file", "w+") as f:
            f.write("text")
            f.seek(0)
            return f.read()

    assert in_thread(work) == "text"


# ---- faults ---------------------------------------------------------------------------------------


def test_a_full_disk_is_told_by_flush_and_by_close():
    f = file.open("/dev/full", "w")
    f.write("text")
    for call in (f.flush, f.close):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ENOSPC
    assert f.closed


@pytest.mark.parametrize("mode, buffering", [("w", -1), ("wb", -1), ("w+b", -1), ("wb", 0)])
def test_a_file_that_nobody_closed_is_written_and_told(tmp_path, mode, buffering):
    fds = len(os.listdir("/proc/self/fd"))
    f = file.open(tmp_path / "file", mode, buffering)
    f.write("text" if mode == "w" else b"text")
    with pytest.warns(ResourceWarning, match="unclosed file") as caught:
        del f
        gc.collect()
    assert len(caught) == 1
    assert (tmp_path / "file").read_bytes() == b"text"
    assert len(os.listdir("/proc/self/fd")) == fds


def test_a_file_that_was_closed_says_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f = file.open(tmp_path / "file", "w")
        f.close()
        f.close()
        del f
        gc.collect()
        with pytest.raises(IsADirectoryError):
            file.open(tmp_path)
        gc.collect()


def test_a_file_is_closed_although_its_task_is_killed(tmp_path):
    def work():
        with file.open(tmp_path / "file", "w") as f:
            opened.append(f)
            f.write("text")
            sleep(100)

    opened = []
    victim = spawn(work)
    while not opened:
        sleep(0.001)
    victim.kill()
    victim.join()
    assert opened[0].closed
    assert (tmp_path / "file").read_text() == "text"


def test_a_file_left_open_at_exit_is_written(tmp_path):
    output_of(
        """
        import sys
        import evergreen
        from evergreen.io import file

        f = file.open(sys.argv[1], "w")
        f.write("text")
        """,
        tmp_path / "file",
    )
    assert (tmp_path / "file").read_text() == "text"
