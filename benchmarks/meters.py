"""What a workload is measured with: an adapter puts it around the work, never around the set-up.

Each meter names its columns; the first is the figure that targets and ratios are about.  Lower is always
better.
"""

from __future__ import annotations

import gc
import math
import os
import resource
import subprocess
import time
from dataclasses import dataclass

__all__ = ["Clock", "Column", "Lateness", "Memory", "Meter", "Served", "Stall", "Startup", "WallClock"]


@dataclass(frozen=True)
class Column:
    key: str
    unit: str


class Meter:
    """The base: columns, and whether a measurement may be repeated in the same process.

    steady: whether two runs can be compared; a single delay depends on whatever else the machine does.
    """

    columns: tuple[Column, ...]
    repeatable = False
    steady = True

    def result(self, count: int) -> dict[str, float]:
        """Return a figure for each column, for work that consisted of *count* operations."""
        raise NotImplementedError


class Clock(Meter):
    """CPU time (user and system, all threads) and wall time of a ``with`` block, in µs per operation.

    The garbage collector runs before the block and stays enabled in it, as it is for users.
    """

    columns = (Column("cpu", "µs"), Column("wall", "µs"))
    repeatable = True

    def __init__(self) -> None:
        self.cpu = 0.0
        self.wall = 0.0

    def __enter__(self) -> Clock:
        gc.collect()
        self.wall -= time.perf_counter()
        self.cpu -= time.process_time()
        return self

    def __exit__(self, *exc_info) -> None:
        self.cpu += time.process_time()
        self.wall += time.perf_counter()

    def add(self, cpu: float, wall: float) -> None:
        """Take over the seconds that another process has measured of itself, instead of a ``with`` block."""
        self.cpu += cpu
        self.wall += wall

    def result(self, count: int) -> dict[str, float]:
        return {"cpu": self.cpu / count * 1e6, "wall": self.wall / count * 1e6}


class WallClock(Clock):
    """The same, for what is done by other processes: wall time first."""

    columns = (Column("wall", "µs"), Column("cpu", "µs"))


class Served(Clock):
    """The same of a server, and what its clients saw: how long a message took, the 99th percentile, in µs."""

    columns = (*Clock.columns, Column("p99", "µs"))

    def __init__(self) -> None:
        super().__init__()
        self.p99 = 0.0

    def latencies(self, seen: dict[str, float]) -> None:
        """Record what the clients report, in seconds."""
        self.p99 = seen["p99"]

    def result(self, count: int) -> dict[str, float]:
        return {**super().result(count), "p99": self.p99 * 1e6}


class Memory(Meter):
    """Growth of the resident set over a ``with`` block, in KB (1024 bytes) per operation.  Linux only."""

    columns = (Column("rss", "KB"),)

    def __init__(self) -> None:
        self.grown = 0

    def __enter__(self) -> Memory:
        gc.collect()
        self.grown -= _resident_bytes()
        return self

    def __exit__(self, *exc_info) -> None:
        self.grown += _resident_bytes()

    def latencies(self, seen: dict[str, float]) -> None:
        """Clients report how long messages took; here that is of no interest."""

    def result(self, count: int) -> dict[str, float]:
        return {"rss": self.grown / count / 1024}


class Lateness(Meter):
    """How late things were seen: the latest, and the 99th percentile, in ms."""

    columns = (Column("max", "ms"), Column("p99", "ms"))
    steady = False

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def add(self, seconds: float) -> None:
        """Record that something was seen *seconds* after it was due."""
        self.seconds.append(seconds)

    def result(self, count: int) -> dict[str, float]:
        if len(self.seconds) != count:
            raise RuntimeError(f"{count} delays were to be recorded, not {len(self.seconds)}")
        return self._worst()

    def _worst(self) -> dict[str, float]:
        ordered = sorted(self.seconds)
        return {"max": ordered[-1] * 1e3, "p99": ordered[math.ceil(0.99 * len(ordered)) - 1] * 1e3}


class Stall(Lateness):
    """How late a ticker was while the work went on: as many delays as there were ticks."""

    def result(self, count: int) -> dict[str, float]:
        return self._worst()


class Startup(Meter):
    """How much longer one program takes than another, in ms: the difference between their shortest runs.

    The shortest, since whatever else goes on can only make a program slower, by more than what is measured.
    """

    columns = (Column("wall", "ms"), Column("cpu", "ms"))
    steady = False

    def __init__(self) -> None:
        self.spent: dict[bool, list[tuple[float, float]]] = {False: [], True: []}

    def run(self, command: list[str], environment: dict[str, str], more: bool) -> None:
        """Run a program to its end: the one that does *more*, or the one it is compared with."""
        wall, cpu = time.perf_counter(), _children_cpu()
        subprocess.run(command, env=environment, check=True)
        self.spent[more].append((time.perf_counter() - wall, _children_cpu() - cpu))

    def result(self, count: int) -> dict[str, float]:
        (wall, cpu), (less_wall, less_cpu) = (
            (min(one) for one in zip(*self.spent[more], strict=True)) for more in (True, False)
        )
        return {"wall": (wall - less_wall) * 1e3, "cpu": (cpu - less_cpu) * 1e3}


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
