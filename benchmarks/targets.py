"""What the figures must show.  One line per claim; `run.py` marks each ok or short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from frameworks import OURS

__all__ = ["TARGETS", "AtMost", "Faster", "Growth", "Target", "Within"]

# (framework, count) -> the median of the target's column; None if it was not measured.
Median = Callable[[str, int], float | None]


@dataclass(frozen=True)
class Target:
    """A claim about one workload, shown in the row of one framework and count.

    column: what it is about; the workload's first column if it is not said.
    """

    workload: str
    column: str = field(default="", kw_only=True)

    def row(self, counts: tuple[int, ...]) -> tuple[str, int]:
        """Return the framework and the count in whose row the claim is shown."""
        return OURS, counts[-1]

    def figure(self, median: Median, counts: tuple[int, ...]) -> float | None:
        """Return what the claim is about; None if something it needs was not measured."""
        raise NotImplementedError

    def met(self, figure: float) -> bool:
        raise NotImplementedError

    def peers(self) -> tuple[str, ...]:
        """Return with whom Evergreen is compared."""
        return ()

    def _of(self) -> str:
        return f"{self.column} " if self.column else ""

    def __str__(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class Faster(Target):
    """The peer's median is at least *times* Evergreen's."""

    peer: str
    times: float

    def row(self, counts):
        return self.peer, counts[-1]

    def peers(self):
        return (self.peer,)

    def figure(self, median, counts):
        return _ratio(median(self.peer, counts[-1]), median(OURS, counts[-1]))

    def met(self, figure):
        return figure >= self.times

    def __str__(self):
        return f"{self._of()}{self.peer} ≥ {self.times:g} ×"


@dataclass(frozen=True)
class Within(Target):
    """Evergreen's median is at most *times* that of the peer, a floor."""

    floor: str
    times: float

    def peers(self):
        return (self.floor,)

    def figure(self, median, counts):
        return _ratio(median(OURS, counts[-1]), median(self.floor, counts[-1]))

    def met(self, figure):
        return figure <= self.times

    def __str__(self):
        return f"{self._of()}≤ {self.times:g} × {self.floor}"


@dataclass(frozen=True)
class AtMost(Target):
    """Evergreen's median is at most *limit*."""

    limit: float
    unit: str

    def figure(self, median, counts):
        return median(OURS, counts[-1])

    def met(self, figure):
        return figure <= self.limit

    def __str__(self):
        return f"{self._of()}≤ {self.limit:g} {self.unit}"


@dataclass(frozen=True)
class Growth(Target):
    """Evergreen's cost per operation at the largest count is at most *times* that at the smallest."""

    times: float

    def figure(self, median, counts):
        return _ratio(median(OURS, counts[-1]), median(OURS, counts[0]))

    def met(self, figure):
        return figure <= self.times

    def __str__(self):
        return f"{self._of()}≤ {self.times:g} × the smallest"


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


TARGETS: tuple[Target, ...] = (
    Faster("spawn_join", "gevent", 20),
    Faster("spawn_join", "uvloop", 4),
    Faster("spawn_yield_join", "gevent", 4),
    Faster("yield2", "gevent", 5),
    Faster("yield2", "uvloop", 2),
    Within("yield2", "greenlet_c", 1.3),
    Faster("yield1000", "gevent", 5),
    Faster("yield1000", "uvloop", 2),
    Faster("sleepers", "gevent", 3),
    Faster("kill", "gevent", 2),
    Faster("call_soon", "gevent", 3),
    Within("call_soon", "asyncio", 0.5),
    Faster("lock", "gevent", 1.8),
    Faster("semaphore", "gevent", 1.8),
    Faster("lock100", "gevent", 6),
    Faster("queue", "gevent", 1.5),
    Faster("queue1", "gevent", 10),
    Faster("ring", "gevent", 8),
    Faster("event", "gevent", 6),
    Faster("event", "asyncio", 0.8),
    Faster("timeout", "gevent", 6),
    Faster("local", "gevent", 2),
    Faster("local", "asyncio", 0.9),
    Growth("waiters", 1.5),
    AtMost("memory", 3.6, "KB"),
    Growth("growth", 1.3),
    AtMost("latency_timer", 2, "ms"),
    AtMost("latency_socket", 2, "ms"),
    Within("read4k", "plain", 3),
    Faster("name", "gevent", 1.2),
    Within("child", "plain", 1.3),
    Faster("echo1k", "libuv", 0.92),
    Faster("echo1k", "uvloop_protocol", 1.1),
    Faster("echo1k", "uvloop", 1.4),
    Faster("echo1k", "gevent", 2),
    Within("echo1k", "uvloop", 1, column="p99"),
    Faster("echo64k", "libuv", 0.75),
    Faster("echo64k", "gevent", 1.1),
    Faster("echo64k", "uvloop", 1.5),
    Faster("tls1k", "gevent", 1.3),
    Faster("tls1k", "asyncio", 1),
    Faster("udp1k", "gevent", 1.2),
    Faster("accept", "gevent", 1.8),
    Faster("idle", "uvloop", 1.5),
    Faster("idle", "gevent", 1.8),
    AtMost("idle_memory", 4.8, "KB"),
    Faster("sockets1k", "gevent", 1.7),
    Faster("sockets1k", "uvloop", 2),
    Faster("recv_ready", "gevent", 1.9),
    Growth("timers_fire", 1.3),
    AtMost("cold4k", 2, "ms"),
    Within("lock_patched", "plain", 1.3),
    Within("lock_native", "plain", 1.05),
    Within("socket_native", "plain", 1.05),
    Faster("crawl_urllib3", "gevent", 1.1),
    Faster("crawl_urllib3", "eventlet", 1.1),
    Faster("crawl_requests", "gevent", 1.1),
    Faster("crawl_requests", "eventlet", 1.1),
    Within("import", "gevent", 0.4),
    AtMost("run_nothing", 2, "ms"),
)
