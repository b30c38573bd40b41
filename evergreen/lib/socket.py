"""`socket`, whose sockets and name look-ups let other tasks run while they wait."""

import socket as _standard

from evergreen.lib import _fill
from evergreen.lib import io as _io  # noqa: F401  # what makefile() stands on; these: what sendfile() does
from evergreen.lib import os as _os  # noqa: F401
from evergreen.lib import selectors as _selectors  # noqa: F401

_c = _fill.c_copy("_socket")
_socket_class = _fill.subclass(_standard.socket, globals(), _c.socket)
_fill.substitute(_standard.socket, _socket_class)
_fill.fill(globals())
