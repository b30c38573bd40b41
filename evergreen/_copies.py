"""Second copies of the standard library's modules, on C functions that no patch swaps.

`evergreen.patcher.original` makes copies that block natively, `evergreen.lib` copies that cooperate; they
differ in which function they pick for each that can be patched: `core.patch_native` or `core.patch_ours`.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from enum import Enum
from functools import update_wrapper
from types import ModuleType
from typing import Any

from evergreen import _evergreen_c as core
from evergreen._evergreen_c import shield

Pick = Callable[[str, str], Any]  # of (owner, name), as `core.patch_native`; None: there is none


def dressed(function: Callable[..., Any], native: Any) -> Any:
    """Return *function* with the names, documentation and signature of the *native* one it stands for."""
    return update_wrapper(function, native)


# ---- modules in C ------------------------------------------------------------------------


def c_module(name: str, pick: Pick) -> ModuleType:
    """A copy of a C module whose functions, and methods, are the picked ones.

    Types that take subclasses have one in the copy; for the others of `select` there are stand-ins.
    """
    real = importlib.import_module(name)
    copy = ModuleType(name, real.__doc__)
    copy.__dict__.update(real.__dict__)
    for attribute, picked in picked_functions(name, pick).items():
        if not attribute:
            copy.__dict__.update(picked)
            continue
        attribute = attribute.removesuffix("()")
        base = getattr(real, attribute)
        if isinstance(base, type) and base.__flags__ & (1 << 10):  # Py_TPFLAGS_BASETYPE
            namespace = {**picked, "__module__": name, "__doc__": base.__doc__, "__slots__": ()}
            setattr(copy, attribute, type(base.__name__, (base,), namespace))
        elif name == "select":
            setattr(copy, attribute, stand_in(attribute, base, picked))
    return copy


def picked_functions(name: str, pick: Pick) -> dict[str, dict[str, Any]]:
    """What is picked for the module of this name: of each of its types, and as ``""`` its own."""
    found: dict[str, dict[str, Any]] = {}
    for _, owner, function, _ in core.patch_list():
        module, _, attribute = owner.partition(".")
        picked = pick(owner, function) if module == name else None
        if picked is not None:
            found.setdefault(attribute, {})[function] = picked
    return found


class _StandIn:
    """Stands around an object of a C type that takes no subclasses, with some methods exchanged."""

    __slots__ = ("__weakref__", "_inside")

    _inside: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inside, name, value)

    def __repr__(self) -> str:
        return repr(self._inside)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._inside.close()


def stand_in(name: str, make: Callable[..., Any], methods: Mapping[str, Any]) -> type:
    """A class whose instances stand around those that *make* makes, with these methods in place of theirs."""

    def enclose(cls: type, inside: Any) -> Any:
        self: Any = object.__new__(cls)
        object.__setattr__(self, "_inside", inside)
        return self

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        return enclose(cls, make(*args, **kwargs))

    def method(called: str, native: Any) -> Callable[..., Any]:
        def call(self: _StandIn, *args: Any, **kwargs: Any) -> Any:
            return native(self._inside, *args, **kwargs)

        call.__qualname__ = f"{name}.{called}"
        return call if isinstance(native, type) else dressed(call, native)

    def fromfd(cls: type, fd: int, /) -> Any:
        return enclose(cls, make.fromfd(fd))  # type: ignore[attr-defined]

    def leave(self: Any, *exc_info: object) -> None:
        self.close()

    kind = make if isinstance(make, type) else type(make())
    native = {called: value for called, value in vars(kind).items() if called[0] != "_" and callable(value)}
    namespace: dict[str, Any] = {
        called: method(called, value) for called, value in {**native, **methods}.items() if called != "fromfd"
    }
    namespace |= {"__slots__": (), "__doc__": make.__doc__, "__module__": kind.__module__}
    namespace |= {"__new__": new, "_enclose": classmethod(enclose)}
    if hasattr(make, "__text_signature__"):
        namespace["__text_signature__"] = make.__text_signature__
    if hasattr(make, "fromfd"):
        namespace["fromfd"] = classmethod(dressed(fromfd, make.fromfd))
        del fromfd.__wrapped__  # type: ignore[attr-defined]  # it is bound: a class method takes its first argument off
    if "close" in methods:
        namespace["__exit__"] = dressed(leave, kind.__exit__)  # type: ignore[attr-defined]
    return type(name, (_StandIn,), namespace)


# ---- modules in Python -------------------------------------------------------------------------


def builtins_with(instead: Callable[[str], ModuleType | None]) -> dict[str, Any]:
    """Builtins whose import statement takes the modules that *instead* gives, and others as ever."""

    def import_(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        module = instead(name) if level == 0 else None
        return module or builtins.__import__(name, globals, locals, fromlist, level)

    return {**builtins.__dict__, "__import__": import_}


def execute(name: str, namespace: dict[str, Any], instead: Callable[[str], ModuleType | None]) -> bool:
    """Execute a module of the standard library once more, in *namespace*; False: it has no Python code.

    Its exceptions and enumerations are the standard library's own.  ImportError: there is no such module.
    """
    real = importlib.import_module(name)
    spec = importlib.util.find_spec(name)
    code = spec.loader.get_code(name) if spec and hasattr(spec.loader, "get_code") else None  # type: ignore
    if code is None:
        return False
    own = namespace["__name__"]
    namespace |= {
        key: real.__dict__[key] for key in ("__file__", "__package__", "__path__") if hasattr(real, key)
    }
    namespace["__builtins__"] = builtins_with(instead)
    exec(code, namespace)
    namespace["__name__"] = own
    for called, value in real.__dict__.items():
        is_type = isinstance(value, type) and issubclass(value, (BaseException, Enum))
        if called in namespace and (is_type or isinstance(value, Enum)):
            namespace[called] = value
    return True


_threading_wait = threading.Condition.wait


def condition_wait(self: Any, timeout: float | None = None) -> bool:
    # A waiter that was notified, and is killed or gives up before it has run, notifies the next one.
    if not self._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    turn = threading.Lock()
    turn.acquire()
    self._waiters.append(turn)
    state = self._release_save()
    notified = False
    try:
        if timeout is None:
            notified = turn.acquire()
        else:
            notified = turn.acquire(True, timeout) if timeout > 0 else turn.acquire(False)
    finally:
        with shield() if core.loop_here() is not None else nullcontext():
            self._acquire_restore(state)
        if not notified:
            try:
                self._waiters.remove(turn)
            except ValueError:
                self.notify()
    return notified


dressed(condition_wait, _threading_wait)


# What Thread.join() and is_alive() do in 3.12 and before, without two guesses that are wrong for tasks.
# The original takes a thread for ended when its own wait is interrupted (bpo-45274), and expects
# that nobody has the lock when it has released it, but then the next who joins has it.
def wait_for_tstate_lock(thread: Any, block: bool = True, timeout: float = -1) -> None:
    lock = thread._tstate_lock
    if lock is not None and lock.acquire(block, timeout):
        lock.release()
        thread._tstate_lock = None
        thread._stop()


if hasattr(threading.Thread, "_wait_for_tstate_lock"):
    dressed(wait_for_tstate_lock, threading.Thread._wait_for_tstate_lock)
