"""Pools: a bounded number of tasks at once, over any amount of work.

Use one to go through more work than can be under way at a time (pages to fetch, files to convert);
the work is taken from its iterable only as fast as tasks become free.  `TaskGroup` is for tasks
that belong to a block; `futures.TaskPoolExecutor` has the interface of `concurrent.futures`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

from evergreen._evergreen_c import Event, Queue, Semaphore, Task, shield, spawn

__all__ = ["Pool"]

_R = TypeVar("_R")


class Pool:
    """At most *size* tasks at a time; as a context manager it joins them, or kills them on error."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a pool needs room for at least one task, not {size}")
        self._size = size
        self._free = Semaphore(size)
        self._tasks: set[Task] = set()
        self._empty = Event()
        self._empty.set()

    @property
    def size(self) -> int:
        """How many tasks there may be at a time."""
        return self._size

    def __len__(self) -> int:
        """How many tasks there are now."""
        return len(self._tasks)

    def spawn(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task:
        """Spawn function(*args, **kwargs) as a task of the pool, waiting for room; return it."""
        self._free.acquire()
        try:
            task = spawn(function, *args, **kwargs)
        except BaseException:
            self._free.release()
            raise
        try:
            self._tasks.add(task)
            self._empty.clear()
            task.add_done_callback(self._on_end)
        except BaseException:  # out of memory: it has not run, and never will
            task.kill()
            self._on_end(task)
            raise
        return task

    def _on_end(self, task: Task) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._empty.set()
        self._free.release()

    def map(self, function: Callable[..., _R], *iterables: Iterable[Any]) -> list[_R]:
        """Return [function(*args) for args in zip(*iterables)], computed by tasks of the pool.

        The first exception kills the tasks that are still at it, and is raised.
        """
        results: dict[int, _R] = {}
        for place, result in self._unordered(function, iterables, ahead=None):
            results[place] = result
        return [results[place] for place in range(len(results))]

    def imap(self, function: Callable[..., _R], *iterables: Iterable[Any]) -> Iterator[_R]:
        """Iterate over function(*args) for args in zip(*iterables), in that order.

        At most *size* results are computed ahead of what was taken, and no more of the input is.  An
        exception is raised in its turn; that, and leaving the iteration early, kill the tasks that
        are still at it.
        """
        ahead: deque[Task] = deque()
        calls = zip(*iterables)  # noqa: B905  (as the built-in map() has it)
        more = True
        try:
            while more or ahead:
                if more and len(ahead) < self._size:
                    args = next(calls, None)
                    more = args is not None
                    if args is not None:
                        ahead.append(self.spawn(function, *args))
                else:
                    result = ahead[0].result()
                    ahead.popleft()
                    yield result
        finally:
            _drop(ahead)

    def imap_unordered(self, function: Callable[..., _R], *iterables: Iterable[Any]) -> Iterator[_R]:
        """The same as `imap`, but each result as soon as it is there."""
        for _, result in self._unordered(function, iterables, ahead=self._size):
            yield result

    def _unordered(
        self, function: Callable[..., _R], iterables: tuple[Iterable[Any], ...], ahead: int | None
    ) -> Iterator[tuple[int, _R]]:
        """Iterate over (place, result), at most *ahead* computed and not taken."""
        ended: Queue[Task] = Queue()
        places: dict[Task, int] = {}

        calls = enumerate(zip(*iterables))  # noqa: B905
        more = True
        try:
            while more or places:
                if more and len(places) != ahead and ended.empty():
                    place, args = next(calls, (-1, ()))
                    more = place >= 0
                    if more:
                        task = self.spawn(function, *args)
                        places[task] = place
                        task.add_done_callback(ended.put_nowait)
                else:
                    task = ended.get()
                    yield places.pop(task), task.result()
        finally:
            _drop(places)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until no task is left, *timeout* seconds at most; return whether that is so."""
        return self._empty.wait(timeout)

    def kill(self, reason: object = None) -> None:
        """Kill all tasks of the pool; do not wait for them."""
        for task in tuple(self._tasks):
            task.kill(reason=reason)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if value is None:
                self.join()
        finally:
            _end(self._tasks)


def _end(tasks: Iterable[Task]) -> None:
    """Kill *tasks*, and wait for their clean-up."""
    left = [task for task in tasks if task.is_alive()]
    for task in left:
        task.kill(reason="its pool has no use for it")
    with shield():
        for task in left:
            task.join()


def _drop(tasks: Iterable[Task]) -> None:
    """End *tasks*; of several that failed, the caller was told the first."""
    ended = [task for task in tasks if not task.is_alive()]
    _end(tasks)
    for task in ended:
        with suppress(BaseException):
            task.result()
