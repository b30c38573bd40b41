"""What TCP, pipes and terminals have in common: errors, connections, servers.

The streams themselves are C (``_evergreen_c/stream.c``).  Use the classes of `evergreen.io.tcp`,
`evergreen.io.pipe` and `evergreen.io.tty`; this module has their bases.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Self

from evergreen import _evergreen_c as core
from evergreen._evergreen_c import Stream
from evergreen.event import Event

__all__ = ["BaseStream", "IncompleteReadError", "Stream", "StreamConnection", "StreamError", "StreamServer"]

BaseStream = AbstractBaseStream = Stream  # the names of 0.2

# ---- errors ------------------------------------------------------------------------------------

_mixed: dict[tuple[type, type], type] = {}


def _mix(cls: type[StreamError], kind: type[BaseException]) -> type[Any]:
    """The class that is both: `TCPError` and `ConnectionResetError`, say."""
    both = _mixed.get((cls, kind))
    if both is None:
        name = cls.__name__.removesuffix("Error") + kind.__name__
        both = _mixed[cls, kind] = type(name, (cls, kind), {"__module__": cls.__module__, "_plain": cls})
    return both


class StreamError(OSError):
    """What streams raise: `TCPError`, `PipeError`, `TTYError` and `UDPError` are its subclasses.

    With an errno that has an exception of its own in Python, the instance is of that class, too:
    ``except TCPError`` and ``except ConnectionResetError`` both catch a reset.
    """

    _plain: ClassVar[type[StreamError]]

    def __new__(cls, *args: Any) -> Self:  # noqa: D102
        if len(args) >= 2 and isinstance(args[0], int):
            kind = type(OSError(args[0], args[1]))
            if not issubclass(cls, kind):
                cls = _mix(cls, kind)
        return super().__new__(cls, *args)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr(self, "_plain", type(self)), self.args


class IncompleteReadError(EOFError):
    """The stream ended before the bytes that read_exactly() was asked for."""

    partial: bytes  #: what there was of them
    expected: int  #: how many were asked for


def _incomplete_read(stream: Any, partial: bytes, expected: int) -> BaseException:
    text = f"the stream ended after {len(partial)} of {expected} bytes"
    exc: IncompleteReadError = _mix(stream.error_cls, IncompleteReadError)(errno.ENODATA, text)
    exc.partial, exc.expected = partial, expected
    return exc


# ---- TLS ------------------------------------------------------------------------------------------


def _start_tls(stream: Stream, context: Any, server_side: bool, server_hostname: str | None) -> Any:
    """Wrap an open stream; what the start_tls() of TCP and pipe streams do."""
    from evergreen.io import tls

    return tls.wrap(stream, context, server_side=server_side, server_hostname=server_hostname)


# ---- servers ---------------------------------------------------------------------------------------

Handler = Callable[[Any], object]

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_BACK_OFF = (0.01, 1.0)  # seconds: the first and the longest pause while descriptors are short


# What the kernel says of a peer that has gone; ENODATA: IncompleteReadError.
_PEER_HAS_GONE = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNRESET EPIPE ENOTCONN ECONNABORTED ETIMEDOUT EHOSTUNREACH EHOSTDOWN ENETUNREACH ENETDOWN ENODATA"
    ).split()
)


def _is_peers_doing(stream: Any, exc: BaseException) -> bool:
    """Whether an exception, or each of a group, says no more than that the peer of this stream has gone."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_peers_doing(stream, each) for each in exc.exceptions)
    return bool(stream._blames_peer(exc))


def _log_peer(stream: Any, exc: BaseException) -> None:
    """Note that a connection has ended so; without the module logging nobody could see the record."""
    if logging := sys.modules.get("logging"):
        logging.getLogger("evergreen.io").debug("the peer of %r has gone: %s", stream, exc)


class StreamConnection:
    """What connections that a server accepted have beside a stream's methods."""

    def _blames_peer(self, exc: BaseException) -> bool:
        if not isinstance(exc, OSError) or exc.errno not in _PEER_HAS_GONE:
            return False
        return self._peer_state() >= (1 if exc.errno == errno.ENODATA else 2)  # type: ignore[attr-defined,no-any-return]

    _server: StreamServer | None  # a member of Stream

    @property
    def server(self) -> StreamServer | None:
        """The server that accepted it; None once it is closed."""
        return self._server

    def close(self) -> None:
        """Close the stream, and take it out of its server's connections."""
        super().close()  # type: ignore[misc]
        if self._server is not None:
            self._server._forget(self)

    def abort(self) -> None:
        """Close the stream, drop what is unsent, and take it out of its server's connections."""
        super().abort()  # type: ignore[misc]
        if self._server is not None:
            self._server._forget(self)


def _handle(server: StreamServer, connection: Any) -> None:
    """What the task of a connection runs.  It is there as long as the connection: no object to spare."""
    handler = server._handler
    try:
        if handler is None:
            server.handle_connection(connection)
            return
        handler(connection)
        connection.__exit__(None, None, None)  # sends what is unsent, and closes it
    except BaseException as exc:
        dropped = server._closed and connection.closed  # the server has closed it under the handler
        gone = _is_peers_doing(connection, exc)
        connection.close()
        if gone:
            _log_peer(connection, exc)
        elif not (dropped and isinstance(exc, OSError) and exc.errno == errno.EBADF):
            raise


