"""Locks for tasks: the shapes of `threading`, for tasks, event loops and native threads alike.

Use them when a critical section contains a blocking call; between two blocking calls a task runs
alone and needs none.  Whoever waits longest is served first.  They stand on the core's wait queue
(``_evergreen_c/lock.c``, ``_evergreen_c/condition.c``).
"""

from evergreen._evergreen_c import (
    Barrier,
    BoundedSemaphore,
    BrokenBarrierError,
    Condition,
    Lock,
    RLock,
    Semaphore,
)

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Condition",
    "Lock",
    "RLock",
    "Semaphore",
]
