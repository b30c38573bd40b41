"""`Future`, `wait`, `as_completed` and the base of all executors.

A future's states and waiters are in C (``_evergreen_c/future.c``); here is what touches the standard
library.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from concurrent.futures._base import LOGGER, DoneAndNotDoneFutures
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

from evergreen import _evergreen_c as core
from evergreen._threads import _loop_of_caller as loop_of_caller

__all__ = ["ChunkingExecutor", "Executor", "Future", "Pool", "Relay", "as_completed", "wait", "waiting_for"]

_T = TypeVar("_T")
_StdFuture = concurrent.futures.Future
_DONE = ("CANCELLED_AND_NOTIFIED", "FINISHED")


class Future(core.FutureCore[_T], concurrent.futures.Future[_T]):
    """The outcome of a call that is made elsewhere: what `Executor.submit` returns.

    It is a `concurrent.futures.Future`.  The methods that wait park a task and block a native thread;
    a task that is killed while it waits leaves the future as it was.  Any task and any thread may
    complete it.  `done` and `cancelled` give the answer as properties, as in version 0.2, and as
    methods, as in the standard library.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        state = self._state
        if state == "PENDING" and self.running():
            state = "RUNNING"
        shown = "cancelled" if state == "CANCELLED_AND_NOTIFIED" else state.lower()
        if state == "FINISHED":
            raised = self._exception
            shown += (
                f" raised {type(raised).__name__}" if raised else f" returned {type(self._result).__name__}"
            )
        return f"<{type(self).__name__} at {id(self):#x} state={shown}>"

    def _make_condition(self) -> threading.Condition:
        """What the standard library's wait() takes hold of.

        Native: a future can be completed where nothing may park, and nobody parks while holding it.
        """
        from evergreen import patcher

        return threading.Condition(patcher.original("_thread").RLock())

    def _callback_failed(self, exc: Exception) -> None:
        LOGGER.error("exception calling callback for %r", self, exc_info=exc)

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """What asyncio copies, since 3.14: done, cancelled, result, exception."""
        if self._state == "FINISHED":
            return True, False, self._result, self._exception
        cancelled = self.cancelled()
        return cancelled, cancelled, None, None


class Relay(Future[_T]):
    """A future that stands for one of another executor."""

    __slots__ = ("_inner",)
    _inner: concurrent.futures.Future[_T]

    def follow(self, inner: concurrent.futures.Future[_T]) -> Relay[_T]:
        """Become done when *inner* does, and in the same way."""
        self._inner = inner
        self._from_outside()
        inner.add_done_callback(self._copy)
        return self

    def _copy(self, inner: concurrent.futures.Future[_T]) -> None:
        if inner.cancelled():
            Future.cancel(self)
            self.set_running_or_notify_cancel()
        elif (exc := inner.exception()) is not None:
            self.set_exception(exc)
        else:
            self.set_result(inner.result())

    def cancel(self) -> bool:
        """Have the call not be made, if its executor has not begun it."""
        return self._inner.cancel() and self.cancelled()

    def running(self) -> bool:
        """Return whether its executor says that the call is being made."""
        return not self.done() and self._inner.running()


# ---- waiting for several -------------------------------------------------------------------------


class Pool(Protocol):
    """Whose workers make the calls of an executor, as a future knows it."""

    def lend(self) -> bool:
        """Have another worker take the place of the caller, who is about to wait; False: he has none."""

    def take_back(self) -> object:
        """Give the caller his place again."""


class waiting_for:  # noqa: N801  # reads as a sentence: with waiting_for(futures): ...
    """A block that waits for some of these futures otherwise than by their methods.

    Around it, a worker that waits for its own pool lends its place, and the loop knows that the
    outside will wake it.
    """

    def __init__(self, futures: Iterable[concurrent.futures.Future[Any]]) -> None:
        self._pools: set[Any] = set()
        self._outside = False
        for future in futures:
            if isinstance(future, Future):
                self._pools.add(future._pool)
                self._outside = self._outside or future._outside
            else:
                self._outside = True
        self._pools.discard(None)

    def __enter__(self) -> None:
        self._lent = [pool for pool in self._pools if pool.lend()]
        self._loop = loop_of_caller() if self._outside else None
        if self._loop is not None:
            self._loop._pin(1)

    def __exit__(self, *exc_info: object) -> None:
        if self._loop is not None:
            self._loop._pin(-1)
        for pool in self._lent:
            pool.take_back()


class _Waiter:
    """What futures tell of their outcome: those of the standard library know this interface."""

    __slots__ = ("_at_exception", "_wanted", "done", "event")

    def __init__(self, wanted: int, at_exception: bool = False) -> None:
        self.done: deque[Any] = deque()  # in the order of completion; appending is atomic
        self.event = core.Event()
        self._wanted = wanted
        self._at_exception = at_exception

    def add_result(self, future: object) -> None:
        self.done.append(future)
        if len(self.done) >= self._wanted:
            self.event.set()

    add_cancelled = add_result

    def add_exception(self, future: object) -> None:
        self.add_result(future)
        if self._at_exception:
            self.event.set()

    def watch(self, future: Any) -> None:
        """Be told of the outcome, now if it is there."""
        if isinstance(future, Future):
            if future._enlist(self):
                return
        else:
            with future._condition:
                if future._state not in _DONE:
                    future._waiters.append(self)
                    return
        if future._state == "FINISHED" and future._exception is not None:
            self.add_exception(future)
        else:
            self.add_result(future)

    def leave(self, future: Any) -> None:
        """Be told no more."""
        if isinstance(future, Future):
            future._discharge(self)
        else:
            with future._condition:
                if self in future._waiters:
                    future._waiters.remove(self)


