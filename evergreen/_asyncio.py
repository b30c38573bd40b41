"""asyncio's loops take turns with tasks, those that never wait, too.

A loop waits in its selector, which cooperates where it stands on module select.  One that stands on
something else (a clock that is simulated, a mock) may answer at once, for ever, while what would end the loop
is a task's.  So each turn of a loop begins by letting others run if it is their time.
"""

from __future__ import annotations

import sys
from functools import update_wrapper

from evergreen import _evergreen_c as core

TYPE_CHECKING = False  # as in module typing, which takes long to import
if TYPE_CHECKING:
    from typing import Any

_native: Any = None  # BaseEventLoop._run_once; None: it is in its place


def _run_once(loop: Any) -> None:
    core.asyncio_turn()
    _native(loop)


def follow(on: bool) -> None:
    """Have loops take turns from now on, or not; the core calls this when the first one runs.

    A ``_run_once`` that somebody has put around ours is left alone.
    """
    global _native
    core.asyncio_adopt()
    loop_type = getattr(sys.modules.get("asyncio.base_events"), "BaseEventLoop", None)
    if loop_type is None:  # it is not imported, so no loop runs
        return
    if on and _native is None:
        _native = loop_type._run_once
        loop_type._run_once = update_wrapper(_run_once, _native)
    elif not on and loop_type._run_once is _run_once:
        _native, loop_type._run_once = None, _native
