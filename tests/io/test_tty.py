"""evergreen/io/tty.py and _evergreen_c/tty.c: terminals and the standard streams."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from helpers import output_of, run_python, settle

import evergreen
from evergreen import spawn
from evergreen.io.tty import StdinStream, StdoutStream, TTYError, TTYStream


@pytest.fixture
def terminal(hub):
    """A stream over a terminal, and the descriptor of whoever sits before it."""
    person, fd = pty.openpty()
    stream = TTYStream(fd, True)
    yield stream, person
    stream.close()
    evergreen.sleep(0.001)
    os.close(person)


def test_a_terminal_takes_over_its_descriptor(hub):
    person, fd = pty.openpty()
    terminal = os.ttyname(fd)
    stream = TTYStream(fd)
    assert stream.write(b"shown\n") is True
    assert os.read(person, 100) == b"shown\r\n"
    stream.close()
    while hub.stats()["streams"]:  # libuv closes it in the next poll
        evergreen.sleep(0.001)
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    assert terminal not in [os.readlink(link) for link in links if os.path.exists(link)]
    os.close(person)


def test_a_terminal_gives_lines(terminal):
    stream, person = terminal
    task = spawn(stream.readline)
    settle()
    os.write(person, b"typed\n")
    assert task.result() == b"typed\n"


def test_a_terminal_shows_what_is_written(terminal):
    stream, person = terminal
    assert stream.write(b"shown\n") is True
    assert os.read(person, 100) == b"shown\r\n"


def test_winsize(terminal):
    stream, person = terminal
    fcntl.ioctl(person, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    assert stream.winsize == (80, 24)


def test_raw_mode_gives_keys_and_can_be_left(terminal):
    stream, person = terminal
    stream.set_raw_mode(True)
    os.write(person, b"k")
    assert stream.read(1) == b"k"
    stream.set_raw_mode(False)
    assert termios.tcgetattr(person)[3] & termios.ICANON


def test_raw_mode_ends_with_the_program():
    person, fd = pty.openpty()
    before = termios.tcgetattr(fd)
    code = (
        "import sys\nfrom evergreen.io.tty import StdinStream\n"
        "StdinStream().set_raw_mode(True)\nsys.stdout.write('raw')"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], stdin=fd, stdout=subprocess.DEVNULL, check=True
    )
    assert termios.tcgetattr(fd)[:4] == before[:4]
    os.close(person)
    os.close(fd)


def test_a_terminal_that_hangs_up(terminal):
    stream, person = terminal
    task = spawn(stream.read, 1)
    settle()
    other = os.dup(person)
    os.close(person)
    os.close(other)
    try:
        assert task.result() == b""
    except TTYError:  # EIO: the kernel tells it one way or the other
        pass
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, person)  # for the fixture to close
    if null != person:
        os.close(null)


def test_what_is_no_terminal_is_refused(hub):
    fd = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(TTYError):
        TTYStream(fd, True)
    os.close(fd)


COPY = """
    from evergreen.io.tty import StdinStream, StdoutStream
    with StdinStream() as stdin, StdoutStream() as stdout:
        for line in stdin:
            stdout.write(line.upper())
        stdout.flush()
"""


def test_standard_streams_that_are_pipes():
    assert output_of(COPY, input="one\ntwo\nlast") == "ONE\nTWO\nLAST"


def test_standard_streams_that_are_files(tmp_path):
    (tmp_path / "in").write_text("line\n" * 50_000)
    with open(tmp_path / "in") as stdin, open(tmp_path / "out", "w") as stdout:
        code = "import textwrap; exec(textwrap.dedent('''" + COPY + "'''))"
        subprocess.run([sys.executable, "-c", code], stdin=stdin, stdout=stdout, check=True, timeout=30)
    assert (tmp_path / "out").read_text() == "LINE\n" * 50_000


def test_standard_input_that_is_empty():
    assert output_of(COPY, stdin=subprocess.DEVNULL) == ""


def test_a_closed_standard_input_is_an_error():
    child = run_python(
        """
        import os, sys
        from evergreen.io.tty import StdinStream, TTYError
        os.close(0)
        try:
            StdinStream()
        except TTYError as exc:
            print(exc.errno, exc)
        """
    )
    assert child.stdout == "9 [Errno 9] standard stream 0 is closed\n"


def test_the_interpreters_own_streams_stay_blocking_files():
    """The descriptor is a copy: closing the stream leaves sys.stdin as it was."""
    out = output_of(
        """
        import sys
        from evergreen.io.tty import StdinStream
        stdin = StdinStream()
        print(stdin.readline())
        stdin.close()
        print(sys.stdin.closed)
        """,
        input="line\n",
    )
    assert out == "b'line\\n'\nFalse\n"


def test_a_file_stream_that_is_closed(tmp_path):
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    with StdoutStream(fd) as stream:
        assert stream.writelines([b"a", b"b"]) is True
        stream.flush()
        stream.shutdown()
    assert stream.closed
    with pytest.raises(TTYError, match="closed"):
        stream.write(b"x")
    stream.close()
    assert (tmp_path / "file").read_bytes() == b"ab"


def test_reading_a_file_can_be_given_up(hub, tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"x" * 1_000_000)
    with StdinStream(os.open(path, os.O_RDONLY)) as stream:
        assert stream.read_exactly(10) == b"x" * 10
    evergreen.sleep(0.001)
