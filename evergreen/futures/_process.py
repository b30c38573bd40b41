"""`ProcessPoolExecutor`: the standard library's, awaited cooperatively."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from evergreen.futures import _native
from evergreen.futures._base import ChunkingExecutor, Future, Relay

__all__ = ["ProcessPoolExecutor"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Std = concurrent.futures.ProcessPoolExecutor


class ProcessPoolExecutor(ChunkingExecutor, _Std):
    """Make calls in up to *max_workers* processes: for what computes.

    This is `concurrent.futures.ProcessPoolExecutor`, with its arguments, whose futures, ``map()`` and
    ``shutdown()`` let other tasks run.  Its own threads, which talk to the processes, are native ones
    also where `threading` is patched: they block in reads and in the system's semaphores, and must go on
    when the event loop is busy.  Starting the processes, at the first ``submit()``, blocks for as long as
    it takes the system to fork them.
    """

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have fn(*args, **kwargs) be called in a process; return the future of its outcome.

        BrokenProcessPool: a process died.  RuntimeError: after shutdown().
        """
        std: Any = self
        if std._shutdown_thread and not std._broken:  # its lock may be held until the processes have ended
            raise RuntimeError("cannot schedule new futures after shutdown")
        return Relay[_T]().follow(super().submit(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait until those that were submitted, and the processes, have ended.

        With *cancel_futures*, those that have not begun are cancelled.
        """
        if wait:
            _native.call(_Std.shutdown, self, True, cancel_futures=cancel_futures)
        else:
            super().shutdown(False, cancel_futures=cancel_futures)

    def _start_executor_manager_thread(self) -> None:
        std: Any = self
        if std._executor_manager_thread is None:
            if not std._safe_to_dynamically_spawn_children:
                std._launch_processes()  # here, so that they are forked by this thread
            _native.at_once(super()._start_executor_manager_thread)
