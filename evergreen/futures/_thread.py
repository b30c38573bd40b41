"""`ThreadPoolExecutor`: calls in native threads, whatever is patched."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import weakref
from _queue import Empty, SimpleQueue
from collections.abc import Callable
from concurrent.futures._base import LOGGER
from concurrent.futures.thread import BrokenThreadPool
from itertools import count
from typing import Any, ParamSpec, TypeVar

from evergreen import _evergreen_c as core
from evergreen.futures import _native
from evergreen.futures._base import Executor, Future, cancel_all, check_max_workers

__all__ = ["ThreadPoolExecutor"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]
_exiting = False


class _ThreadPool:
    """What the threads of an executor share.

    No lock: a finaliser that shuts an executor down may run anywhere.  The queue is atomic, and so, under
    the GIL, is adding to a counter: no bytecode on the way lets another thread run.  A thread too many, if
    two submit at once, ends after its call.
    """

    def __init__(
        self, places: int, prefix: str, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
    ) -> None:
        self.places = places
        self.prefix = prefix
        self.initializer = initializer
        self.initargs = initargs
        self.closing = False
        self.broken = ""
        self.ended = core.Event()
        self.threads: set[threading.Thread] = set()
        self.reset()

    def reset(self) -> None:
        """Begin with nothing: the threads of a parent process are not here."""
        self.queue: SimpleQueue[_Call | None] = SimpleQueue()
        self.room = self.places  # threads that may still be started; less than 0: so many too many
        self.spare = 0  # idle threads, less the calls that are queued for them
        self.alive = 0
        self.waits: dict[int, int] = {}  # what each thread waits for of this pool, by its identity
        self.numbers = count()
        self.threads.clear()

    # -- from the outside --

    def submit(self, call: _Call) -> None:
        self.queue.put(call)
        self.spare -= 1
        if self.spare < 0 and self.room > 0:
            try:
                self.start()
            except (RuntimeError, MemoryError):  # no more threads: those that are there must do
                if not self.alive:
                    cancel_all([call[0]])
                    raise
        if self.broken:
            self.fail_queued()

    def start(self) -> None:
        self.room -= 1
        self.spare += 1
        self.alive += 1
        self.ended.clear()
        thread = threading.Thread(target=self.work, name=f"{self.prefix}_{next(self.numbers)}", daemon=False)
        try:
            _native.start(thread)
        except BaseException:
            self.leave()
            raise
        self.threads.add(thread)  # no earlier: who shuts down joins these

    def leave(self) -> None:
        """One thread less."""
        self.room += 1
        self.spare -= 1
        self.alive -= 1
        if self.closing and not self.alive:
            self.ended.set()

    def close(self) -> None:
        """Have the threads end when the queue is empty."""
        self.closing = True
        self.queue.put(None)
        if not self.alive:
            self.ended.set()

    def drain(self) -> list[Future[Any]]:
        """Take all calls out of the queue."""
        futures = []
        try:
            while True:
                call = self.queue.get_nowait()
                if call is not None:
                    self.spare += 1
                    futures.append(call[0])
        except Empty:
            if self.closing:
                self.queue.put(None)
        return futures

    def fail_queued(self) -> None:
        for future in self.drain():
            if future.set_running_or_notify_cancel():
                future.set_exception(BrokenThreadPool(self.broken))

    # -- in a thread of the pool --

    def work(self) -> None:
        me = _native.get_ident()
        core.count_pool_thread(1)
        try:
            self.waits[me] = 0
            if self.initialize():
                self.make_calls(core.signal_mask(core.SIGNAL_MASK_ALL))
        finally:
            self.waits.pop(me, None)
            core.count_pool_thread(-1)
            self.leave()

    def initialize(self) -> bool:
        if self.initializer is None:
            return True
        try:
            self.initializer(*self.initargs)
        except BaseException:
            LOGGER.critical("Exception in initializer:", exc_info=True)
            self.broken = "A thread initializer failed, the thread pool is not usable anymore"
            self.fail_queued()
            return False
        return True

    def make_calls(self, mask: int) -> None:
        """Calls have the signal mask that the thread began with; between them it receives no signal."""
        while True:
            call = self.queue.get()
            if call is None:  # the last thread to see this leaves it to whoever may still come
                try:
                    call = self.queue.get_nowait()
                except Empty:
                    pass
                self.queue.put(None)
                if call is None:
                    return
            future, fn, args, kwargs = call
            try:
                future._make_call(_under_mask, (mask, fn, args, kwargs), {})
            except BaseException:  # of a callback: the thread goes on
                LOGGER.critical("Exception in worker", exc_info=True)
            del call, future, fn, args, kwargs
            self.spare += 1
            if self.room < 0:
                self.threads.discard(threading.current_thread())
                return

    def lend(self) -> bool:
        """Have another thread take the place of this one, which is about to wait; False: not ours."""
        me = _native.get_ident()
        waits = self.waits.get(me)
        if waits is None:
            return False
        self.waits[me] = waits + 1
        if waits == 0:
            self.room += 1
            if self.spare < 0 and self.room > 0:
                try:
                    self.start()
                except BaseException:
                    self.take_back()
                    raise
        return True

    def take_back(self) -> None:
        me = _native.get_ident()
        self.waits[me] -= 1
        if not self.waits[me]:
            self.room -= 1


class ThreadPoolExecutor(Executor, concurrent.futures.ThreadPoolExecutor):
    """Make calls in up to *max_workers* native threads, first come, first served.

    Use it for what blocks natively and cannot be made to cooperate.  The threads are native also where
    `threading` is patched; they start as they are needed, run ``initializer(*initargs)`` first, and are
    named *thread_name_prefix* and a number.  A call that waits for another call of the same pool gives
    up its place while it waits: another thread is started for the calls that are queued, so calls may
    submit calls and wait for them.

    It is a `concurrent.futures.ThreadPoolExecutor`, and can be asyncio's default executor.  *max_workers*
    is 4 more than the processors there are, 32 at most, if it is None.  ValueError: it is not positive.
    """

    _names = count()

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if max_workers is None:
            max_workers = min(32, _processors() + 4)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._max_workers = check_max_workers(max_workers)
        prefix = thread_name_prefix or f"ThreadPoolExecutor-{next(self._names)}"
        self._pool = _ThreadPool(max_workers, prefix, initializer, initargs)
        self._threads = self._pool.threads
        _pools.add(self._pool)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have fn(*args, **kwargs) be called in a thread; return the future of its outcome.

        BrokenThreadPool: an initializer failed.  RuntimeError: after shutdown().
        """
        pool = self._pool
        if pool.broken:
            raise BrokenThreadPool(pool.broken)
        if pool.closing:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        future: Future[_T] = Future()
        future._pool = pool
        future._from_outside()
        pool.submit((future, fn, args, kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait until those that were submitted have ended.

        With *cancel_futures*, those that have not begun are cancelled.  RuntimeError: a call of this
        pool would wait for itself.
        """
        pool = self._pool
        pool.close()
        if cancel_futures:
            cancel_all(pool.drain())
        if wait:
            if _native.get_ident() in pool.waits:
                raise RuntimeError("a call cannot wait for the shutdown of the pool that makes it")
            _wait_for_end(pool)

    # What programs read of the standard library's.
    _broken = property(lambda self: self._pool.broken or False)
    _shutdown = property(lambda self: self._pool.closing)
    _work_queue = property(lambda self: self._pool.queue)

    def __del__(self) -> None:
        if hasattr(self, "_pool"):
            self._pool.close()

    def __repr__(self) -> str:
        pool = self._pool
        state = "shut down, " if pool.closing else ""
        return (
            f"<{type(self).__name__} {pool.prefix} at {id(self):#x}: {state}"
            f"{pool.alive} of {pool.places} threads, {max(0, -pool.spare)} queued>"
        )


def _under_mask(mask: int, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a call with this signal mask; whoever waits for it goes on when all signals are blocked again."""
    core.signal_mask(mask)
    try:
        return fn(*args, **kwargs)
    finally:
        core.signal_mask(core.SIGNAL_MASK_ALL)


def _processors() -> int:
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


def _wait_for_end(pool: _ThreadPool) -> None:
    if pool.alive:
        _native.wait(pool.ended)
    for thread in list(pool.threads):
        _native.join(thread)


_pools: weakref.WeakSet[_ThreadPool] = weakref.WeakSet()


def _at_exit() -> None:
    """Calls that were submitted are made before the interpreter ends, as in the standard library."""
    global _exiting
    _exiting = True
    pools = list(_pools)
    for pool in pools:
        pool.close()
    for pool in pools:
        _wait_for_end(pool)


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool.reset()


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # before non-daemon threads are joined
os.register_at_fork(after_in_child=_after_fork_in_child)
