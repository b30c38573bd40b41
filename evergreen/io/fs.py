"""Files and the file system, without blocking the event loop.

The functions of `os` by the same names, with the same results and errors.  Each parks the task that calls
it while a native thread makes the system call; what need not block does not leave the thread: reads that
the page cache can serve, pipes, sockets and terminals.  In a native thread without an event loop they are
plain calls::

    from evergreen.io import fs

    fd = fs.open("data.bin", os.O_RDONLY)
    try:
        head = fs.read(fd, 4096, 0)
    finally:
        fs.close(fd)

With ``callback=function`` each returns an `FSRequest` at once, and the loop calls function(request) when
it is over; such a callback may not block.

A task that is killed while it waits does not wait for the system call.  If that had begun it is left to
end, and its result is dropped: a descriptor that was opened for nobody is closed.

`evergreen.io.file.open` gives file objects; for what is not here, such as `shutil.rmtree`, there is
`evergreen.offload`.
"""

from __future__ import annotations

import os
import stat as _stat
import struct
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, AnyStr, Generic, NamedTuple

from evergreen import _evergreen_c as core
from evergreen._evergreen_c import FSRequest
from evergreen._evergreen_c import fs_access as access
from evergreen._evergreen_c import fs_chmod as chmod
from evergreen._evergreen_c import fs_chown as chown
from evergreen._evergreen_c import fs_close as close
from evergreen._evergreen_c import fs_copyfile as copyfile
from evergreen._evergreen_c import fs_fchmod as fchmod
from evergreen._evergreen_c import fs_fchown as fchown
from evergreen._evergreen_c import fs_fdatasync as fdatasync
from evergreen._evergreen_c import fs_fstat as fstat
from evergreen._evergreen_c import fs_fsync as fsync
from evergreen._evergreen_c import fs_ftruncate as ftruncate
from evergreen._evergreen_c import fs_lchown as lchown
from evergreen._evergreen_c import fs_link as link
from evergreen._evergreen_c import fs_listdir as listdir
from evergreen._evergreen_c import fs_lstat as lstat
from evergreen._evergreen_c import fs_mkdir as mkdir
from evergreen._evergreen_c import fs_mkdtemp as mkdtemp
from evergreen._evergreen_c import fs_mkstemp as mkstemp
from evergreen._evergreen_c import fs_open as open
from evergreen._evergreen_c import fs_opendir as opendir
from evergreen._evergreen_c import fs_read as read
from evergreen._evergreen_c import fs_readinto as readinto
from evergreen._evergreen_c import fs_readlink as readlink
from evergreen._evergreen_c import fs_realpath as realpath
from evergreen._evergreen_c import fs_rename as rename
from evergreen._evergreen_c import fs_rmdir as rmdir
from evergreen._evergreen_c import fs_scandir as scandir
from evergreen._evergreen_c import fs_sendfile as sendfile
from evergreen._evergreen_c import fs_stat as stat
from evergreen._evergreen_c import fs_statvfs as statvfs
from evergreen._evergreen_c import fs_symlink as symlink
from evergreen._evergreen_c import fs_unlink as unlink
from evergreen._evergreen_c import fs_write as write

__all__ = [
    "Change",
    "DirEntry",
    "Directory",
    "FSRequest",
    "Watch",
    "access",
    "chmod",
    "chown",
    "close",
    "closedir",
    "copyfile",
    "fchmod",
    "fchown",
    "fdatasync",
    "fstat",
    "fsync",
    "ftruncate",
    "futime",
    "lchown",
    "link",
    "listdir",
    "lstat",
    "mkdir",
    "mkdtemp",
    "mkstemp",
    "open",
    "opendir",
    "read",
    "readdir",
    "readinto",
    "readlink",
    "realpath",
    "rename",
    "rmdir",
    "scandir",
    "sendfile",
    "stat",
    "statfs",
    "statvfs",
    "symlink",
    "unlink",
    "utime",
    "watch",
    "write",
]

statfs = statvfs  # libuv's name for it


