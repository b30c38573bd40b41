"""`select`, whose select() and whose poll and epoll objects let other tasks run while they wait."""

from evergreen.lib import _fill

_fill.c_copy("select")
_fill.fill(globals())
