"""`os`, whose reads, writes and waits for children let other tasks run."""

from evergreen.lib import _fill

_fill.c_copy("posix")
_fill.fill(globals(), ["_wrap_close"])
