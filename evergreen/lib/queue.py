"""`queue`, by the classes of `evergreen.queue`; get() and put() let other tasks run while they wait."""

import queue as _standard

from evergreen import queue as _ours
from evergreen.lib import _fill

_fill.c_copy("_queue")  # for SimpleQueue
for _name in ("Queue", "LifoQueue", "PriorityQueue"):
    _fill.substitute(getattr(_standard, _name), getattr(_ours, _name))
_fill.fill(globals())
ShutDown = _ours.ShutDown  # also where the standard library has none yet
