"""Deadlines: bound the time that a block of code may wait, and protect clean-up from that.

Use them around anything that blocks; the block ends at its wait when the time is up.  `fail_after`
raises TimeoutError, `move_on_after` goes on behind the block, `Timeout` raises what it is told, and
`shield` keeps kills and outer deadlines off.  Of several nested ones, only those act whose deadline
passed.  They stand on the core's timers (``_evergreen_c/scope.c``).
"""

from evergreen._evergreen_c import Scope, Timeout, fail_after, move_on_after, shield

__all__ = ["Scope", "Timeout", "fail_after", "move_on_after", "shield"]
