"""Making connections: names to addresses, and the race among a name's addresses.

Numeric addresses are understood without a thread; names go to the resolver in a native thread, in
a lane of its own.  The sockets are plain ones that the event loop waits for; a stream takes over
the descriptor of the one that is connected.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from typing import Any

from evergreen import _evergreen_c as core
from evergreen import _policy

ATTEMPT_DELAY = 0.25  # seconds, RFC 8305 section 8: Connection Attempt Delay

_getaddrinfo = core.patch_native("_socket", "getaddrinfo")

AddressInfo = tuple[int, int, int, str, Any]


def resolve(
    host: str | None, port: int | str, kind: int, *, family: int = 0, passive: bool = False
) -> list[AddressInfo]:
    """The addresses of a host and a port or service, as `socket.getaddrinfo` gives them.

    Raises `socket.gaierror`; `OverflowError`: there is no such port, which the C library cuts off at 16 bits.
    """
    if not isinstance(port, int | str | bytes | None):
        raise TypeError(f"port must be an int or a service's name, not {port!r}")
    number = int(port) if isinstance(port, str) and port.isascii() and port.isdigit() else port
    if isinstance(number, int) and not 0 <= number <= 65535:
        raise OverflowError(f"port must be 0 to 65535, not {port}")
    flags = socket.AI_PASSIVE if passive else 0
    if isinstance(host, str):
        host.encode("idna") if not host.isascii() else None  # UnicodeError here, not in the thread
    try:
        numeric = flags | socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        found: list[AddressInfo] = _getaddrinfo(host or None, port, family, kind, 0, numeric)
    except socket.gaierror:
        found = _policy.offload_name_lookup(_getaddrinfo, (host, port, family, kind, 0, flags), None)
    return found


def describe(exc: socket.gaierror, host: str | None, port: int | str) -> str:
    """What a failed resolve() says: what is wrong, and with which half of the address."""
    wrong = f"port {port!r}" if exc.errno == socket.EAI_SERVICE else repr(host)
    return f"{exc.strerror}: {wrong}"


def interleave(found: Iterable[AddressInfo]) -> list[AddressInfo]:
    """Have address families take turns, in the order in which the resolver prefers them (RFC 8305, 4)."""
    families: dict[int, list[AddressInfo]] = {}
    for info in found:
        families.setdefault(info[0], []).append(info)
    result: list[AddressInfo] = []
    while any(families.values()):
        result += [infos.pop(0) for infos in families.values() if infos]
    return result


def race(found: list[AddressInfo], source: Any = None) -> int:
    """Connect to the first of several addresses that answers; return the descriptor (RFC 8305, 5).

    The next attempt begins when the one before has failed, or has had 250 ms; those that come too
    late are closed.  If all fail, the error of the first is raised, with the others as notes.
    """
    todo = list(found)
    pending: dict[int, tuple[socket.socket, Any]] = {}
    errors: list[OSError] = []
    now = core.EventLoop.current().time
    next_at = now()
    try:
        while todo or pending:
            if todo and (not pending or now() >= next_at):
                info = todo.pop(0)
                try:
                    sock = _begin(info, source)
                except OSError as exc:
                    errors.append(_told(exc, info[4]))
                    continue
                pending[sock.fileno()] = (sock, info[4])
                next_at = now() + ATTEMPT_DELAY
            else:
                core.wait_fds(list(pending), 2, max(0.0, next_at - now()) if todo else None)
            for fd, (sock, address) in list(pending.items()):
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code and _is_connected(sock):
                    del pending[fd]
                    core.forget_fd(fd)
                    return sock.detach()
                if code:
                    del pending[fd]
                    _drop(sock)
                    errors.append(_told(OSError(code, os.strerror(code)), address))
                    next_at = now()
        if not errors:
            raise OSError(errno.EADDRNOTAVAIL, "the name has no address of that family")
        for other in errors[1:]:
            errors[0].add_note(f"and {other}")
        raise errors[0]
    finally:
        for sock, _ in pending.values():
            _drop(sock)


class _SourceError(OSError):
    """It is the source address that will not do."""


def where(address: Any) -> str:
    """An address in an error message."""
    return f"{address[0]} port {address[1]}"


def _begin(info: AddressInfo, source: Any) -> socket.socket:
    family, kind, proto, _, address = info
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        if source is not None:
            try:
                sock.bind(source)
            except OSError as exc:
                raise _SourceError(exc.errno, f"{exc.strerror} (binding to {where(source)})") from None
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS, errno.EINTR):
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _drop(sock: socket.socket) -> None:
    core.forget_fd(sock.fileno())
    sock.close()


def _told(exc: OSError, address: Any) -> OSError:
    """The same error, saying where to."""
    if isinstance(exc, _SourceError):
        return exc
    return OSError(exc.errno, f"{exc.strerror} (connecting to {where(address)})")


def connect_unix(path: str | bytes) -> int:
    """Connect to a Unix socket; return the descriptor.

    While the server's backlog is full, which the kernel tells as EAGAIN and never again (unix(7)),
    try again after pauses of 1 to 64 ms.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    pause = 0.001
    try:
        sock.setblocking(False)
        while (code := sock.connect_ex(path)) in (errno.EAGAIN, errno.EINTR):
            core.sleep(pause)
            pause = min(2 * pause, 0.064)
        if code:
            raise OSError(code, f"{os.strerror(code)}: {os.fsdecode(path)!r}")
        return sock.detach()
    finally:
        sock.close()
