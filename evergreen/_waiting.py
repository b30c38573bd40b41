"""Waiting for several things at once: what stands behind `evergreen.wait` and `evergreen.iwait`."""

from __future__ import annotations

import time

from evergreen._evergreen_c import Channel, Event, Queue, RLock, Semaphore, Task, Watch

TYPE_CHECKING = False  # as in module typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_WATCHED = (Task, Event, Semaphore, RLock, Queue, Channel)


def _watchable(thing: Any) -> Any:
    """Return what a Watch takes for *thing*: itself, or an event that is set when it is done."""
    if isinstance(thing, _WATCHED) or not hasattr(thing, "add_done_callback"):
        return thing
    return _event_of(thing)


_events: Any = None  # by future, weakly; made when first needed


def _event_of(future: Any) -> Event:
    """Return the event that is set when a future is done: one, however often it is waited for.

    A callback cannot be taken back, and each wait that is given up would leave one in the future.
    """
    global _events
    if _events is None:
        from weakref import WeakKeyDictionary  # not before: it takes long to import

        _events = WeakKeyDictionary()
    try:
        known: Event | None = _events.get(future)
        if known is not None:
            return known
        event = _events[future] = Event()
    except TypeError:  # there are no weak references to it
        event = Event()
    future.add_done_callback(lambda _: event.set())
    return event


def iwait(objects: Iterable[Any], count: int | None = None, timeout: float | None = None) -> Iterator[Any]:
    """Iterate over *objects* in the order in which they become ready.

    A task is ready when it has ended, a future when it is done, an event when it is set, a lock or
    semaphore when it is free, a queue or channel when there is something to receive; nothing is
    taken from them, so somebody else may be quicker.  One that is there twice comes once.  Stop after
    *count* of them, after *timeout* seconds, or after all.
    """
    if count is not None and count < 0:
        raise ValueError(f"count must not be negative: {count}")
    things = list({id(thing): thing for thing in objects}.values())
    proxies = [_watchable(thing) for thing in things]
    origin = {id(proxy): thing for proxy, thing in zip(proxies, things, strict=True)}
    deadline = None if timeout is None else time.monotonic() + timeout
    watch = Watch(proxies)
    return _take(watch, origin, watch.left if count is None else min(count, watch.left), deadline)


def _take(watch: Watch, origin: dict[int, Any], count: int, deadline: float | None) -> Iterator[Any]:
    try:
        for _ in range(count):
            proxy = watch.take(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if proxy is None:
                return
            yield origin[id(proxy)]
    finally:
        watch.close()


def wait(objects: Iterable[Any], count: int | None = None, timeout: float | None = None) -> list[Any]:
    """Wait until *count* of *objects* are ready, all if None, for *timeout* seconds at most.

    Return those that are, in the order in which they became so; see `iwait` for what that means.
    Nothing is raised if the time is up, and the exception of a task stays where it is.
    """
    return list(iwait(objects, count, timeout))
