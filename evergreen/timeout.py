"""Timeouts: bound the time that a block of code may wait.

Use them around anything that blocks; the block ends at its wait with an exception when the time is
up.  They stand on the core's alarms (``_evergreen_c/alarm.c``).
"""

from __future__ import annotations

from types import TracebackType

from evergreen._evergreen_c import Alarm

__all__ = ["Timeout"]


class Timeout(BaseException):
    """Raise *exception* in the current task, at its wait, after *seconds*.

    Without *exception*, the Timeout itself is raised.  With ``exception=False`` the context manager
    suppresses it, and the code after the block goes on.  ``seconds=None``, or negative, never
    expires.  A timeout that is left in time, or cancelled, raises nothing, even if it went off just
    before; nested ones act each on its own block::

        with Timeout(5, LookupError("no answer")):
            answer = channel.receive()
    """

    def __init__(
        self,
        seconds: float | None = None,
        exception: BaseException | type[BaseException] | bool | None = None,
    ) -> None:
        super().__init__(seconds, exception)
        self.seconds = seconds
        self.exception = exception
        self._alarm: Alarm | None = None

    def start(self) -> None:
        """Begin to count, in the current task.  RuntimeError if it counts already."""
        if self._alarm is not None and self._alarm.armed:
            raise RuntimeError(f"{self!r} is already started; to restart it, cancel it first")
        if self.seconds is None or self.seconds < 0:
            return
        self._alarm = Alarm()
        raises = self if self.exception is None or isinstance(self.exception, bool) else self.exception
        self._alarm.start(self.seconds, raises)

    def cancel(self) -> None:
        """Raise nothing any more.  Harmless if it does not count."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def __enter__(self) -> Timeout:
        if self._alarm is None:
            self.start()
        return self

    def __exit__(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> bool:
        self.cancel()
        return value is self and self.exception is False

    def __repr__(self) -> str:
        exception = "" if self.exception is None else f" exception={self.exception!r}"
        return f"<{type(self).__name__} at {id(self):#x} seconds={self.seconds}{exception}>"

    def __str__(self) -> str:
        if self.seconds is None:
            return ""
        text = f"{self.seconds} second" if self.seconds == 1 else f"{self.seconds} seconds"
        if self.exception is None or self.exception is True:
            return text
        return f"{text} (silent)" if self.exception is False else f"{text} ({self.exception})"
