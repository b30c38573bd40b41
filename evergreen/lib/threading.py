"""`threading`, whose threads are tasks, with locks that let other tasks run while they wait.

In a native thread without an event loop, a Thread that is started is native.
"""

import os as _os
import sys as _modules
import threading as _standard
from types import ModuleType
from typing import Any

from evergreen import _copies, _policy
from evergreen import _evergreen_c as _core
from evergreen import event as _event
from evergreen import local as _local
from evergreen import locks as _locks
from evergreen.lib import _fill

_sentinels: dict[int, _locks.Lock] = {}  # 3.12 and before: of each thread that runs, released at its end


def _c_threads() -> ModuleType:
    """The C module beneath: cooperative, and with Evergreen's locks and locals."""
    c = _copies.c_module("_thread", _core.patch_ours)
    for name in ("allocate_lock", "allocate", "lock", "LockType"):
        if hasattr(c, name):
            setattr(c, name, _locks.Lock)
    c.__dict__.update(RLock=_locks.RLock, _local=_local.local)
    if hasattr(c, "_set_sentinel"):
        _use_sentinels(c)
    else:
        _use_handles(c)
    return c


def _use_sentinels(c: Any) -> None:
    start, get_ident = c.start_new_thread, c.get_ident

    def set_sentinel() -> _locks.Lock:
        lock = _sentinels[get_ident()] = _locks.Lock()
        return lock

    def start_new_thread(function: Any, args: Any, kwargs: Any = None, /) -> int:
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            finally:
                sentinel = _sentinels.pop(get_ident(), None)
                if sentinel is not None and sentinel.locked():
                    sentinel.release()

        ident: int = start(run, args) if kwargs is None else start(run, args, kwargs)
        return ident

    c._set_sentinel = _copies.dressed(set_sentinel, c._set_sentinel)
    c.start_new_thread = c.start_new = _copies.dressed(start_new_thread, start)


def _use_handles(c: Any) -> None:
    methods = _copies.picked_functions("_thread", _core.patch_ours)["_ThreadHandle"]
    handle_class: Any = _copies.stand_in("_ThreadHandle", c._ThreadHandle, methods)
    start, make = c.start_joinable_thread, c._make_thread_handle
    main_ident, get_ident, process = c._get_main_thread_ident, c.get_ident, _os.getpid()

    def start_joinable_thread(function: Any, handle: Any = None, daemon: bool = True) -> Any:
        handle = handle or handle_class()
        start(function, handle._inside, daemon)
        return handle

    def get_main_thread_ident() -> int:
        # In a forked child the task that called fork() is the main thread.
        ident: int = main_ident() if _os.getpid() == process else get_ident()
        return ident

    c._get_main_thread_ident = _copies.dressed(get_main_thread_ident, main_ident)
    c._ThreadHandle = handle_class
    c._make_thread_handle = _copies.dressed(lambda ident: handle_class._enclose(make(ident)), make)
    c.start_joinable_thread = _copies.dressed(start_joinable_thread, start)


_c = _c_threads()
_doc = __doc__
_copies.execute("threading", globals(), {"_thread": _c}.get)
__doc__ = _doc


class Event(_event.Event):
    """A flag to wait for, as `threading.Event`."""

    isSet = _event.Event.is_set

    def _at_fork_reinit(self) -> None:
        """Nothing: whoever waited is in the parent."""


class Condition(_locks.Condition):
    """A condition variable, as `threading.Condition`."""

    notifyAll = _locks.Condition.notify_all


Semaphore, BoundedSemaphore, Barrier = _locks.Semaphore, _locks.BoundedSemaphore, _locks.Barrier


def _settle() -> None:
    """What executing the module did as for a thread of its own, and what the process's end waits for."""
    ours: Any = globals()
    if hasattr(_standard.Thread, "_wait_for_tstate_lock"):
        ours["Thread"]._wait_for_tstate_lock = _copies.wait_for_tstate_lock
        main, ident = ours["_main_thread"], _standard.main_thread().ident
        if main._ident != ident:  # a thread other than the main one was the first to import
            ours["_active"].pop(main._ident, None)
            main._ident = ident
            ours["_active"][ident] = main
    _policy.threading_modules.append(_modules.modules[__name__])
    _standard._register_atexit(_join_all)  # type: ignore[attr-defined]
    _fill.note(_standard, ours)
    _fill.substitute(_standard, _modules.modules[__name__])


def _join_all() -> None:
    """At the end of the process: wait for the threads that are no daemons."""
    ours: Any = globals()
    me = ours["current_thread"]()
    while left := [thread for thread in ours["enumerate"]() if not thread.daemon and thread is not me]:
        for thread in left:
            thread.join()


_settle()
