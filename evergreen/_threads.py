"""Native threads for calls of Python functions that block, in lanes.

A lane is a bounded set of native threads with a queue of calls; it starts threads as they are
needed and lets them end when idle.  Work of one kind cannot starve another: the resolver has a
lane of its own.  The threads are native whatever is patched, because everything here is taken from
the unpatched functions.  (System calls of the core have lanes of their own, whose threads know no
Python: ``_evergreen_c/work.c``.)
"""

from __future__ import annotations

import os
from _queue import Empty, SimpleQueue

from evergreen import _evergreen_c as core

TYPE_CHECKING = False  # as in module typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

IDLE_SECONDS = 10.0  # how long a thread waits for more work before it ends
STALL_SECONDS = 0.25  # how long no call of a lane ends before it grows, if it may


def _loop_of_caller() -> core.EventLoop | None:
    """The loop that the caller is about to wait in; None in a native thread that has none."""
    try:
        return core.EventLoop.current()
    except RuntimeError:
        return None


class Call:
    """A call in a native thread, and its outcome."""

    __slots__ = ("_args", "_done", "_exc", "_fn", "_kwargs", "_loop", "_mask", "_result", "_started")

    def __init__(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], quiet: bool = False
    ) -> None:
        # A program that the call starts inherits the mask of its thread: it has to be the caller's.
        self._mask = None if quiet else core.signal_mask()
        self._fn: Callable[..., Any] | None = fn
        self._args = args
        self._kwargs = kwargs
        self._result: Any = None
        self._exc: BaseException | None = None
        self._started = False
        self._done = core.Event()
        self._loop = _loop_of_caller()
        if self._loop is not None:
            self._loop._pin(1)

    def _finish(self) -> None:
        self._fn, self._args, self._kwargs = None, (), {}
        self._done.set()
        if self._loop is not None:
            self._loop._pin(-1)
            self._loop = None

    def run(self) -> None:
        """Make the call, in the thread that this is run in, unless it was cancelled."""
        if self._fn is None:
            return
        self._started = True
        before = None
        try:
            if self._mask is not None:
                before = core.signal_mask(self._mask)
            self._result = self._fn(*self._args, **self._kwargs)
        except BaseException as exc:  # whoever waits gets it, whatever it is
            self._exc = exc
        try:
            if before is not None:
                core.signal_mask(before)
        finally:
            self._finish()
        self = None  # type: ignore[assignment]  # no cycle through the traceback

    def cancel(self) -> bool:
        """Have the call not be made; False if it was begun."""
        if self._started or self._fn is None:
            return False
        self.fail(core.TaskExit("the call was cancelled"))
        return True

    def fail(self, exc: BaseException) -> None:
        """Have get() raise this."""
        self._exc = exc
        self._finish()

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the call; return its result or raise its exception; TimeoutError: not in time."""
        if not self._done.wait(timeout):
            raise TimeoutError("the call has not ended in time")
        if self._exc is not None:
            try:
                raise self._exc
            finally:
                self = None  # type: ignore[assignment]  # no cycle through the traceback
        return self._result


def is_ending(exc: RuntimeError) -> bool:
    """Whether no thread was started because the interpreter ends (3.12 and later)."""
    return "interpreter shutdown" in str(exc)


class Lane:
    """Up to *limit* native threads that work through one queue of calls.

    One that *grows* starts more while none of its calls ends: they may never end.
    """

    def __init__(self, name: str, limit: int, *, grows: bool = False) -> None:
        self.name = name
        self.limit = limit
        self.grows = grows
        self.reset()

    def reset(self) -> None:
        """Start afresh: the threads of a parent process are not here."""
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self._threads = 0
        self._waiting = 0  # threads idle, less the calls that are queued for them
        self._ended = 0  # calls

    def submit(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], quiet: bool = False
    ) -> Call:
        """Queue a call; start a thread for it if all are busy and there may be more.

        A *quiet* call starts no program, and receives no signal: all are blocked in its thread.  Others have
        the caller's signal mask.
        """
        call = Call(fn, args, kwargs, quiet)
        try:
            self._calls.put(call)
        except BaseException:  # out of memory
            call.cancel()
            raise
        self._waiting -= 1
        if self._waiting < 0 and (self._threads < self.limit or _get_ident() in _workers):
            try:
                self._start()
            except (RuntimeError, MemoryError):
                if not self._threads:  # else one of those that are there will make it
                    call.cancel()
                    raise
        return call

    def _start(self) -> None:
        self._threads += 1
        self._waiting += 1
        try:
            start_native_thread(self._work, ())
        except BaseException:
            self._threads -= 1
            self._waiting -= 1
            raise

    def _wait_for_start(self, call: Call) -> None:
        """Return when the call was begun, or is over; see to it that it is."""
        while True:
            ended = self._ended
            if call._done.wait(STALL_SECONDS) or call._started:
                return
            if ended == self._ended and self._waiting < 0:
                try:
                    self._start()
                except (RuntimeError, MemoryError):
                    pass  # no thread now: it waits for one of those that are there

    def run(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], quiet: bool = False
    ) -> Any:
        """Make the call in a native thread and wait; killed before it began, it is not made.

        A call from within another's thread is made there and then, or, if that thread has a loop of its
        own, may start a thread over the limit: those of the lane may all be waiting for it.  While the
        interpreter ends, and no thread can be started, the call is made there and then, too.
        """
        if _get_ident() in _workers and core.loop_here() is None:
            return fn(*args, **kwargs)
        try:
            call = self.submit(fn, args, kwargs, quiet)
        except RuntimeError as exc:
            if not is_ending(exc):
                raise
            call = None
        if call is None:  # as if nothing were patched, for the sake of atexit functions
            return fn(*args, **kwargs)
        try:
            if self.grows:
                self._wait_for_start(call)
            return call.get()
        except BaseException:
            call.cancel()
            raise
        finally:
            del call  # no cycle through the traceback

    def _work(self) -> None:
        core.count_pool_thread(1)
        calls = self._calls
        try:
            _workers.add(_get_ident())
            while True:
                try:
                    call = calls.get(timeout=IDLE_SECONDS)
                except Empty:
                    if not calls.empty():
                        continue
                    break
                call.run()
                del call
                self._waiting += 1
                self._ended += 1
        except MemoryError:
            self._fail_next(calls)
            raise
        finally:
            self._threads -= 1
            self._waiting -= 1
            _workers.discard(_get_ident())
            core.count_pool_thread(-1)

    def _fail_next(self, calls: SimpleQueue[Call]) -> None:
        """This thread ends for want of memory: the call that it was to make is not left to nobody."""
        if self._threads > 1:
            return  # another thread will make it
        try:
            call = calls.get_nowait()
        except Empty:
            return
        self._waiting += 1
        call.fail(MemoryError("a thread found no memory to begin with"))


_start_new_thread = core.patch_native("_thread", "start_new_thread")


def start_native_thread(function: Callable[..., object], args: tuple[Any, ...]) -> None:
    """Start a native thread of our own, in which all signals are blocked.

    The system gives a signal of the process to any thread that does not block it: one that a program blocks
    in order to wait for it must not end the process from here.
    """
    before = core.signal_mask(core.SIGNAL_MASK_ALL)
    try:
        _start_new_thread(function, args)
    finally:
        core.signal_mask(before)


_get_ident: Callable[[], int] = core.patch_native("_thread", "get_ident")
_workers: set[int] = set()  # the identities of all lanes' threads

dns = Lane("dns", 16, grows=True)
file = Lane("file", 16, grows=True)
user = Lane("user", 32)
# Computation in C, without the GIL.  More of it at once would take the processors from the loops, and, as
# threads of a process share its table of pages, hold them up in each fault.
compute = Lane("compute", max(1, len(os.sched_getaffinity(0)) - 1))
slow = Lane("slow", 1_000_000)  # waits without end: for children, locks of other processes, and the like
lanes = {lane.name: lane for lane in (dns, file, user, compute)}


def after_fork_in_child() -> None:
    """The parent's threads and calls are not the child's."""
    _workers.clear()
    for lane in (*lanes.values(), slow):
        lane.reset()
