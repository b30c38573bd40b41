"""`selectors`, whose selectors let other tasks run while they wait."""

from evergreen.lib import _fill
from evergreen.lib import select as _select  # noqa: F401  # what they stand on

_fill.fill(globals(), ["SelectSelector", "PollSelector", "EpollSelector"])
