"""patch_io.c: streams on pipes, terminals and sockets let other tasks run."""

import io
import os
import pty
import socket
import threading
import tty

import pytest
from helpers import child_python, output_of, parked, pass_time, settle, wait_until_asleep

from evergreen import patcher, spawn

BIG = bytes(range(256)) * 4_000


class EarlyReader(io.BufferedReader):
    """Made before anything is patched."""


@pytest.fixture
def patched(hub):
    with patcher.patched(os=True):
        yield hub


@pytest.fixture(params=["pipe", "socket", "terminal"])
def ends(request, patched):
    """A raw stream to read from, and one to write to."""
    if request.param == "pipe":
        r, w = os.pipe()
    elif request.param == "socket":
        r, w = (end.detach() for end in socket.socketpair())
    else:
        r, w = pty.openpty()
        tty.setraw(w)
    with io.FileIO(r, "r") as reader, io.FileIO(w, "w") as writer:
        yield reader, writer


@pytest.fixture
def pipe(patched):
    r, w = os.pipe()
    with open(r, "rb") as reader, open(w, "wb") as writer:
        yield reader, writer


# ---- raw streams ------------------------------------------------------------------------------


def test_read_lets_other_tasks_run(ends):
    reader, writer = ends
    task = parked(reader.read, 10)
    assert writer.write(b"hello") == 5
    assert task.result() == b"hello"


def test_readinto_lets_other_tasks_run(ends):
    reader, writer = ends
    buffer = bytearray(10)
    task = parked(reader.readinto, buffer)
    writer.write(b"hello")
    assert task.result() == 5
    assert buffer == b"hello\0\0\0\0\0"


@pytest.mark.parametrize("read", [io.FileIO.read, io.FileIO.readall, lambda file: file.read(None)])
def test_reading_everything_lets_other_tasks_run(pipe, read):
    task = parked(read, pipe[0].raw)
    pipe[1].write(BIG)
    settle()
    assert task.is_alive()
    pipe[1].close()
    assert task.result() == BIG


def test_write_waits_until_all_is_taken(ends):
    reader, writer = ends
    task = parked(writer.write, memoryview(BIG))
    got = b""
    while len(got) < len(BIG):
        got += reader.read(100_000)
    assert got == BIG
    assert task.result() == len(BIG)


def test_closing_wakes_who_waits(ends):
    task = parked(ends[0].read, 1)
    ends[0].close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        task.result()


def test_closing_a_borrowed_descriptor_wakes_nobody(pipe):
    task = parked(pipe[0].raw.read, 1)
    io.FileIO(pipe[0].fileno(), "r", closefd=False).close()
    settle()
    assert task.is_alive()
    pipe[1].raw.write(b"x")
    assert task.result() == b"x"


def test_non_blocking_streams_say_that_they_have_nothing(pipe):
    reader, writer = (end.raw for end in pipe)
    os.set_blocking(reader.fileno(), False)
    os.set_blocking(writer.fileno(), False)
    assert reader.read(1) is None
    assert reader.readall() is None
    assert reader.readinto(bytearray(1)) is None
    while writer.write(bytes(4096)) is not None:
        pass


def test_bad_calls_are_refused_in_the_words_of_python(ends):
    reader, writer = ends
    with pytest.raises(io.UnsupportedOperation, match="not open for reading"):
        writer.read(1)
    with pytest.raises(io.UnsupportedOperation, match="not open for writing"):
        reader.write(b"x")
    with pytest.raises(TypeError):
        reader.readinto(b"read-only")
    with pytest.raises(TypeError):
        writer.write("text")
    with pytest.raises(OverflowError):
        reader.read(1 << 70)
    reader.close()
    with pytest.raises(ValueError, match="closed file"):
        reader.read(1)


def test_regular_files_are_read_at_once(patched, tmp_path):
    ran = []
    task = spawn(ran.append, 1)
    with open(tmp_path / "file", "w+b", buffering=0) as file:
        assert file.write(BIG) == len(BIG)
        file.seek(0)
        assert file.readall() == BIG
    assert not ran
    task.join()


# ---- buffered streams ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "lines"),
    [
        (lambda file: file.read(2), False),
        (lambda file: file.read1(2), False),
        (lambda file: file.peek(2) and file.read(2), False),
        (lambda file: file.readline(), True),
        (lambda file: next(file), True),
    ],
)
def test_tasks_may_wait_for_one_buffered_stream(pipe, read, lines):
    reader, writer = pipe
    tasks = [parked(read, reader) for _ in range(3)]
    for letter in b"abc":
        writer.write(bytes([letter, 10]))
        writer.flush()
        settle()
    assert sorted(task.result() for task in tasks) == [b"a\n", b"b\n", b"c\n"]


