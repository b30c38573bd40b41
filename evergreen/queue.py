"""Queues: items from those who put them to those who get them, with the interface of `queue`.

Use one between producers and consumers; with a maxsize, producers wait while consumers are behind.
They work between tasks, event loops and native threads, and raise the standard library's
exceptions.  They stand on the core's wait queue (``_evergreen_c/queue.c``).
"""

from queue import Empty, Full

from evergreen._evergreen_c import LifoQueue, PriorityQueue, Queue, ShutDown

__all__ = ["Empty", "Full", "LifoQueue", "PriorityQueue", "Queue", "ShutDown"]
