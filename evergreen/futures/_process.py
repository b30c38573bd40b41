"""`ProcessPoolExecutor`: the standard library's, awaited cooperatively."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from evergreen import _evergreen_c as core
from evergreen import _threads
from evergreen.futures import _native
from evergreen.futures._base import ChunkingExecutor, Future, Relay

__all__ = ["ProcessPoolExecutor"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Std = concurrent.futures.ProcessPoolExecutor


class _Manager:
    """The thread of an executor that talks to its processes, whose join() lets other tasks run.

    A thread of its own waits for it natively, from the start: CPython 3.12 starts none at exit.
    """

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread
        self._ended = core.Event()
        _threads.start_native_thread(self._watch, ())

    def _watch(self) -> None:
        core.count_pool_thread(1)
        try:
            self._thread.join()
        finally:
            core.count_pool_thread(-1)
            self._ended.set()

    def join(self) -> None:
        _native.wait(self._ended)

    def give_up(self) -> None:
        """Neither thread is in this process, which was forked."""
        self._ended.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._thread, name)


class ProcessPoolExecutor(ChunkingExecutor, _Std):
    """Make calls in up to *max_workers* processes: for what computes.

    This is `concurrent.futures.ProcessPoolExecutor`, with its arguments, whose futures, ``map()`` and
    ``shutdown()`` let other tasks run.  Its own threads, which talk to the processes, are native ones
    also where `threading` is patched: they block in reads and in the system's semaphores, and must go on
    when the event loop is busy.  Starting the processes, at the first ``submit()``, blocks for as long as
    it takes the system to fork them.
    """

    _manager: _Manager | None = None
    _was_shut_down = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have fn(*args, **kwargs) be called in a process; return the future of its outcome.

        BrokenProcessPool: a process died.  RuntimeError: after shutdown().
        """
        if self._was_shut_down:  # the lock below may be held until the processes have ended
            raise RuntimeError("cannot schedule new futures after shutdown")
        return Relay[_T]().follow(super().submit(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait until those that were submitted, and the processes, have ended.

        With *cancel_futures*, those that have not begun are cancelled.
        """
        if not self._was_shut_down:
            self._was_shut_down = True
            super().shutdown(wait, cancel_futures=cancel_futures)
        elif wait and self._manager is not None:
            self._manager.join()

    def _start_executor_manager_thread(self) -> None:
        std: Any = self
        if std._executor_manager_thread is not None:
            return
        if not std._safe_to_dynamically_spawn_children:
            threading.current_thread()  # a task is a thread that threading knows, when it forks
            std._launch_processes()  # here, so that they are forked by this thread
        _native.at_once(super()._start_executor_manager_thread, core.SIGNAL_MASK_ALL)
        thread: Any = std._executor_manager_thread
        std._executor_manager_thread = self._manager = _Manager(thread)
        _executors.add(self)
        _managers.add(self._manager)


_executors: weakref.WeakSet[ProcessPoolExecutor] = weakref.WeakSet()
_managers: weakref.WeakSet[_Manager] = weakref.WeakSet()


def _at_exit() -> None:
    """Do what the standard library does next, and let other tasks run while it takes its time."""
    for executor in list(_executors):
        executor.shutdown()
    for manager in list(_managers):  # of executors that were dropped
        manager.join()


def _after_fork_in_child() -> None:
    for manager in list(_managers):
        manager.give_up()


os.register_at_fork(after_in_child=_after_fork_in_child)
# After concurrent.futures.process was imported: the last to register is the first to be called.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