def wait(
    fs: Iterable[concurrent.futures.Future[_T]],
    timeout: float | None = None,
    return_when: str = ALL_COMPLETED,
) -> DoneAndNotDoneFutures[_T]:
    """Wait for futures, of any executors; return two sets, ``done`` and ``not_done``.

    It returns after *timeout* seconds, or when *return_when* says: when one is done
    (``FIRST_COMPLETED``), when one has raised or all are done (``FIRST_EXCEPTION``), or when all are
    (``ALL_COMPLETED``).  As in the standard library a cancelled call counts as done when its executor
    has noticed.  ValueError: *return_when* is none of these.
    """
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(f"Invalid return condition: {return_when!r}")
    futures = set(fs)
    wanted = 1 if return_when == FIRST_COMPLETED else len(futures)
    waiter = _Waiter(wanted, at_exception=return_when == FIRST_EXCEPTION)
    try:
        for future in futures:
            waiter.watch(future)
        if futures and not waiter.event.is_set():
            with waiting_for(futures):
                waiter.event.wait(timeout)
        done = set(waiter.done)
    finally:
        for future in futures:
            waiter.leave(future)
    return DoneAndNotDoneFutures(done, futures - done)


def as_completed(
    fs: Iterable[concurrent.futures.Future[_T]], timeout: float | None = None
) -> Iterator[concurrent.futures.Future[_T]]:
    """Iterate over futures, of any executors, in the order in which they are done.

    TimeoutError comes out of the iterator if they are not all done *timeout* seconds after this call.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    return _in_order(set(fs), deadline)


def _in_order(
    futures: set[concurrent.futures.Future[_T]], deadline: float | None
) -> Generator[concurrent.futures.Future[_T], None, None]:
    total = len(futures)
    waiter = _Waiter(1)
    patience = waiting_for(futures)
    try:
        for future in futures:
            waiter.watch(future)
        future = None  # type: ignore[assignment]  # what was handed out is not kept
        while futures:
            if waiter.done:
                yield _take(waiter, futures)
                continue
            waiter.event.clear()
            if waiter.done:
                continue
            timeout = None if deadline is None else deadline - time.monotonic()
            if timeout is not None and timeout < 0:
                raise TimeoutError(f"{len(futures)} (of {total}) futures unfinished")
            with patience:
                waiter.event.wait(timeout)
    finally:
        for future in futures:
            waiter.leave(future)


def _take(waiter: _Waiter, futures: set[concurrent.futures.Future[_T]]) -> concurrent.futures.Future[_T]:
    future: concurrent.futures.Future[_T] = waiter.done.popleft()
    futures.discard(future)
    waiter.leave(future)
    return future


# ---- executors -----------------------------------------------------------------------------------


class Executor(concurrent.futures.Executor):
    """The base of all executors here; a `concurrent.futures.Executor`."""

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Call *fn* with the items of the iterables, as `map` does; the calls run beside each other.

        The results come in order, each when it is asked for and there.  All calls are submitted at
        once, or, with *buffersize*, no more than so many ahead of the results.  *chunksize* is for pools of
        processes, which make so many calls at a time.  When the iterator is closed or dropped, calls
        that have not begun are cancelled.  TimeoutError comes out of it if a result is not there
        *timeout* seconds after this call.
        """
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables)  # noqa: B905  # as map() does
        ahead = deque(self.submit(fn, *args) for args in islice(calls, buffersize))
        # An executor that is dropped shuts down; so what has nothing to submit does not hold it.
        submit = None if buffersize is None else self.submit

        def results() -> Generator[_T, None, None]:
            try:
                while ahead:
                    if submit is not None:
                        ahead.extend(submit(fn, *args) for args in islice(calls, 1))
                    yield _result_or_cancel(
                        ahead.popleft(), None if deadline is None else deadline - time.monotonic()
                    )
            finally:
                for future in ahead:
                    future.cancel()

        return results()


def _result_or_cancel(future: concurrent.futures.Future[_T], timeout: float | None) -> _T:
    try:
        return future.result(timeout)
    finally:
        future.cancel()
        del future  # no cycle through the traceback


class ChunkingExecutor(Executor):
    """One whose calls are costly to hand over: map() can hand over several at a time."""

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Call *fn* with the items of the iterables, *chunksize* of them at a time; see `Executor.map`.

        ValueError: *chunksize* is not positive.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout, buffersize=buffersize)
        # The standard library's, so that a process which makes the calls needs no Evergreen.
        from concurrent.futures.process import _process_chunk

        chunks = _chunks(zip(*iterables), chunksize)  # noqa: B905  # as map() does
        return _flat(super().map(partial(_process_chunk, fn), chunks, timeout=timeout, buffersize=buffersize))


def _chunks(calls: Iterator[tuple[Any, ...]], size: int) -> Iterator[tuple[tuple[Any, ...], ...]]:
    while chunk := tuple(islice(calls, size)):
        yield chunk


def _flat(lists: Iterator[list[_T]]) -> Iterator[_T]:
    for results in lists:
        results.reverse()
        while results:
            yield results.pop()  # what was handed out is not kept


def check_max_workers(max_workers: int) -> int:
    """Return it, or raise ValueError or TypeError."""
    if not isinstance(max_workers, int):
        raise TypeError(f"max_workers must be an integer, not {max_workers!r}")
    if max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    return max_workers


def cancel_all(futures: Collection[Future[Any]]) -> None:
    """Cancel calls that will never be begun, and tell who waits for them."""
    for future in futures:
        if future.cancel():
            future.set_running_or_notify_cancel()
