"""evergreen/io/util.py and errno.py."""

import errno as system
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.io import errno
from evergreen.io.util import StringBuffer


def test_read():
    buf = StringBuffer()
    buf.feed(b"hello world")
    assert [buf.read(5), buf.read(6), buf.read(100)] == [b"hello", b" world", None]
    assert buf.read(0) == b""


def test_read_until():
    buf = StringBuffer()
    buf.feed(b"hello\nworld\n")
    assert [buf.read_until(b"\n") for _ in range(3)] == [b"hello\n", b"world\n", None]


def test_read_until_regex():
    regex = re.compile(b"~~")
    buf = StringBuffer()
    assert buf.read_until_regex(regex) is None
    buf.feed(b"hello~~world~~")
    assert [buf.read_until_regex(regex) for _ in range(3)] == [b"hello~~", b"world~~", None]


def test_clear_and_close():
    buf = StringBuffer()
    buf.feed(b"hello world")
    assert len(buf) == 11
    buf.clear()
    assert buf.read(5) is None
    buf.close()
    buf.close()
    assert buf.closed
    for call in (lambda: buf.read(5), lambda: buf.feed(b"x"), buf.clear, lambda: buf.read_until(b"x")):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_too_much_closes_it():
    buf = StringBuffer(10)
    buf.feed(b"123456789")
    with pytest.raises(OSError, match="maximum"):
        buf.feed(b"0")
    assert buf.closed


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"bc\r"])))
def test_a_delimiter_is_found_however_it_comes(chunks):
    buf, found = StringBuffer(), []
    for chunk in chunks:
        buf.feed(chunk)
        while (line := buf.read_until(b"\r\n")) is not None:
            found.append(line)
    assert found == re.findall(rb"(?s).*?\r\n", b"".join(chunks))


def test_errno_has_the_systems_numbers_and_libuvs():
    assert errno.ECONNREFUSED == system.ECONNREFUSED
    assert errno.errorcode[errno.ECONNRESET] == "ECONNRESET"
    assert errno.strerror(errno.ENOENT) == os.strerror(system.ENOENT)
    assert errno.EOF < 0 and errno.errorcode[errno.EOF] == "EOF"
    assert errno.strerror(errno.EOF) == "end of file"
    assert errno.EAI_NONAME < 0
