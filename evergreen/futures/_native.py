"""Native threads for executors, whatever is patched.

Where threads are patched, starting one in a thread that has an event loop starts a task.  A thread
that has none starts native ones, so the start is made in such a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from evergreen import _evergreen_c as core
from evergreen import _threads, patcher

__all__ = ["at_once", "call", "get_ident", "join", "sleep", "start", "wait"]

_T = TypeVar("_T")

get_ident: Callable[[], int] = core.patch_native("_thread", "get_ident")
sleep: Callable[[float], None] = core.patch_native("time", "sleep")
_acquire = core.patch_native("_thread.LockType", "acquire")
_release = core.patch_native("_thread.LockType", "release")


def start(thread: threading.Thread) -> None:
    """Start it as a native thread, without letting other tasks run meanwhile."""
    at_once(thread.start)


def at_once(function: Callable[[], object], mask: int | None = None) -> None:
    """Make a short call where every thread that it starts is a native one, with this mask or the caller's.

    The thread waits natively: the call can be made where nothing may park, such as a callback.
    """
    before = core.signal_mask(mask)
    try:
        _at_once(function, before if mask is None else mask)
    finally:
        core.signal_mask(before)


def _at_once(function: Callable[[], object], mask: int) -> None:
    if not patcher.is_patched("_thread"):
        function()
        return
    failed: list[BaseException] = []
    bell = threading.Lock()
    _acquire(bell)

    def run() -> None:
        core.signal_mask(mask)  # what it starts inherits it
        try:
            function()
        except BaseException as exc:
            failed.append(exc)
        finally:
            core.signal_mask(core.SIGNAL_MASK_ALL)  # it may outlive the caller's wait
            _release(bell)

    _threads.start_native_thread(run, ())
    _acquire(bell)
    if failed:
        raise failed.pop()


def call(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """Make a call in a native thread of its own while the task waits; without a loop, make it here."""
    loop = core.loop_here()
    if loop is None:
        return function(*args, **kwargs)
    made = _threads.Call(function, args, kwargs)

    def run() -> None:
        core.count_pool_thread(1)
        try:
            made.run()
        finally:
            core.count_pool_thread(-1)

    _threads.start_native_thread(run, ())
    result: _T = made.get()
    return result


def wait(event: core.Event) -> None:
    """Wait for what threads of ours will set: no task, so the loop would not know of it."""
    loop = _threads._loop_of_caller()
    if loop is not None:
        loop._pin(1)
    try:
        event.wait()
    finally:
        if loop is not None:
            loop._pin(-1)


def join(thread: threading.Thread) -> None:
    """Wait natively for a thread that is about to end: this needs no other thread to wait for it."""
    while thread.is_alive():
        sleep(0.00005)
