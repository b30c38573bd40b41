"""The workloads: one module per claim.

A module holds ``WORKLOADS`` (what is measured, how often) and an adapter per framework, ``on_NAME(count,
meter)``: the same work, each in the framework's own best idiom.  Only what stands inside ``with meter`` is
measured.  A framework without an adapter has no such operation.  asyncio's adapter is a coroutine function;
uvloop runs it too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

from meters import Clock, Meter

__all__ = ["MODULES", "Workload", "adapters_of", "all_workloads"]

# In the order in which they are run and reported.
MODULES = (
    "spawn_join",
    "spawn_each",
    "spawn_yield_join",
    "yields",
    "sleepers",
    "kill",
    "call_soon",
    "locks",
    "queues",
    "channel",
    "ring",
    "events",
    "timeouts",
    "timers",
    "timers_fire",
    "signals",
    "locals",
    "waiters",
    "memory",
    "growth",
    "latency_timer",
    "latency_socket",
    "cold_read",
    "blocking",
    "echo",
    "tls",
    "udp",
    "accept",
    "idle",
    "sockets",
    "recv_ready",
    "startup",
    "patched",
    "crawl",
)


@dataclass(frozen=True)
class Workload:
    """What is measured.

    counts: how many operations a measurement consists of; each count has processes of its own.
    options: passed on to the adapter, where one module serves several workloads.
    warm_up: the count of the unmeasured call that comes first in each process.
    quick: whether a quick run has it.
    """

    name: str
    title: str
    per: str
    counts: tuple[int, ...]
    meter: type[Meter] = Clock
    options: dict = field(default_factory=dict)
    warm_up: int = 1_000
    quick: bool = True


def all_workloads() -> dict[str, tuple[Workload, dict[str, Callable]]]:
    """Return, by name, each workload and its adapters by framework."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(f"workloads.{name}")
        adapters = {key.removeprefix("on_"): fn for key, fn in vars(module).items() if key.startswith("on_")}
        for workload in module.WORKLOADS:
            found[workload.name] = workload, adapters
    return found


def adapters_of(name: str) -> dict[str, Callable]:
    """Return the adapters of the workload *name*, by framework."""
    return all_workloads()[name][1]