def utime(
    path: core._Path,
    times: tuple[float, float] | None = None,
    *,
    ns: tuple[int, int] | None = None,
    follow_symlinks: bool = True,
    callback: Callable[[FSRequest], object] | None = None,
) -> Any:
    """Set when a file was read and when it was written last; both are now by default.

    *times* is (atime, mtime) in seconds since the epoch, *ns* the same in nanoseconds (utimensat(2),
    `os.utime`).  ValueError: both were given.
    """
    atime, mtime = _nanoseconds("utime", times, ns)
    return core.fs_utime_ns(path, atime, mtime, int(follow_symlinks), callback=callback)


def futime(
    fd: core._Descriptor,
    times: tuple[float, float] | None = None,
    *,
    ns: tuple[int, int] | None = None,
    callback: Callable[[FSRequest], object] | None = None,
) -> Any:
    """Do what `utime` does, with an open file (futimens(3))."""
    atime, mtime = _nanoseconds("futime", times, ns)
    return core.fs_futime_ns(fd, atime, mtime, callback=callback)


def _nanoseconds(
    function: str, times: tuple[float, float] | None, ns: tuple[int, int] | None
) -> tuple[int, int]:
    if times is not None and ns is not None:
        raise ValueError(f"{function}() takes times or ns, not both")
    if times is not None:
        atime, mtime = (round(seconds * 1_000_000_000) for seconds in times)
        return atime, mtime
    if ns is not None:
        return ns
    now = time.time_ns()
    return now, now


# ---- directories ---------------------------------------------------------------------------------

_FILE, _DIR, _LINK = 1, 2, 3  # uv_dirent_type_t


class DirEntry(Generic[AnyStr]):
    """A name in a directory, and what the directory says of it: the interface of `os.DirEntry`.

    *name* is the bare name, *path* is joined to the path that `scandir` was given.
    """

    __slots__ = ("_lstat", "_stat", "_type", "name", "path")

    def __init__(self, folder: AnyStr, name: AnyStr, kind: int) -> None:
        self.name: AnyStr = name
        self.path: AnyStr = os.path.join(folder, name)
        self._type = kind
        self._stat: os.stat_result | None = None
        self._lstat: os.stat_result | None = None

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the file's `os.stat_result`, which is asked for once."""
        if not follow_symlinks:
            if self._lstat is None:
                self._lstat = lstat(self.path)
            return self._lstat
        if self._stat is None:
            self._stat = stat(self.path) if self.is_symlink() else self.stat(follow_symlinks=False)
        return self._stat

    def inode(self) -> int:
        """Return the file's inode number."""
        return self.stat(follow_symlinks=False).st_ino

    def is_symlink(self) -> bool:
        """Return whether it is a symbolic link."""
        return self._is(_LINK, _stat.S_ISLNK, False)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a directory, or leads to one."""
        return self._is(_DIR, _stat.S_ISDIR, follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a regular file, or leads to one."""
        return self._is(_FILE, _stat.S_ISREG, follow_symlinks)

    def is_junction(self) -> bool:
        """Return False: only Windows has them."""
        return False

    def _is(self, kind: int, test: Callable[[int], bool], follow: bool) -> bool:
        if self._type and not (follow and self._type == _LINK):
            return self._type == kind
        try:
            return test(self.stat(follow_symlinks=follow).st_mode)
        except FileNotFoundError:
            return False

    def __fspath__(self) -> AnyStr:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"


class Entries(Iterator[DirEntry[AnyStr]]):
    """What `scandir` returns: an iterator that may be used as a context manager, like `os.scandir`'s."""

    def __init__(self, entries: list[DirEntry[AnyStr]]) -> None:
        self._entries: Iterator[DirEntry[AnyStr]] = iter(entries)

    def __next__(self) -> DirEntry[AnyStr]:
        return next(self._entries)

    def close(self) -> None:
        """Drop what is left."""
        self._entries = iter(())

    def __enter__(self) -> Entries[AnyStr]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


_PART = 32768  # bytes of a directory's records that are read at a time: some hundred names


