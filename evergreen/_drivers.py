"""Database drivers that wait in C of their own, told to wait where tasks can take turns.

Both offer a way: psycopg 3 has its wait loop twice, in C and in Python (``psycopg.waiting``); psycopg2 calls
a wait callback if it has one.  `patcher` calls `follow` when it patches or unpatches ``select``, and the
core calls `imported` when a module in C was imported, so it does not matter which comes first.  With
``evergreen run --native`` psycopg2 is left alone: it waits in ``poll()``, so its connections may be shared.
"""

from __future__ import annotations

import select
import sys
from functools import update_wrapper

from evergreen import _evergreen_c as core

TYPE_CHECKING = False  # as in module typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

_on = False


def follow(on: bool) -> None:
    """Have the drivers that are imported, or will be, cooperate, or not any more."""
    global _on
    _on = on
    for name, change in _CHANGES.items():
        if name in sys.modules:
            change(sys.modules[name])


def imported(module: ModuleType) -> None:
    """A module in C was imported; `import` is not over yet."""
    if _on and module.__name__ in _CHANGES:
        _CHANGES[module.__name__](module)


# ---- psycopg 3 -------------------------------------------------------------------------------


_psycopg_waits: dict[Any, Callable[..., Any]] = {}  # by the function that stands for it


def _psycopg_wait(native: Callable[..., Any]) -> Callable[..., Any]:
    """Stands for ``wait_c(generator, fileno, ...)``; where an event loop runs, psycopg waits in Python."""

    def wait_c(*args: Any, **kwargs: Any) -> Any:
        if core.loop_here() is None:
            return native(*args, **kwargs)
        waiting: Any = sys.modules["psycopg.waiting"]
        wait = getattr(waiting, "wait_poll", None) or waiting.wait_selector  # 3.1 had no wait_poll at first
        return wait(*args, **kwargs)

    update_wrapper(wait_c, native)
    _psycopg_waits[wait_c] = native
    return wait_c


def _change_psycopg(extension: Any) -> None:
    found = extension.wait_c
    native = _psycopg_waits.pop(found, found)
    wait = _psycopg_wait(native) if _on else native
    extension.wait_c = wait  # where psycopg.waiting takes it from, once it is imported
    waiting: Any = sys.modules.get("psycopg.waiting")
    for name in ("wait_c", "wait"):  # PSYCOPG_WAIT_FUNC may have chosen another `wait`
        if getattr(waiting, name, None) in (found, native):
            setattr(waiting, name, wait)


# ---- psycopg2 --------------------------------------------------------------------------------


def _wait_for_psycopg2(connection: Any) -> None:
    """Wait until libpq has what it needs; https://www.psycopg.org/docs/advanced.html#green-support."""
    extension: Any = sys.modules["psycopg2._psycopg"]
    events = {1: select.POLLIN, 2: select.POLLOUT}  # psycopg2.extensions.POLL_READ and POLL_WRITE
    while (state := connection.poll()) != 0:  # POLL_OK
        if state not in events:
            raise extension.OperationalError(f"bad state from poll: {state}")
        poll = select.poll()
        poll.register(connection.fileno(), events[state])
        poll.poll()


def _change_psycopg2(extension: Any) -> None:
    before = extension.get_wait_callback()
    native = core.native_status() is not None  # its own waits cooperate, and tasks may share a connection
    if _on and before is None and not native:  # one that the program has set stays
        extension.set_wait_callback(_wait_for_psycopg2)
    elif not _on and before is _wait_for_psycopg2:
        extension.set_wait_callback(None)


_CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "psycopg_binary._psycopg": _change_psycopg,
    "psycopg_c._psycopg": _change_psycopg,
    "psycopg2._psycopg": _change_psycopg2,
}
