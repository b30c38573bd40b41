"""Names and addresses, without blocking the event loop.

`getaddrinfo` and `getnameinfo` take the arguments of those in `socket`, return what they return and raise
what they raise.  The C library's resolver answers, in a native thread, so ``/etc/hosts``,
``/etc/nsswitch.conf`` and all that the system is configured to do hold; numeric addresses are answered at
once, in place.  Slow names delay neither files nor offloaded calls: lookups have threads of their own.

A task that is killed, or timed out, while it waits leaves the lookup to itself.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from evergreen import _evergreen_c as core

__all__ = ["getaddrinfo", "getnameinfo"]

_FAMILIES: dict[int, int] = {int(family): family for family in socket.AddressFamily}
_KINDS: dict[int, int] = {int(kind): kind for kind in socket.SocketKind}


def getaddrinfo(
    host: str | bytes | None,
    port: str | bytes | int | None,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]:
    """Return [(family, type, proto, canonname, sockaddr)] of a name (getaddrinfo(3)).

    See `socket.getaddrinfo`.  `socket.gaierror`: there is no such name, or no answer.
    """
    sys.audit("socket.getaddrinfo", host, port, family, type, proto)
    found = core.dns_getaddrinfo(_host(host), _service(port), family, type, proto, flags)
    return [
        (_FAMILIES.get(family, family), _KINDS.get(kind, kind), proto, canonname, address)  # type: ignore[misc]
        for family, kind, proto, canonname, address in found
    ]


def _host(host: object) -> bytes | None:
    if isinstance(host, str):
        if host.isascii() and len(host) < 64 and ".." not in host:
            return host.encode()
        return host.encode("idna")
    if host is None or isinstance(host, bytes):
        return host
    raise TypeError("getaddrinfo() argument 1 must be string or None")


def _service(port: object) -> bytes | None:
    if isinstance(port, int):
        return b"%d" % port
    if isinstance(port, str):
        return port.encode()
    if port is None or isinstance(port, bytes):
        return port
    raise OSError("Int or String expected")


def getnameinfo(sockaddr: tuple[Any, ...], flags: int, /) -> tuple[str, str]:
    """Return (host, port) of an address, (address, port) or (address, port, flowinfo, scope_id).

    The address is numeric; *flags* are ``socket.NI_*`` (getnameinfo(3)).  See `socket.getnameinfo`.
    """
    if not isinstance(sockaddr, tuple):
        raise TypeError("getnameinfo() argument 1 must be a tuple")
    if not 2 <= len(sockaddr) <= 4:
        raise TypeError("getnameinfo() argument 1 must have 2 to 4 items")
    host, port, *rest = sockaddr
    flowinfo, scope_id = (*rest, 0, 0)[:2]
    if not isinstance(host, str) or not isinstance(port, int):
        raise TypeError("an address is a str and an int")
    if not 0 <= flowinfo <= 0xFFFFF:
        raise OverflowError("getnameinfo(): flowinfo must be 0-1048575.")
    sys.audit("socket.getnameinfo", sockaddr)
    return core.dns_getnameinfo(host.encode(), b"%d" % port, flowinfo, scope_id, len(sockaddr), flags)
