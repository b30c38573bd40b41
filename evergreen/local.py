"""Greenlet-local storage: an object whose attributes are different ones in each task.

Use it as you would use `threading.local`.  The attributes are kept in each greenlet's ``__dict__``
and end with the task (``_evergreen_c/local.c``).
"""

from evergreen._evergreen_c import local

__all__ = ["local"]