def test_tasks_may_fill_one_buffered_stream(pipe):
    reader, writer = pipe
    tasks = [parked(lambda letter=letter: writer.write(letter * 200_000)) for letter in (b"a", b"b", b"c")]
    flush = parked(writer.flush)
    got = b""
    while len(got) < 600_000:
        got += reader.read1(1 << 20)
    assert sorted(got[i : i + 200_000] for i in range(0, 600_000, 200_000)) == [
        letter * 200_000 for letter in (b"a", b"b", b"c")
    ]
    assert [task.result() for task in tasks] == [200_000] * 3
    flush.join()


def test_a_killed_task_lets_the_next_one_in(pipe):
    reader, writer = pipe
    first, second, third = (parked(reader.read, 1) for _ in range(3))
    second.kill()
    first.kill()
    settle()
    writer.write(b"x")
    writer.flush()
    assert third.result() == b"x"


def test_a_native_thread_inside_keeps_tasks_waiting(pipe):
    reader, writer = pipe
    entered = patcher.original("threading").Event()
    got = []

    def read():
        entered.set()
        got.append(reader.read(1))

    thread = threading.Thread(target=read)
    thread.start()
    entered.wait()
    wait_until_asleep(f"self/task/{thread.native_id}")
    task = spawn(reader.read, 1)
    settle()
    writer.write(b"xy")
    writer.flush()
    assert {task.result(), *(thread.join() or got)} == {b"x", b"y"}


def test_a_call_within_a_call_is_a_runtime_error_as_ever(patched):
    calls = []

    class Raw(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            if data != b"x":
                raise AssertionError
            calls.append(1)
            if len(calls) == 1:
                stream.write(b"again")
            return len(data)

    stream = io.BufferedWriter(Raw())
    stream.write(b"x")
    with pytest.raises(RuntimeError, match="reentrant call"):
        stream.flush()
    stream.detach()


def test_lines_of_text_let_other_tasks_run(patched):
    r, w = os.pipe()
    with open(r) as reader, open(w, "w", buffering=1) as writer:
        task = parked(lambda: [next(reader), reader.readline()])
        writer.write("one\ntwo\n")
        assert task.result() == ["one\n", "two\n"]


# ---- programs ---------------------------------------------------------------------------------------

TICKER = """
    import sys, time
    import evergreen
    from evergreen import patcher
    patcher.patch()
    ticks = []

    def tick():
        while True:
            ticks.append(1)
            time.sleep(0.001)

    evergreen.spawn(tick)
"""


@pytest.mark.parametrize("read", ["input()", "sys.stdin.readline().strip()", "next(sys.stdin).strip()"])
def test_standard_input_lets_other_tasks_run(read):
    code = (
        TICKER
        + f"""
    print("ready", flush=True)
    line = {read}
    print(line, len(ticks) > 3)
    """
    )
    with child_python(code) as child:
        assert child.stdout.readline() == "ready\n"
        pass_time(0.05)  # for the ticker
        out, err = child.communicate("hello\n")
        assert (out, err) == ("hello True\n", "")


def test_what_many_tasks_write_to_a_full_pipe_comes_out_whole():
    code = """
        import evergreen
        from evergreen import patcher
        patcher.patch()
        out = open(1, "w", closefd=False)  # buffered, whatever the environment says of sys.stdout
        tasks = [evergreen.spawn(out.write, str(n) * 20_000 + "\\n") for n in range(10)]
        for task in tasks:
            task.join()
        out.close()
    """
    lines = output_of(code).splitlines()
    assert sorted(lines) == [str(n) * 20_000 for n in range(10)]


def test_a_forked_child_may_use_a_stream_that_a_task_of_the_parent_is_inside(pipe):
    reader, writer = pipe
    task = parked(reader.read, 1)
    pid = os.fork()
    if pid == 0:
        os.write(writer.fileno(), b"x")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert task.result() == b"x"


@pytest.mark.parametrize("factory", [io.BufferedReader, EarlyReader])
def test_two_tasks_iterate_over_one_stream(patched, factory):
    r, w = os.pipe()
    with factory(io.FileIO(r, "r")) as reader, open(w, "wb", buffering=0) as writer:
        first, second = parked(next, reader), parked(next, reader)
        writer.write(b"one\n")
        assert first.result() == b"one\n"
        writer.write(b"two\n")
        assert second.result() == b"two\n"
