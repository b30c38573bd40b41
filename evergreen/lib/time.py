"""`time`, whose sleep() lets other tasks run."""

from evergreen.lib import _fill

_fill.c_copy("time")
_fill.fill(globals())