class Directory(Iterator[DirEntry[AnyStr]]):
    """An open directory, whose entries are read in parts, in the file system's order: what `opendir` returns.

    For directories that are too large for `scandir`, which reads them whole.  Iterate over it, or call
    `readdir`.
    """

    def __init__(self, path: AnyStr, fd: int) -> None:
        self.path: AnyStr = path
        self._fd = fd
        self._part: Iterator[DirEntry[AnyStr]] = iter(())

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._fd < 0

    def fileno(self) -> int:
        """Return the descriptor; ValueError: it was closed."""
        if self._fd < 0:
            raise ValueError("I/O operation on closed directory")
        return self._fd

    def __next__(self) -> DirEntry[AnyStr]:
        for entry in self._part:
            return entry
        self._part = iter(readdir(self))
        return next(self._part)

    def close(self) -> None:
        """Close it.  Harmless twice."""
        if self._fd >= 0:
            closedir(self)

    def __enter__(self) -> Directory[AnyStr]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            warnings.warn(f"unclosed {self!r} of fd {fd}", ResourceWarning, stacklevel=2, source=self)
            os.close(fd)

    def __repr__(self) -> str:
        return f"<Directory {self.path!r}{' closed' if self.closed else ''}>"


def readdir(directory: Directory[AnyStr], *, callback: Callable[[FSRequest], object] | None = None) -> Any:
    """Return a list of the next `DirEntry` objects of an open directory; an empty one at the end."""
    return core.fs_readdir_fd(directory.path, directory.fileno(), _PART, callback=callback)


def closedir(directory: Directory[Any], *, callback: Callable[[FSRequest], object] | None = None) -> Any:
    """Close an open directory."""
    fd = directory.fileno()
    directory._fd = -1
    return close(fd, callback=callback)


# ---- changes -------------------------------------------------------------------------------------

_EVENT = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, length of the name
_KINDS = {  # inotify(7)
    0x2: "modified",
    0x4: "attributes",
    0x40: "moved_from",
    0x80: "moved_to",
    0x100: "created",
    0x200: "deleted",
    0x400: "deleted",  # the watched path itself
    0x800: "moved_from",
    0x4000: "overflow",
}
_GONE = 0x8000
_MASK = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800


class Change(NamedTuple):
    """What happened to a watched path, or to a name in a watched directory.

    *kind* is "modified", "attributes", "created", "deleted", "moved_from", "moved_to", or "overflow":
    changes were lost, because nobody took them in time.  *name* is the name in the directory; None: the
    path itself.
    """

    kind: str
    name: str | None


class Watch(Iterator[Change]):
    """The changes of a path, as they happen: what `watch` returns.

    Iterate over it, or call `next` with a timeout.  It ends when the path is gone, or after `close`.
    Changes that happen while nobody iterates are kept, up to the system's limit.
    """

    def __init__(self, path: core._Path) -> None:
        self.path = os.fsdecode(path)
        self._changes: deque[Change] = deque()
        self._gone = False
        self._fd = -1
        if not sys.platform.startswith("linux"):
            raise NotImplementedError("watching files needs Linux, for now")
        self._fd = core.fs_inotify(path, _MASK)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._fd < 0

    def next(self, timeout: float | None = None) -> Change:
        """Return the next change; TimeoutError: none in *timeout* seconds; StopIteration: none to come."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._changes:
            if self._gone or self._fd < 0:
                raise StopIteration
            left = None if until is None else max(0.0, until - time.monotonic())
            try:
                self._parse(os.read(self._fd, 65536))
            except BlockingIOError:
                try:
                    if not core.wait_fd(self._fd, 1, left):
                        raise TimeoutError(f"{self.path!r} has not changed in time") from None
                except OSError:
                    if self._fd >= 0:
                        raise
        return self._changes.popleft()

    __next__ = next

    def _parse(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = os.fsdecode(data[at : at + length].rstrip(b"\0")) or None
            at += length
            self._gone |= bool(mask & _GONE)
            for bit, kind in _KINDS.items():
                if mask & bit:
                    self._changes.append(Change(kind, name))

    def close(self) -> None:
        """Stop watching; whoever waits for a change sees the end. Harmless twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close(fd)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, typ: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            os.close(fd)

    def __repr__(self) -> str:
        return f"<Watch {self.path!r}{' closed' if self.closed else ''}>"


def watch(path: core._Path) -> Watch:
    """Watch a file, or the names in a directory (not those in directories below), for changes.

    Return a `Watch` to iterate over; what happens from now on is told (inotify(7)).  OSError: the path
    is not there, or there are too many watches.
    """
    return Watch(path)
