"""Futures: calls that are made elsewhere, and pools of tasks, threads and processes that make them.

The interface is that of `concurrent.futures` (PEP 3148), and a future from here can be used wherever
one of the standard library is expected.  Waiting for one in a task lets the other tasks run, without
anything being patched; waiting in a native thread blocks that thread alone::

    from evergreen.futures import TaskPoolExecutor

    with TaskPoolExecutor(max_workers=10) as pool:
        for page in pool.map(fetch, urls):
            ...

`ThreadPoolExecutor` is for calls that block natively, `ProcessPoolExecutor` for calls that compute, and
`adapt` makes an executor of somebody else cooperate.
"""

from __future__ import annotations

from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    InvalidStateError,
)
from typing import TYPE_CHECKING, Any

from evergreen.futures._adapt import adapt
from evergreen.futures._base import Executor, Future, as_completed, wait
from evergreen.futures._task import TaskPoolExecutor
from evergreen.futures._thread import ThreadPoolExecutor

if TYPE_CHECKING:
    from evergreen.futures._process import ProcessPoolExecutor

TimeoutError = TimeoutError

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "BrokenExecutor",
    "CancelledError",
    "Executor",
    "Future",
    "InvalidStateError",
    "ProcessPoolExecutor",
    "TaskPoolExecutor",
    "ThreadPoolExecutor",
    "TimeoutError",
    "adapt",
    "as_completed",
    "wait",
]


def __getattr__(name: str) -> Any:
    if name == "ProcessPoolExecutor":  # it brings multiprocessing along
        from evergreen.futures._process import ProcessPoolExecutor

        globals()[name] = ProcessPoolExecutor
        return ProcessPoolExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
