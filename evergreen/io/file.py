"""File objects that do not block the event loop: `open` for tasks.

`open` takes the arguments of the builtin and returns an object with the same methods, text or binary,
buffered or not.  Reading what the page cache has stays in the thread; everything else parks the task while
a native thread makes the system call (`evergreen.io.fs`)::

    from evergreen.io import file

    with file.open("log.txt") as log:
        for line in log:
            ...

Several tasks, of one loop or of several, may use one file object: a call waits until the one before it has
ended, first come, first served.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from evergreen import _evergreen_c as core
from evergreen.io import fs

__all__ = ["open"]

BUFFER_SIZE = 65536  # bytes: a system call in another thread costs as much as copying that

_File = TypeVar("_File", bound=type)


class RawFile(io.RawIOBase):
    """An unbuffered file: what the buffers stand on, and what ``buffering=0`` gives."""

    def __init__(self, fd: int, name: object, mode: str, flags: int, closefd: bool) -> None:
        self._fd = fd
        self.name = name
        self.mode = mode
        self.closefd = closefd
        self._readable = flags & os.O_ACCMODE != os.O_WRONLY
        self._writable = flags & os.O_ACCMODE != os.O_RDONLY
        self._seekable: bool | None = None
        self._native = False  # in a finaliser: nothing may wait
        self._warned = False

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise ValueError("I/O operation on closed file")
        return self._fd

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._open_fd()

    def readable(self) -> bool:
        """Return whether it was opened for reading."""
        self._open_fd()
        return self._readable

    def writable(self) -> bool:
        """Return whether it was opened for writing."""
        self._open_fd()
        return self._writable

    def seekable(self) -> bool:
        """Return whether it has a position."""
        fd = self._open_fd()
        if self._seekable is None:
            try:
                os.lseek(fd, 0, os.SEEK_CUR)
                self._seekable = True
            except OSError:
                self._seekable = False
        return self._seekable

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._open_fd())

    def _need(self, allowed: bool, what: str) -> int:
        fd = self._open_fd()
        if not allowed:
            raise io.UnsupportedOperation(f"File not open for {what}")
        return fd

    def readinto(self, buffer: Any, /) -> int | None:
        """Read into a buffer; return how many bytes, 0 at the end."""
        return fs.readinto(self._need(self._readable, "reading"), buffer)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to *size* bytes by one system call; all that is left if it is negative."""
        if size is None or size < 0:
            return self.readall()
        return fs.read(self._need(self._readable, "reading"), size)

    def readall(self) -> bytes:
        """Return all that is left."""
        fd = self._need(self._readable, "reading")
        parts = []
        size = BUFFER_SIZE
        if self.seekable():
            size = max(os.fstat(fd).st_size - os.lseek(fd, 0, os.SEEK_CUR), 0) + 1
        while data := fs.read(fd, size):
            parts.append(data)
            size = max(size - len(data), BUFFER_SIZE)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, data: Any, /) -> int:
        """Write bytes by one system call; return how many were written."""
        fd = self._need(self._writable, "writing")
        return os.write(fd, data) if self._native else fs.write(fd, data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position; return it."""
        return os.lseek(self._open_fd(), offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return os.lseek(self._open_fd(), 0, os.SEEK_CUR)

    def truncate(self, size: int | None = None, /) -> int:
        """Make the file *size* bytes long, or end it at the position; return the size."""
        fd = self._need(self._writable, "writing")
        if size is None:
            size = self.tell()
        fs.ftruncate(fd, size)
        return size

    def close(self) -> None:
        """Close the file. Harmless twice."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            super().close()
        finally:
            if self.closefd:
                os.close(fd) if self._native else fs.close(fd)

    def _dealloc_warn(self, source: object) -> None:  # what the buffers of io call, too
        if self._fd >= 0 and self.closefd and not self._warned:
            warnings.warn(f"unclosed file {source!r}", ResourceWarning, stacklevel=2, source=source)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self._dealloc_warn(self)
            self._native = True
            self.close()

    def __repr__(self) -> str:
        if self._fd < 0:
            return f"<{type(self).__qualname__} [closed]>"
        return f"<{type(self).__qualname__} name={self.name!r} mode={self.mode!r} closefd={self.closefd}>"


# ---- in turn ---------------------------------------------------------------------------------------


_METHODS = ["__next__", "close", "detach", "flush", "peek", "read", "read1", "readinto", "readinto1"]
_METHODS += ["readline", "readlines", "reconfigure", "seek", "tell", "truncate", "write", "writelines"]


def _takes_turns(cls: _File) -> _File:
    """Have every method that reads or writes wait for its turn; those inside another's go on.

    The buffers of `io` have a lock of their own, but that blocks the thread, or refuses a second task of
    the same thread.
    """
    base = cls.__base__
    for name in _METHODS:
        if hasattr(base, name) and name not in cls.__dict__:
            setattr(cls, name, core.in_turn(getattr(base, name)))
    return cls


class _Shared:
    _turn: core.Turn

    def __del__(self) -> None:
        # Nothing may wait here: what is still to be written is written by plain system calls.
        below: Any = self
        try:
            while not isinstance(below, RawFile):
                below._turn.retire()
                below = below.buffer if isinstance(below, io.TextIOWrapper) else below.raw
        except (ValueError, AttributeError):  # detached, or never whole
            return
        if below._fd >= 0:
            below._native = True
            below._dealloc_warn(self)
            below._warned = True
            try:
                self.close()  # type: ignore[attr-defined]
            finally:
                below.close()


@_takes_turns
class BufferedReader(io.BufferedReader, _Shared):
    """A binary file that is read."""

    def __init__(self, raw: RawFile, size: int) -> None:
        self._turn = core.Turn()
        super().__init__(raw, size)

    __del__ = _Shared.__del__


@_takes_turns
class BufferedWriter(io.BufferedWriter, _Shared):
    """A binary file that is written."""

    def __init__(self, raw: RawFile, size: int) -> None:
        self._turn = core.Turn()
        super().__init__(raw, size)

    __del__ = _Shared.__del__


@_takes_turns
class BufferedRandom(io.BufferedRandom, _Shared):
    """A binary file that is read and written."""

    def __init__(self, raw: RawFile, size: int) -> None:
        self._turn = core.Turn()
        super().__init__(raw, size)

    __del__ = _Shared.__del__


@_takes_turns
class TextFile(io.TextIOWrapper, _Shared):
    """A text file."""

    def __init__(self, buffer: Any, *args: Any) -> None:
        self._turn = core.Turn()
        super().__init__(buffer, *args)

    __del__ = _Shared.__del__


# ---- opening ---------------------------------------------------------------------------------------


def _parse_mode(mode: str) -> tuple[str, int]:
    """The mode without "b" and "t", and the flags of open(2); ValueError as the builtin's."""
    kinds = set(mode)
    if kinds - set("axrwb+t") or len(mode) > len(kinds):
        raise ValueError(f"invalid mode: {mode!r}")
    if len(kinds & set("axrw")) != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    if {"t", "b"} <= kinds:
        raise ValueError("can't have text and binary mode at once")
    flags = os.O_RDWR if "+" in kinds else os.O_RDONLY if "r" in kinds else os.O_WRONLY
    flags |= {
        "r": 0,
        "w": os.O_CREAT | os.O_TRUNC,
        "x": os.O_CREAT | os.O_EXCL,
        "a": os.O_CREAT | os.O_APPEND,
    }[(kinds & set("axrw")).pop()]
    return mode.replace("t", "").replace("b", ""), flags


def _check_text_arguments(mode: str, **arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"binary mode doesn't take an {name} argument")


def _open_raw(file: Any, mode: str, flags: int, closefd: bool, opener: Any) -> RawFile:
    if isinstance(file, int):
        if isinstance(file, bool):
            warnings.warn("bool is used as a file descriptor", RuntimeWarning, stacklevel=3)
        if file < 0:
            raise ValueError("negative file descriptor")
        fd = file
    elif not closefd:
        raise ValueError("Cannot use closefd=False with file name")
    else:
        path = os.fspath(file)
        if opener is None:
            fd = fs.open(path, flags, 0o666)
        else:
            fd = opener(path, flags | os.O_CLOEXEC)
            if not isinstance(fd, int):
                raise TypeError("expected integer from opener")
            if fd < 0:
                raise ValueError(f"opener returned {fd}")
            os.set_inheritable(fd, False)
        file = path
    shown = mode[0] + "b" + mode[1:]
    if mode == "w+" and sys.version_info < (3, 15):
        shown = "rb+"  # as io.FileIO shows it
    raw = RawFile(fd, file, shown, flags, closefd)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        if flags & os.O_APPEND and raw.seekable():
            raw.seek(0, os.SEEK_END)
    except BaseException:
        if isinstance(file, int):
            raw.closefd = False
        raw.close()
        raise
    return raw


def open(
    file: core._Path | int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[Any, int], int] | None = None,
) -> Any:
    """Open a file and return a file object, as the builtin `open` does, with the same arguments.

    *file* is a path or a descriptor, *mode* one of "r", "w", "x", "a" with "b" for bytes and "+" for both
    directions, *buffering* 0 for none (bytes only), 1 for lines (text only), or the buffer's size in bytes.
    """
    if not isinstance(mode, str):
        raise TypeError(f"invalid mode: {mode!r}")
    plain, flags = _parse_mode(mode)
    binary = "b" in mode
    if binary:
        _check_text_arguments(mode, encoding=encoding, errors=errors, newline=newline)
        if buffering == 1:
            warnings.warn(
                "line buffering (buffering=1) isn't supported in binary mode, "
                "the default buffer size will be used",
                RuntimeWarning,
                stacklevel=2,
            )
            buffering = -1
    elif buffering == 0:
        raise ValueError("can't have unbuffered text I/O")
    elif newline not in (None, "", "\n", "\r", "\r\n"):
        raise ValueError(f"illegal newline value: {newline!r}")
    raw = _open_raw(file, plain, flags, closefd, opener)
    result: Any = raw
    try:
        line_buffering = buffering == 1 or (buffering < 0 and not binary and raw.isatty())
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else BUFFER_SIZE
        if "+" in mode:
            if not raw.seekable():
                raise io.UnsupportedOperation("File or stream is not seekable.")
            result = BufferedRandom(raw, size)
        elif "r" in mode:
            result = BufferedReader(raw, size)
        else:
            result = BufferedWriter(raw, size)
        if not binary:
            result = TextFile(result, io.text_encoding(encoding), errors, newline, line_buffering)
            result.mode = mode
        return result
    except BaseException:
        result.close()
        raise
