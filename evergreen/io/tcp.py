"""TCP: clients, servers, and the connections that servers accept.

Use it for protocols of your own; `evergreen.patcher` makes libraries that use `socket` cooperate::

    def echo(connection):
        for line in connection:
            connection.write(line)

    server = TCPServer(echo)
    server.bind(("127.0.0.1", 0))
    evergreen.spawn(server.serve)

    with TCPClient() as client:
        client.connect(server.sockname)
        client.write(b"hello\\n")
        print(client.readline())
    server.close()
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from evergreen._evergreen_c import TCPStream as _TCPStream
from evergreen.io import _connect
from evergreen.io.stream import StreamConnection, StreamError, StreamServer, _mix, _start_tls

__all__ = ["TCPClient", "TCPConnection", "TCPError", "TCPServer", "TCPStream"]

Address = tuple[Any, ...]  # (host, port), or (host, port, flowinfo, scope)


class TCPError(StreamError):
    """What TCP streams raise; an `OSError` with its errno."""


def _resolve(address: Address, *, family: int = 0, passive: bool = False) -> list[_connect.AddressInfo]:
    if not isinstance(address, tuple | list) or len(address) < 2:
        raise TypeError(f"an address is a tuple (host, port), not {address!r}")
    host, port = address[:2]
    try:
        return _connect.resolve(host, port, socket.SOCK_STREAM, family=family, passive=passive)
    except socket.gaierror as exc:
        raise _mix(TCPError, socket.gaierror)(exc.errno, _connect.describe(exc, host, port)) from None


class TCPStream(_TCPStream):
    """A stream over TCP; see `evergreen.io.stream.Stream` for reading and writing."""

    error_cls = TCPError

    def start_tls(
        self, context: Any, *, server_side: bool = False, server_hostname: str | None = None
    ) -> Any:
        """Go on in TLS: return the stream that encrypts over this one."""
        return _start_tls(self, context, server_side, server_hostname)


class TCPClient(TCPStream):
    """A connection to a server.  What is written before connect() is sent then."""

    def connect(self, target: Address, source_address: Address | None = None) -> None:
        """Connect to (host, port), from *source_address* if it is given.

        A name's addresses are tried as "Happy Eyeballs" (RFC 8305) say: families take turns, each
        attempt has 250 ms before the next begins beside it, and the first to answer is taken.
        """
        if self.connected or self.closed:
            number = errno.EBADF if self.closed else errno.EISCONN
            raise TCPError(number, "stream is closed" if self.closed else "already connected")
        family, source = 0, None
        if source_address is not None:
            info = _resolve(source_address, passive=True)[0]
            family, source = info[0], info[4]
        found = _connect.interleave(_resolve(target, family=family))
        try:
            fd = _connect.race(found, source)
        except OSError as exc:
            failure = TCPError(exc.errno, exc.strerror)
            for note in getattr(exc, "__notes__", ()):
                failure.add_note(note)
            raise failure from None
        try:
            self._attach(fd)
        except BaseException:
            os.close(fd)
            raise


class TCPConnection(StreamConnection, TCPStream):
    """A connection that a `TCPServer` accepted."""


class TCPServer(StreamServer):
    """A server for TCP; see `evergreen.io.stream.StreamServer`."""

    connection_cls = TCPConnection
    error_cls = TCPError
    _nodelay = False  # whether connections have it from the listening socket

    def _attach(self, connection: Any, fd: int) -> None:
        connection._attach(fd, self._nodelay)

    def bind(self, address: Address, *, reuse_port: bool = False, ipv6_only: bool = False) -> None:
        """Take (host, port); port 0 is any free one, which `sockname` then tells.

        Connections that come before serve() wait in the kernel's backlog.

        With *reuse_port* several servers, in any processes of this user, may take the same one, and
        the kernel spreads connections among them (socket(7), SO_REUSEPORT).  A server on "::" takes
        IPv4 connections as well, unless *ipv6_only*.
        """
        self._check_closed()
        if self._socket is not None:
            raise TCPError(errno.EINVAL, "server is already bound")
        family, kind, proto, _, where = _resolve(address, passive=True)[0]
        sock = socket.socket(family, kind, proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            sock.bind(where)
            sock.listen(socket.SOMAXCONN)
        except OSError as exc:
            sock.close()
            raise TCPError(exc.errno, f"{exc.strerror}: {_connect.where(address)}") from None
        self._socket, self._nodelay = sock, True

    @property
    def sockname(self) -> Address:
        """The address that it is bound to."""
        name: Address = self._bound().getsockname()
        return name
