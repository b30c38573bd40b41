"""Unix sockets and pipes: clients, servers, connected pairs; descriptors travel over them.

A stream that was opened with ``ipc=True`` receives descriptors with recv_fds(); on any other, the
kernel closes those that a peer sends.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Self

from evergreen._evergreen_c import _PipeStream
from evergreen.io import _connect
from evergreen.io.stream import Handler, StreamConnection, StreamError, StreamServer, _start_tls

__all__ = ["PipeClient", "PipeConnection", "PipeError", "PipeServer", "PipeStream"]

Name = str | bytes | os.PathLike[str]


class PipeError(StreamError):
    """What pipe streams raise; an `OSError` with its errno."""


class BasePipeStream(_PipeStream):
    """A stream over a Unix socket or a pipe; see `evergreen.io.stream.Stream` for reading and writing."""

    error_cls = PipeError

    def start_tls(
        self, context: Any, *, server_side: bool = False, server_hostname: str | None = None
    ) -> Any:
        """Go on in TLS: return the stream that encrypts over this one."""
        return _start_tls(self, context, server_side, server_hostname)


class PipeStream(BasePipeStream):
    """A stream over a descriptor that is there already: a pipe's end, or a connected Unix socket."""

    def open(self, fd: int, ipc: bool = False) -> None:
        """Take over the descriptor, which close() then closes; it becomes non-blocking.

        Raises `PipeError` EINVAL for a regular file.
        """
        self._attach(fd, ipc)

    @classmethod
    def pair(cls, ipc: bool = False) -> tuple[Self, Self]:
        """Two streams; what is written to one is read from the other (socketpair(2))."""
        first, second = cls(), cls()
        for stream, sock in zip((first, second), socket.socketpair(), strict=True):
            stream.open(sock.detach(), ipc)
        return first, second


class PipeClient(BasePipeStream):
    """A connection to a `PipeServer`.  What is written before connect() is sent then."""

    def connect(self, target: Name, ipc: bool = False) -> None:
        """Connect to the Unix socket at this path; bytes that begin with a zero byte: an abstract name."""
        if self.connected or self.closed:
            number = errno.EBADF if self.closed else errno.EISCONN
            raise PipeError(number, "stream is closed" if self.closed else "already connected")
        try:
            fd = _connect.connect_unix(os.fspath(target))
        except OSError as exc:
            raise PipeError(exc.errno or errno.EINVAL, exc.strerror or str(exc)) from None
        try:
            self._attach(fd, ipc)
        except BaseException:
            os.close(fd)
            raise


class PipeConnection(StreamConnection, BasePipeStream):
    """A connection that a `PipeServer` accepted."""


class PipeServer(StreamServer):
    """A server at a Unix socket; see `evergreen.io.stream.StreamServer`.

    With *ipc* its connections can receive descriptors.
    """

    connection_cls = PipeConnection
    error_cls = PipeError

    def __init__(
        self, handler: Handler | None = None, *, max_connections: int | None = None, ipc: bool = False
    ) -> None:
        super().__init__(handler, max_connections=max_connections)
        self._ipc = ipc
        self._name: Name | None = None
        self._bound_as: tuple[int, int] | None = None

    def _attach(self, connection: Any, fd: int) -> None:
        connection._attach(fd, self._ipc)

    def bind(self, name: Name) -> None:
        """Make the socket at this path; close() removes it, in the process that made it."""
        self._check_closed()
        if self._socket is not None:
            raise PipeError(errno.EINVAL, "server is already bound")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = os.fspath(name)
        try:
            sock.setblocking(False)
            sock.bind(path)
            sock.listen(socket.SOMAXCONN)
        except OSError as exc:
            sock.close()
            text = f"{exc.strerror or exc}: {os.fsdecode(path)!r}"
            raise PipeError(exc.errno or errno.EINVAL, text) from None
        self._socket, self._name = sock, name
        if path[:1] not in ("", b"", "\0", b"\0"):
            self._bound_as = _identity(path)
            self._pid = os.getpid()

    @property
    def pipename(self) -> Name | None:
        """The path that it is bound to."""
        self._check_closed()
        return self._name

    @property
    def sockname(self) -> Name | None:
        """The same."""
        return self.pipename

    def _close(self) -> None:
        super()._close()
        if self._name is not None and self._bound_as is not None and self._pid == os.getpid():
            path = os.fspath(self._name)
            if _identity(path) == self._bound_as:  # else another server has taken its place
                os.unlink(path)


def _identity(path: str | bytes) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