class StreamServer:
    """A server: bind(), then serve(), which accepts connections until close().

    Each connection is handled in a task of its own: by *handler*, a function that takes the
    connection, which is closed when it returns; or by the method handle_connection() of a subclass,
    which closes it itself, or hands it on.  An exception in either closes the connection, and is
    reported as of any task; but if it says that the peer of this connection has gone (a reset, a broken
    pipe, an end in the middle of a message), it is only a debug record of the logger ``evergreen.io``.

    At *max_connections* open ones, the server accepts no more until one is closed; the kernel's
    backlog holds the others.  When descriptors run out it reports that once and tries again,
    after pauses of 10 ms to a second.
    """

    connection_cls: type[Any]
    error_cls: type[StreamError]
    _task: ClassVar[Any] = staticmethod(_handle)

    def __init__(self, handler: Handler | None = None, *, max_connections: int | None = None) -> None:
        if max_connections is not None and max_connections < 1:
            raise ValueError(f"max_connections must be positive, not {max_connections}")
        if handler is not None and not callable(handler):
            raise TypeError(f"handler must be callable, not {handler!r}")
        self._handler = handler
        self._max = max_connections
        self._socket: socket.socket | None = None
        self._closed = False
        self._changed = Event()  # a connection has ended, or the server
        self._ended = Event()
        self.connections: set[Any] = set()

    def handle_connection(self, connection: Any) -> object:
        """Serve a connection, in a task of its own; for subclasses."""
        raise NotImplementedError("give the server a handler, or override handle_connection()")

    def bind(self, address: Any) -> None:
        """Take the address that connections come to; the kernel's backlog holds them until serve()."""
        raise NotImplementedError

    def open(self, fd: int) -> None:
        """Take over the descriptor of a socket that is bound already, and may be listening."""
        self._check_closed()
        if self._socket is not None:
            raise self.error_cls(errno.EINVAL, "server is already bound")
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)

    def serve(self, backlog: int | None = None) -> None:
        """Accept connections until close(); *backlog* may wait in the kernel for that."""
        self._check_closed()
        if self._socket is None:
            raise self.error_cls(errno.EINVAL, "server is not bound")
        try:
            self._socket.listen(backlog or socket.SOMAXCONN)
        except OSError as exc:
            raise self.error_cls(exc.errno, exc.strerror) from None
        fd = self._socket.fileno()
        pause = 0.0
        while not self._closed:
            if self._max is not None and len(self.connections) >= self._max:
                self._changed.clear()
                self._changed.wait()
                continue
            try:
                accepted = core.accept_fd(fd)
            except OSError as exc:
                if self._closed:
                    break
                if exc.errno not in _OUT_OF_RESOURCES:
                    raise self.error_cls(exc.errno, exc.strerror) from None
                if not pause:
                    self._report(exc)
                pause = min(2 * pause, _BACK_OFF[1]) or _BACK_OFF[0]
                core.sleep(pause)
                continue
            pause = 0.0
            self._begin(accepted)
        self._ended.wait()

    def _report(self, exc: OSError) -> None:
        from evergreen import _policy

        _policy.report(core.EventLoop.current(), "Cannot accept connections for now in", self, exc)

    def _attach(self, connection: Any, fd: int) -> None:
        connection._attach(fd)

    def _begin(self, fd: int) -> None:
        connection = self.connection_cls()
        try:
            self._attach(connection, fd)
        except BaseException:
            os.close(fd)
            raise
        connection._server = self
        self.connections.add(connection)
        core.spawn(self._task, self, connection)

    def _forget(self, connection: Any) -> None:
        connection._server = None
        self.connections.discard(connection)
        self._changed.set()

    def close(self, timeout: float | None = None) -> None:
        """Accept no more, give open connections *timeout* seconds to end, and close those that are left.

        Without a timeout they are closed at once.  Harmless if it is closed.
        """
        if not self._closed:
            self._closed = True
            self._close()
            self._changed.set()
        if timeout is not None and self.connections:
            deadline = core.EventLoop.current().time() + timeout
            while self.connections and (left := deadline - core.EventLoop.current().time()) > 0:
                self._changed.clear()
                self._changed.wait(left)
        for connection in list(self.connections):
            connection.close()
        self._ended.set()

    def _close(self) -> None:
        if self._socket is not None:
            core.forget_fd(self._socket.fileno())
            self._socket.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def fileno(self) -> int:
        """Return the descriptor of the listening socket."""
        return self._bound().fileno()

    def _bound(self) -> socket.socket:
        self._check_closed()
        if self._socket is None:
            raise self.error_cls(errno.EINVAL, "server is not bound")
        return self._socket

    def _check_closed(self) -> None:
        if self._closed:
            raise self.error_cls(errno.EBADF, "server is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
