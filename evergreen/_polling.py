"""Questions of module `threading` that are answered in Python alone: who asks in a loop lets others run.

Threads that poll, ``while not event.is_set(): ...``, get on natively because CPython takes turns with them.
A lock or a queue is asked in C, where the patches are.  The functions here are asked by an attribute, so
their code is exchanged, and they stay what they are: identity, name, signature, and every reference.
"""

from __future__ import annotations

import threading
from types import CodeType, FunctionType
from typing import Any

from evergreen import _evergreen_c as core

_poll: Any = core.patch_poll


def _is_set(self: Any) -> Any:
    return self._flag or _evergreen_poll()  # type: ignore[name-defined]  # noqa: F821


def _n_waiting(self: Any) -> Any:
    if self._state == 0:
        _evergreen_poll()  # type: ignore[name-defined]  # noqa: F821
        return self._count
    return 0


def _broken(self: Any) -> Any:
    return self._state == -2 or _evergreen_poll()  # type: ignore[name-defined]  # noqa: F821


def _functions() -> list[tuple[Any, Any, tuple[str, ...]]]:
    """Each function, the one whose code it gets, and the names that its own code has if it is known."""
    barrier: Any = threading.Barrier
    return [
        (threading.Event.is_set, _is_set, ("_flag",)),
        (barrier.n_waiting.fget, _n_waiting, ("_state", "_count")),
        (barrier.broken.fget, _broken, ("_state",)),
    ]


_originals: dict[FunctionType, CodeType] = {}


def follow(on: bool) -> None:
    """Have them let others run, or not any more."""
    if not on:
        while _originals:
            function, code = _originals.popitem()
            function.__code__ = code
        return
    threading._evergreen_poll = _poll  # type: ignore[attr-defined]  # found by the code in its globals
    for function, ours, names in _functions():
        if isinstance(function, FunctionType) and function.__code__.co_names == names:
            code = _originals[function] = function.__code__
            function.__code__ = ours.__code__.replace(
                co_filename=code.co_filename,
                co_firstlineno=code.co_firstlineno,
                co_name=code.co_name,
                co_qualname=code.co_qualname,
                co_consts=(code.co_consts[0], *ours.__code__.co_consts[1:]),
            )
