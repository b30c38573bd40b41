"""`TaskPoolExecutor`: calls in tasks, a bounded number at a time."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, ParamSpec, TypeVar

from evergreen import _evergreen_c as core
from evergreen import _policy
from evergreen.futures._base import Executor, Future, cancel_all, check_max_workers

__all__ = ["TaskPoolExecutor"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class _Place:
    """What the task of a call is given: if it is killed before it runs, the call will not be made."""

    __slots__ = ("future", "pool")

    def __init__(self, pool: _TaskPool, future: Future[Any]) -> None:
        self.pool: _TaskPool | None = pool
        self.future = future

    def __del__(self) -> None:
        if self.pool is not None:
            cancel_all([self.future])
            self.pool.end_call()


class _TaskPool:
    """What the tasks of an executor share; the thread of its loop alone starts and counts them."""

    def __init__(self, places: int, loop: core.EventLoop) -> None:
        self.places = places
        self.loop = loop
        self.queue: deque[tuple[Context, _Call]] = deque()
        self.closing = False
        self.ended = core.Event()
        self.reset()

    def reset(self) -> None:
        """Begin with nothing: the tasks of a parent process are not here."""
        self.queue.clear()
        self.free = self.places
        self.tasks: set[core.Task] = set()  # that make a call now
        self.active = 0  # those, and who is about to

    def submit(self, call: _Call) -> None:
        if core.loop_here() is not self.loop:
            self.queue.append((copy_context(), call))
            self.loop.call_from_thread(self.start)
        elif self.free > 0 and not self.queue:
            self.begin(call)
        else:
            self.queue.append((copy_context(), call))

    def begin(self, call: _Call) -> None:
        future, fn, args, kwargs = call
        place = _Place(self, future)
        self.free -= 1
        self.active += 1
        try:
            core.spawn(self.work, place, fn, args, kwargs)  # in a copy of the submitter's context
        except BaseException:  # out of memory
            place.pool = None
            self.free += 1
            self.active -= 1
            raise

    def start(self) -> None:
        """Begin what there is room for, first in, first out."""
        while self.free > 0 and self.queue:
            context, call = self.queue.popleft()
            try:
                context.run(self.begin, call)
            except Exception as exc:  # out of memory: whoever waits for the call is told
                call[0].set_exception(exc)
        if self.closing and not self.active and not self.queue:
            self.ended.set()

    def end_call(self) -> None:
        self.free += 1
        self.active -= 1
        self.start()

    def work(
        self, place: _Place, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        place.pool = None
        try:
            me = core.Task.current()
            self.tasks.add(me)
        except BaseException as exc:  # out of memory
            place.future.set_exception(exc)
            self.end_call()
            raise
        try:
            place.future._make_call(fn, args, kwargs)
        finally:
            if me in self.tasks:  # not in a child that it forked
                self.tasks.discard(me)
                self.end_call()

    def cancel_queued(self) -> None:
        cancelled = []
        while self.queue:
            cancelled.append(self.queue.popleft()[1][0])
        cancel_all(cancelled)

    def lend(self) -> bool:
        """Have another call take the place of the one that is about to wait; False: it is none of ours."""
        if core.loop_here() is not self.loop or core.Task.current() not in self.tasks:
            return False
        self.free += 1
        self.start()
        return True

    def take_back(self) -> None:
        self.free -= 1

    def in_call(self) -> bool:
        return core.loop_here() is self.loop and core.Task.current() in self.tasks


class TaskPoolExecutor(Executor):
    """Make calls in tasks, at most *max_workers* of them at a time, first come, first served.

    Each call has a task of its own, with a copy of the submitter's context variables.  The tasks run in
    the loop of the thread that made the executor; any thread may submit.  A call that waits for another
    call of the same pool gives up its place while it waits, so calls may submit calls and wait for
    them.  A call that was begun is not cancelled; a task that is killed in its call ends it with
    `TaskExit`.

    ValueError: *max_workers* is not positive.  RuntimeError: the thread has no event loop.
    """

    def __init__(self, max_workers: int) -> None:
        self._max_workers = check_max_workers(max_workers)
        self._pool = _TaskPool(max_workers, core.EventLoop.current())
        _pools.add(self._pool)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have fn(*args, **kwargs) be called in a task; return the future of its outcome.

        RuntimeError: after shutdown().
        """
        pool = self._pool
        if pool.closing:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[_T] = Future()
        future._pool = pool
        pool.submit((future, fn, args, kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait until those that were submitted have ended.

        With *cancel_futures*, those that have not begun are cancelled.  RuntimeError: a call of this
        pool would wait for itself.
        """
        pool = self._pool
        pool.closing = True
        if cancel_futures:
            pool.cancel_queued()
        if wait and (pool.active or pool.queue):
            if pool.in_call():
                raise RuntimeError("a call cannot wait for the shutdown of the pool that makes it")
            pool.ended.wait()

    def __repr__(self) -> str:
        pool = self._pool
        state = "shut down, " if pool.closing else ""
        return (
            f"<{type(self).__name__} at {id(self):#x}: {state}{len(pool.tasks)} of {pool.places} running, "
            f"{len(pool.queue)} queued>"
        )


_pools: weakref.WeakSet[_TaskPool] = weakref.WeakSet()


def _before_destroy(loop: core.EventLoop) -> None:
    for pool in list(_pools):
        if pool.loop is loop:
            pool.closing = True
            pool.cancel_queued()


def _after_fork_in_child() -> None:
    if not _policy.keep_tasks:
        for pool in list(_pools):
            pool.reset()


os.register_at_fork(after_in_child=_after_fork_in_child)
_policy.destroy_hooks.append(_before_destroy)
