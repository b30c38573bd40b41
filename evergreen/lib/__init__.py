"""The standard library's blocking modules, cooperative, with nothing patched.

``from evergreen.lib import socket, time`` in place of ``import socket, time``: the calls of these modules let
other tasks run while they wait, and those of the standard modules block as ever.  Use them in a library that
must not change its program, or in one part of a program.  Nothing is written anew: functions and methods are
the replacements that `evergreen.patcher.patch` would swap in, under classes that are subclasses of the
standard library's; exceptions, enumerations and constants are its own.

The modules: `io`, `os`, `queue`, `select`, `selectors`, `socket`, `ssl`, `subprocess`, `threading`, `time`.
"""

__all__ = ["io", "os", "queue", "select", "selectors", "socket", "ssl", "subprocess", "threading", "time"]
