"""Patching: make the standard library's blocking calls cooperate, in place.

Call `patch` anywhere, at any time, before or after imports: it swaps the C functions inside the
method tables of the functions and types that are there (``_evergreen_c/patch.c``), so every
reference is covered, types stay what they are, and `unpatch` puts everything back.  Threads without
an event loop keep the native behaviour.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from evergreen import _asyncio, _drivers, _polling
from evergreen import _evergreen_c as core
from evergreen._copies import c_module, condition_wait, dressed, execute, wait_for_tstate_lock

__all__ = ["Finding", "audit", "import_patched", "is_patched", "original", "patch", "patched", "unpatch"]

# What the name of a module is patched by.
_GROUPS = {
    "time": "time",
    "socket": "socket",
    "_socket": "socket",
    "select": "select",
    "_thread": "thread",
    "thread": "thread",
    "threading": "thread",
    "_queue": "thread",
    "queue": "thread",
    "os": "os",
    "posix": "os",
    "fcntl": "os",
    "signal": "os",
    "syslog": "os",
    "subprocess": "os",
    "io": "os",
    "_io": "os",
    "asyncio": "asyncio",
    "_asyncio": "asyncio",
    "ssl": "ssl",
    "_ssl": "ssl",
    "multiprocessing": "multiprocessing",
    "_multiprocessing": "multiprocessing",
    "sqlite3": "sqlite3",
    "_sqlite3": "sqlite3",
    "hashlib": "hashlib",
    "_hashlib": "hashlib",
    "files": "files",
}

_OTHER_NAMES = {"threads": "thread"}  # what people write as well
_ON_REQUEST = {"files"}  # off unless asked for by name; asking for it turns nothing else off


def _choose(on: dict[str, bool], aside: set[str]) -> set[str]:
    """The groups that are meant; those *aside* only if they are named, which leaves the others in."""
    groups = {group for group, _, _, _ in core.patch_list()}
    on = {_OTHER_NAMES.get(name, name): wanted for name, wanted in on.items()}
    everything = on.pop("all", None)
    for name in on:
        if name not in groups:
            raise TypeError(f"patch() got an unexpected keyword argument {name!r}")
    named = {name for name, wanted in on.items() if wanted} - aside
    default = everything if everything is not None else not named
    return {group for group in groups if on.get(group, default and group not in aside)}


def patch(**modules: bool) -> None:
    """Make blocking calls cooperate: ``patch()`` all, ``patch(socket=True)`` only some of them,
    ``patch(thread=False)`` all but some.

    The names are ``time``, ``socket`` (with the resolver), ``select``, ``thread`` or ``threads`` (locks,
    threads and thread-local data), ``os`` (descriptors, children, streams), ``ssl``, ``multiprocessing``,
    ``asyncio``, ``sqlite3`` and ``hashlib``; any other is a TypeError.  Patching twice is harmless.

    ``files`` is off unless it is asked for: ``patch(files=True)`` is ``patch()`` and has regular files and
    the file system wait in native threads, too; ``patch(files=True, socket=True)`` is these two, and ``os``,
    which the first stands on.
    """
    groups = _choose(modules, _ON_REQUEST)
    _apply(groups | {"os"} if "files" in groups else groups, True)


def unpatch(**modules: bool) -> None:
    """Put the native functions back: all of them, or those that are named as in `patch`."""
    _apply(_choose(modules, set()), False)


def _apply(groups: set[str], on: bool) -> None:
    if on and "thread" in groups:
        for thread in threading.enumerate():  # on 3.12 and before, C code releases this lock
            if getattr(thread, "_tstate_lock", None) is not None:
                core.note_native_thread(thread._tstate_lock)  # type: ignore[attr-defined]
    for group, owner, name, applied in core.patch_list():
        if group in groups and applied != on:
            core.patch_set(owner, name, on)
    _follow()


def _follow() -> None:
    on = is_patched("_thread")
    core.thread_follow(on)
    _polling.follow(on)
    _asyncio.follow(is_patched("_asyncio"))
    if is_patched("os"):
        core.file_follow()
    _drivers.follow(is_patched("select"))
    threading.Condition.wait = condition_wait if on else _NATIVE_WAIT  # type: ignore[method-assign]
    if _NATIVE_JOIN is not None:
        threading.Thread._wait_for_tstate_lock = wait_for_tstate_lock if on else _NATIVE_JOIN  # type: ignore[attr-defined]


_NATIVE_WAIT = threading.Condition.wait
# 3.12 and before: how a Thread waits for its end.
_NATIVE_JOIN = getattr(threading.Thread, "_wait_for_tstate_lock", None)


@contextmanager
def patched(**modules: bool) -> Iterator[None]:
    """Patch for the length of a ``with`` block; what was patched before stays patched."""
    before = {(owner, name) for _, owner, name, applied in core.patch_list() if applied}
    patch(**modules)
    try:
        yield
    finally:
        for _, owner, name, applied in core.patch_list():
            if applied and (owner, name) not in before:
                core.patch_set(owner, name, False)
        _follow()


def is_patched(module: str | ModuleType) -> bool:
    """Return whether the calls of this module (or of the one with this name) cooperate now."""
    name = module.__name__ if isinstance(module, ModuleType) else module
    group = _GROUPS.get(name)
    return any(applied for of, _, _, applied in core.patch_list() if of == group)


def import_patched(name: str) -> ModuleType:
    """Patch everything, then import a module: patching in place leaves nothing for less."""
    patch()
    return importlib.import_module(name)


class Finding(NamedTuple):
    """What `audit` says of one function."""

    group: str
    name: str  # as "time.sleep", "_socket.socket.recv"
    state: str  # "patched", "waiting" (its module is not imported), "native", "missing" or "replaced"
    why: str  # one sentence; empty where there is nothing to say


def audit() -> list[Finding]:
    """Say of each function that can be patched how it stands, and of what else keeps calls native.

    States: *patched*; *waiting*: it will be when its module is imported; *native*: its group is not patched;
    *missing*: this Python has no such function; *replaced*: somebody else has put another function in its
    place, so calls through that name do not cooperate.

    >>> from evergreen import patcher
    >>> [finding.name for finding in patcher.audit() if finding.state == "replaced"]
    []
    """
    findings = []
    for group, owner, function, applied in core.patch_list():
        name = f"{owner}.{function}"
        if owner.partition(".")[0] not in sys.modules:
            why = "its module is not imported yet"
            state = "waiting" if applied else "native"
        elif core.patch_native(owner, function) is None:
            state, why = "missing", f"this Python ({sys.version.split()[0]}) has no such function in C"
        elif applied:
            state, why = "patched", ""
        else:
            state, why = "native", f"group {group!r} is not patched"
        findings.append(Finding(group, name, state, why))
    return [*findings, *_replaced_names(), *_native_threads()]


# Names that other frameworks replace, and the type or module that they have in the standard library.
_NAMES = {
    "time": ("time", "sleep"),
    "socket": ("socket", "socket", "getaddrinfo"),
    "select": ("select", "select", "poll", "epoll"),
    "thread": ("_thread", "allocate_lock", "start_new_thread", "get_ident"),
    "os": ("os", "read", "write", "close", "waitpid"),
    "ssl": ("ssl", "SSLSocket", "SSLContext"),
}


def _replaced_names() -> Iterator[Finding]:
    for group, (module, *names) in _NAMES.items():
        for name in names if module in sys.modules else ():
            found = getattr(sys.modules[module], name, None)
            home = getattr(found, "__module__", None) or ""
            if found is None:
                yield Finding(group, f"{module}.{name}", "replaced", "somebody has deleted it")
            elif home not in (module, "_" + module, "posix", "_thread", "_socket", "socket"):
                yield Finding(group, f"{module}.{name}", "replaced", f"it comes from {home}")


def _native_threads() -> Iterator[Finding]:
    for thread in threading.enumerate():
        native = getattr(thread, "native_id", None)
        if is_patched("_thread") and native is not None and native != threading.get_native_id():
            why = "it was started before the patch, and stays a native thread"
            yield Finding("thread", f"thread {thread.name!r}", "native", why)


_originals: dict[str, ModuleType] = {}

# Which C modules stand under a Python module of the standard library.
_STANDS_ON = {
    "socket": ("_socket", "select"),
    "threading": ("_thread", "time"),
    "selectors": ("select",),
    "queue": ("threading", "_queue", "time"),
}


def original(name: str) -> ModuleType:
    """Return a module like the one of this name whose calls block natively, whatever is patched."""
    if name not in _originals:
        if name in {owner.partition(".")[0] for _, owner, _, _ in core.patch_list()}:
            module = c_module(name, core.patch_native)
            if name == "_thread":
                _use_native_locks(module)
        else:
            module = _native_python_module(name)
        _originals.setdefault(name, module)
    return _originals[name]


class _NativeLock:
    """A lock that blocks its thread: the lock type takes no subclasses, so this stands around one."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self, lock: Any = None) -> None:
        self._lock: Any = lock or _new_lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; see `threading.Lock.acquire`."""
        return bool(_lock_acquire(self._lock, blocking, timeout))

    def release(self) -> None:
        """Release the lock, whoever took it."""
        _lock_release(self._lock)

    def locked(self) -> bool:
        """Return whether somebody has it."""
        return bool(self._lock.locked())

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()

    acquire_lock, release_lock, locked_lock = acquire, release, locked

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<native {self._lock!r}>"


_new_lock = threading.Lock
_lock_acquire = core.patch_native("_thread.LockType", "acquire")
_lock_release = core.patch_native("_thread.LockType", "release")


def _use_native_locks(module: ModuleType) -> None:
    for name in ("allocate_lock", "allocate", "lock", "LockType"):
        if hasattr(module, name):
            setattr(module, name, _NativeLock)
    native = getattr(module, "_set_sentinel", None)
    if native is not None:  # 3.12 and before: C code releases such a lock when its thread ends
        module._set_sentinel = dressed(lambda: _NativeLock(native()), native)  # type: ignore[attr-defined]


def _native_python_module(name: str) -> ModuleType:
    """A second copy of a Python module, made with native C modules beneath it."""
    module = ModuleType(f"evergreen.original.{name}")
    beneath = {below: original(below) for below in _STANDS_ON.get(name, ())}
    sys.modules[module.__name__] = module  # enumerations look for it there while they are made
    try:
        if not execute(name, module.__dict__, beneath.get):
            return importlib.import_module(name)  # written in C, and without a call that is patched
    finally:
        sys.modules.pop(module.__name__, None)
    module.__name__ = name
    if hasattr(module, "_shutdown_locks"):  # 3.12 and before: the process waits for these threads too
        module._shutdown_locks = threading._shutdown_locks  # type: ignore[attr-defined]
    return module
