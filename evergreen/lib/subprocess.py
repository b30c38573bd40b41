"""`subprocess`, whose waits for children and whose pipes let other tasks run."""

from evergreen.lib import _fill
from evergreen.lib import io as _io  # noqa: F401  # what it stands on, as these:
from evergreen.lib import os as _os  # noqa: F401
from evergreen.lib import selectors as _selectors  # noqa: F401
from evergreen.lib import threading as _threading  # noqa: F401
from evergreen.lib import time as _time_module  # noqa: F401

_fill.fill(globals(), ["Popen"])
