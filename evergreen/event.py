"""Events: a flag that tasks, event loops and native threads can wait for.

Use one to tell any number of waiters that something has happened.  It stands on the core's wait
queue (``_evergreen_c/event.c``).
"""

from evergreen._evergreen_c import Event

__all__ = ["Event"]
