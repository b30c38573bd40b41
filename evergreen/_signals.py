"""`evergreen.signals`: signals as something to iterate over."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator
from types import TracebackType

from evergreen._evergreen_c import Event, EventLoop
from evergreen._policy import SignalHandler


class signals(Iterator[signal.Signals]):
    """The signals that arrive while the block runs, one after the other::

        with evergreen.signals(SIGHUP, SIGTERM) as arriving:
            for signum in arriving:
                if signum == SIGTERM:
                    break
                reload()

    Those of the main thread's loop.  What arrives while nobody iterates is kept.  At the end of the block the
    handlers of before are back, and who still waits sees the end.  ValueError: no signal; RuntimeError: one
    that cannot be handled, or not in the main thread (`EventLoop.add_signal_handler`).
    """

    def __init__(self, *signums: int) -> None:
        if not signums:
            raise TypeError("signals() needs a signal")
        self._signums = tuple(signal.Signals(signum) for signum in signums)
        self._handlers: list[SignalHandler] = []
        self._arrived: deque[signal.Signals] = deque()
        self._something = Event()

    def __enter__(self) -> signals:
        if self._handlers:
            raise RuntimeError("this block was entered already")
        loop = EventLoop.current()
        try:
            for signum in self._signums:
                self._handlers.append(loop.add_signal_handler(signum, self._on_signal, signum))
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, typ: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        for handler in self._handlers:
            handler.cancel()
        self._handlers.clear()
        self._something.set()

    def _on_signal(self, signum: signal.Signals) -> None:
        self._arrived.append(signum)
        self._something.set()

    def next(self, timeout: float | None = None) -> signal.Signals:
        """Wait for the next signal; TimeoutError: none in *timeout* seconds; StopIteration: the end."""
        while not self._arrived:
            if not self._handlers:
                raise StopIteration
            self._something.clear()
            if not self._something.wait(timeout):
                raise TimeoutError("no signal has arrived in time")
        return self._arrived.popleft()

    def __next__(self) -> signal.Signals:
        return self.next()

    def __repr__(self) -> str:
        return f"<signals {', '.join(signum.name for signum in self._signums)}>"
