"""Evergreen: straight-line Python that never blocks the thread.

A C scheduler over libuv switches greenlets when they block, so thousands of tasks run in one
thread and each reads like ordinary code::

    import evergreen

    def greet(name, seconds):
        evergreen.sleep(seconds)
        print("hello", name)

    def main():
        tasks = [evergreen.spawn(greet, name, 0.1) for name in ("ada", "grace", "barbara")]
        for task in tasks:
            task.join()

    evergreen.run(main)

`evergreen.patcher.patch()`, or ``evergreen run script.py``, makes the standard library's blocking
calls cooperate in place, whatever was imported first.
"""

from __future__ import annotations

import functools
import os as _os

from evergreen import _policy
from evergreen._evergreen_c import (
    Channel,
    ChannelClosed,
    Deadlock,
    EventLoop,
    Handler,
    Task,
    TaskExit,
    TaskGroup,
    Timer,
    fail_after,
    loop_here,
    move_on_after,
    shield,
    sleep,
    spawn,
)
from evergreen._offload import lane_limit, offload, offload_to
from evergreen._signals import signals
from evergreen._waiting import iwait, wait

__all__ = [
    "Channel",
    "ChannelClosed",
    "Deadlock",
    "EventLoop",
    "Handler",
    "Task",
    "TaskExit",
    "TaskGroup",
    "Timer",
    "__version__",
    "current",
    "fail_after",
    "fork",
    "iwait",
    "lane_limit",
    "move_on_after",
    "offload",
    "offload_to",
    "run",
    "shield",
    "signals",
    "sleep",
    "spawn",
    "task",
    "wait",
]

__version__ = "0.3.0.dev0"

TYPE_CHECKING = False  # as in module typing, whose import takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    _P = ParamSpec("_P")
    _R = TypeVar("_R")


class _Current:
    """Where the code that asks is running."""

    @property
    def loop(self) -> EventLoop:
        """This thread's event loop; see `EventLoop.current`."""
        return EventLoop.current()

    @property
    def task(self) -> Task:
        """The task that runs; see `Task.current`."""
        return Task.current()


current = _Current()


def task(function: Callable[_P, Any]) -> Callable[_P, Task]:
    """Decorate a function so that calling it spawns a task and returns that `Task`."""

    @functools.wraps(function)
    def spawn_it(*args: _P.args, **kwargs: _P.kwargs) -> Task:
        return spawn(function, *args, **kwargs)

    return spawn_it


def run(function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run function(*args, **kwargs) in a task and return its result, or raise its exception.

    Tasks that it leaves behind go on whenever the main greenlet blocks again.  An exception that
    arrives meanwhile (Ctrl-C) kills the task, waits for its clean-up, and comes out here.  In a
    thread without an event loop, one is made for the call.
    """
    here = loop_here()
    own = EventLoop() if here is None and not _in_main_thread() else None
    try:
        worker = spawn(function, *args, **kwargs)
        try:
            result: _R = worker.result()
            return result
        except BaseException:
            if worker.is_alive():
                worker.kill()
                worker.join()
            raise
    finally:
        if own is not None:
            own.destroy()


def _in_main_thread() -> bool:
    import threading

    return threading.get_ident() == threading.main_thread().ident


def fork(*, keep_tasks: bool = False) -> int:
    """Fork the process, as `os.fork` does; return 0 in the child, its pid in the parent.

    By default only the forking task goes on in the child, as only the forking thread does; with
    *keep_tasks* all tasks go on in both processes.
    """
    _policy.keep_tasks = keep_tasks
    try:
        return _os.fork()
    finally:
        _policy.keep_tasks = False
