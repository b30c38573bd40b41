"""`ssl`, whose sockets let other tasks run while they wait.

A context of this module wraps sockets of `evergreen.lib.socket`, or native ones, and gives cooperative ones.
"""

import _ssl as _standard_c
import ssl as _standard
from typing import Any

from evergreen._copies import picked_functions, stand_in
from evergreen._evergreen_c import patch_ours
from evergreen.lib import _fill
from evergreen.lib import socket as _sockets

_connection = stand_in(
    "_SSLSocket", _standard_c._SSLSocket, picked_functions("_ssl", patch_ours)["_SSLSocket"]
)


class _Context(_standard_c._SSLContext):
    """What comes beneath the standard library's context: gives connections whose methods cooperate."""

    __slots__ = ()

    def _wrap_socket(self, *args: Any, **kwargs: Any) -> Any:
        return _connection._enclose(super()._wrap_socket(*args, **kwargs))


class SSLSocket(_standard.SSLSocket, _sockets.socket):
    """A socket over TLS, as `ssl.SSLSocket`; made by `SSLContext.wrap_socket`."""


class SSLContext(_standard.SSLContext, _Context):
    """Settings of TLS connections, as `ssl.SSLContext`; its sockets are of this module's class."""

    sslsocket_class = SSLSocket


_fill.substitute(_standard.SSLSocket, SSLSocket)
_fill.substitute(_standard.SSLContext, SSLContext)
_fill.fill(globals())
