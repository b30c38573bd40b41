"""UDP: datagrams, which may be lost, doubled, or come in another order.

::

    with UDPEndpoint() as endpoint:
        endpoint.bind(("127.0.0.1", 0))
        while True:
            data, sender = endpoint.receive()
            endpoint.send(data, sender)
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from evergreen._evergreen_c import UDPSocket
from evergreen.io import _connect
from evergreen.io.stream import StreamError, _mix

__all__ = ["UDPEndpoint", "UDPError"]

Address = tuple[Any, ...]  # (host, port), or (host, port, flowinfo, scope)
_T = TypeVar("_T")


class UDPError(StreamError):
    """What UDP endpoints raise; an `OSError` with its errno."""


class UDPEndpoint(UDPSocket):
    """A socket that sends and receives datagrams.

    Its address family, IPv4 or IPv6, is that of the first address that it is given.
    """

    error_cls = UDPError

    def _lookup(self, address: Address, passive: bool = False) -> _connect.AddressInfo:
        if not isinstance(address, tuple | list) or len(address) < 2:
            raise TypeError(f"an address is a tuple (host, port), not {address!r}")
        host, port = address[:2]
        family = 0
        if self.fileno() >= 0:
            family = self._ask(lambda sock: sock.family)
        try:
            found = _connect.resolve(host, port, socket.SOCK_DGRAM, family=family, passive=passive)
        except socket.gaierror as exc:
            raise _mix(UDPError, socket.gaierror)(exc.errno, _connect.describe(exc, host, port)) from None
        return found[0]

    def _resolve(self, address: Address) -> Address:
        numeric: Address = self._lookup(address)[4]
        return numeric

    def _ask(
        self,
        question: Callable[[socket.socket], _T],
        family: int = socket.AF_INET,
        address: Address | None = None,
    ) -> _T:
        """Do something with a socket object that stands for the descriptor; an error tells the address."""
        sock = socket.socket(fileno=self._open(family))
        try:
            return question(sock)
        except OSError as exc:
            text = f"{exc.strerror}: {_connect.where(address)}" if address else exc.strerror
            raise UDPError(exc.errno, text) from None
        finally:
            sock.detach()

    def bind(self, addr: Address, *, reuse_addr: bool = False, reuse_port: bool = False) -> None:
        """Take (host, port) to receive at; port 0 is any free one.

        With *reuse_addr* others may receive the same multicasts and broadcasts here; with *reuse_port*
        the kernel spreads datagrams among those who took the same address (socket(7)).
        """
        family, _, _, _, where = self._lookup(addr, passive=True)

        def bind(sock: socket.socket) -> None:
            if reuse_addr:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(where)

        self._ask(bind, family, addr)

    def connect(self, addr: Address | None) -> None:
        """Send to this address by default, and receive from it alone; None: from anybody again."""
        if addr is None:
            self._ask(_disconnect)
            return
        family, _, _, _, where = self._lookup(addr)
        self._ask(lambda sock: sock.connect(where), family, addr)

    @property
    def sockname(self) -> Address:
        """The address that it is bound to."""
        name: Address = self._ask(lambda sock: sock.getsockname())
        return name

    @property
    def peername(self) -> Address:
        """The address that it is connected to; `UDPError` ENOTCONN if it is not."""
        name: Address = self._ask(lambda sock: sock.getpeername())
        return name

    def flush(self) -> None:
        """Do nothing: send() returns when the kernel has the datagram.  It is here as in 0.2."""
        if self.closed:
            raise UDPError(errno.EBADF, "endpoint is closed")

    def set_broadcast(self, on: bool) -> None:
        """Allow it to send to broadcast addresses."""
        self._ask(lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, on))

    def set_ttl(self, ttl: int) -> None:
        """How many routers its datagrams may pass: 1 to 255."""
        self._set_both(socket.IP_TTL, socket.IPV6_UNICAST_HOPS, _in_range(ttl, 1))

    def set_multicast_ttl(self, ttl: int) -> None:
        """The same for multicasts: 0 to 255, by default 1."""
        self._set_both(socket.IP_MULTICAST_TTL, socket.IPV6_MULTICAST_HOPS, _in_range(ttl, 0))

    def set_multicast_loop(self, on: bool) -> None:
        """Whether its multicasts come to this host, too; by default they do."""
        self._set_both(socket.IP_MULTICAST_LOOP, socket.IPV6_MULTICAST_LOOP, int(on))

    def set_multicast_interface(self, interface: str) -> None:
        """Send multicasts from this interface: an IPv4 address, or for IPv6 its name or number."""

        def choose(sock: socket.socket) -> None:
            if sock.family == socket.AF_INET6:
                index = _interface_number(interface)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))

        self._ask(choose)

    def join_group(self, group: str, interface: str = "") -> None:
        """Receive what is sent to a multicast group, at an interface (as above; "": the default one)."""
        self._membership(group, interface, socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP)

    def leave_group(self, group: str, interface: str = "") -> None:
        """Undo join_group()."""
        self._membership(group, interface, socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP)

    def _membership(self, group: str, interface: str, option4: int, option6: int) -> None:
        def change(sock: socket.socket) -> None:
            if ":" in group:
                index = _interface_number(interface) if interface else 0
                wanted = struct.pack("@16sI", socket.inet_pton(socket.AF_INET6, group), index)
                sock.setsockopt(socket.IPPROTO_IPV6, option6, wanted)
            else:
                wanted = socket.inet_aton(group) + socket.inet_aton(interface or "0.0.0.0")
                sock.setsockopt(socket.IPPROTO_IP, option4, wanted)

        self._ask(change, socket.AF_INET6 if ":" in group else socket.AF_INET)

    def _set_both(self, option4: int, option6: int, value: int) -> None:
        def change(sock: socket.socket) -> None:
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, option6, value)
            else:
                sock.setsockopt(socket.IPPROTO_IP, option4, value)

        self._ask(change)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _in_range(ttl: int, lowest: int) -> int:
    if not lowest <= ttl <= 255:
        raise ValueError(f"a TTL is {lowest} to 255, not {ttl}")
    return ttl


def _interface_number(interface: str) -> int:
    return int(interface) if interface.isdecimal() else socket.if_nametoindex(interface)


def _disconnect(sock: socket.socket) -> None:
    """connect(2) to AF_UNSPEC, which the socket module cannot say."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), struct.pack("@H14x", socket.AF_UNSPEC), 16) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
