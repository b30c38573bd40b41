"""C extensions that block by themselves: what ``evergreen run --native`` adds.

Patching (`evergreen.patcher`) reaches Python's own blocking calls.  A C extension that waits in the
C library, such as a database driver in ``poll()``, is reached by a small library that the dynamic
linker puts in front of the C library (``LD_PRELOAD``, ld.so(8)).  A process has it from its start
or never; ``evergreen run --native`` starts the interpreter again with it.  Use this module to see
whether it is there, and to start other processes with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from evergreen import _evergreen_c as core

__all__ = ["Status", "environment", "library", "status"]

# What LD_PRELOAD was before restart() set it, for the process that it becomes.
_BEFORE = "_EVERGREEN_NATIVE_BEFORE"


class Status(NamedTuple):
    """What `status` returns."""

    active: bool  #: whether C code's blocking calls park tasks in this process
    calls: dict[str, int]  #: how often a task has waited in each of the C library's functions

    @property
    def caught(self) -> int:
        """How often a task has waited in C code, in whatever function."""
        return sum(self.calls.values())


def status() -> Status:
    """Tell whether C code's blocking calls cooperate in this process, and which have been caught.

    A wait that is woken and goes on counts again.  Without ``--native``, *calls* is empty.
    """
    counts = core.native_status()
    return Status(counts is not None, counts or {})


def library() -> str:
    """Return the path of the library to preload; FileNotFoundError if this build has none."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    path = Path(__file__).absolute().with_name("_native" + suffix)
    if not path.exists():
        raise FileNotFoundError(f"Evergreen was built without {path.name}: build it again")
    return str(path)


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return *environ* (by default this process's) with the library added to its ``LD_PRELOAD``.

    Give it to a child that is to have it: ``evergreen run --native`` takes it out of the environment
    that children inherit.  FileNotFoundError: this build has no library; ValueError: its path has a
    space or colon, which LD_PRELOAD takes for the end of a name.
    """
    child = dict(os.environ if environ is None else environ)
    path = library()
    if " " in path or ":" in path:
        raise ValueError(f"a path with a space or a colon cannot be preloaded: {path}")
    before = child.get("LD_PRELOAD", "")
    if path not in before.replace(":", " ").split():
        child["LD_PRELOAD"] = f"{before}:{path}" if before else path
    return child


def restart(argv: list[str] | None) -> None:
    """Become the command ``evergreen *argv*`` with the library; return if this process has it.

    *argv* None: this process's own command line, as it was.  RuntimeError: it cannot be preloaded.
    """
    before = os.environ.pop(_BEFORE, None)
    if before is not None:
        if before:
            os.environ["LD_PRELOAD"] = before
        else:
            os.environ.pop("LD_PRELOAD", None)
    if status().active:
        return
    if before is not None:
        raise RuntimeError("this system did not preload the library (a static or privileged Python?)")
    if not sys.executable:
        raise RuntimeError("this Python does not know its own path")
    if argv is None:
        command = [sys.executable, *sys.orig_argv[1:]]
    else:
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        command = [sys.executable, *flags, "-m", "evergreen", *argv]
    try:
        child = environment()
    except (FileNotFoundError, ValueError) as exc:
        raise RuntimeError(str(exc)) from None
    child[_BEFORE] = os.environ.get("LD_PRELOAD", "")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os.execve(sys.executable, command, child)
