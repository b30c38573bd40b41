"""Terminals, and the standard streams, which may be terminals, pipes, sockets or files."""

from __future__ import annotations

import atexit
import errno
import os
import stat
import sys
from typing import Any

from evergreen import _threads
from evergreen._evergreen_c import _PipeStream, _TTYStream
from evergreen.io.stream import Stream, StreamError

__all__ = ["StderrStream", "StdinStream", "StdoutStream", "TTYError", "TTYStream"]

atexit.register(_TTYStream._reset_mode)


class TTYError(StreamError):
    """What terminal streams raise; an `OSError` with its errno."""


class TTYStream(_TTYStream):
    """A stream over a terminal; see `evergreen.io.stream.Stream` for reading and writing.

    It takes over the descriptor.  *readable* is there as in 0.2; the terminal says what it can.
    """

    error_cls = error_class = TTYError  # the second is 0.2's name

    def __init__(self, fd: int, readable: bool = True) -> None:
        self._attach(fd)


class _StandardPipe(_PipeStream):
    """A standard stream that is a pipe or a socket."""

    error_cls = TTYError


def StdinStream(fd: int | None = None) -> Stream:
    """A stream that reads the standard input, or *fd*, which it takes over.

    TTYError EBADF: there is no standard input.  A file is read by a native thread, ahead of the
    program by what a pipe holds (64 KiB).
    """
    fd = _dup(0, sys.stdin) if fd is None else fd
    if _is_file(fd):
        reader, writer = os.pipe()
        _threads.start_native_thread(_copy, (fd, writer))
        fd = reader
    return _stream(fd)


def StdoutStream(fd: int | None = None) -> Stream | _FileStream:
    """A stream that writes to the standard output, or to *fd*, which it takes over."""
    fd = _dup(1, sys.stdout) if fd is None else fd
    return _FileStream(fd) if _is_file(fd) else _stream(fd)


def StderrStream(fd: int | None = None) -> Stream | _FileStream:
    """A stream that writes to the standard error, or to *fd*, which it takes over."""
    fd = _dup(2, sys.stderr) if fd is None else fd
    return _FileStream(fd) if _is_file(fd) else _stream(fd)


def _dup(number: int, stream: Any) -> int:
    try:
        if stream is not None and number:
            stream.flush()
        return os.dup(number if stream is None else stream.fileno())
    except (OSError, ValueError) as exc:
        raise TTYError(errno.EBADF, f"standard stream {number} is closed") from exc


def _is_file(fd: int) -> bool:
    """Whether it is something that cannot be waited for, and need not: a file, /dev/null."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError as exc:
        raise TTYError(exc.errno, exc.strerror) from None
    return not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd))


def _stream(fd: int) -> Stream:
    if os.isatty(fd):
        return TTYStream(fd)
    stream = _StandardPipe()
    stream._attach(fd)
    return stream


def _copy(source: int, target: int) -> None:
    """In a native thread: from a file into a pipe, until either ends."""
    try:
        while data := os.read(source, 65536):
            while data:
                data = data[os.write(target, data) :]
    except OSError:
        pass  # the reader has closed its end: it wants no more
    finally:
        os.close(source)
        os.close(target)


class _FileStream:
    """The writing half of a stream, for a file: writing to one does not wait for anybody."""

    error_cls = TTYError
    unsent = 0

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._fd < 0

    def write(self, data: bytes) -> bool:
        """Write all of it; return True."""
        view = memoryview(data).cast("B")
        while view:
            try:
                view = view[os.write(self.fileno(), view) :]
            except OSError as exc:
                raise TTYError(exc.errno, exc.strerror) from None
        return True

    def writelines(self, buffers: Any) -> bool:
        """Write several buffers."""
        return self.write(b"".join(buffers))

    def flush(self) -> None:
        """Do nothing: the kernel has everything."""
        self.fileno()

    shutdown = flush

    def fileno(self) -> int:
        """Return the descriptor."""
        if self._fd < 0:
            raise TTYError(errno.EBADF, "stream is closed")
        return self._fd

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> _FileStream:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()
