"""How the modules of `evergreen.lib` come about.

A module of the standard library is taken as it is, name by name, except for what would block:

- C functions are the cooperative ones, and C types have a subclass with cooperative methods (`c_copy`);
- functions written in Python are made again over the same code, with the new module's names beneath them;
- of the classes that are named there is a subclass, whose methods are made again likewise (`subclass`).

What has another object in its place is noted by identity, so that it is replaced under any name and in any
module that is filled later: ``from socket import create_connection`` in `ssl` finds the cooperative one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any

from evergreen import _evergreen_c as core
from evergreen._copies import builtins_with, c_module

_MODULES = {"io", "os", "queue", "select", "selectors", "socket", "ssl", "subprocess", "threading", "time"}
_OWN = {
    "__name__",
    "__doc__",
    "__package__",
    "__loader__",
    "__spec__",
    "__file__",
    "__cached__",
    "__builtins__",
}

_substitutes: dict[int, tuple[object, Any]] = {}  # by the id of the first, which is kept alive here
_c_copies: dict[str, ModuleType] = {}


def substitute(thing: object, ours: Any) -> None:
    """From now on, *ours* stands where *thing* stands in the standard library."""
    _substitutes[id(thing)] = (thing, ours)


def ours(thing: Any) -> Any:
    """What stands in the place of a thing; itself, if nothing does."""
    found = _substitutes.get(id(thing))
    return thing if found is None else found[1]


def c_copy(name: str) -> ModuleType:
    """The cooperative copy of a C module; what differs in it is noted."""
    if name not in _c_copies:
        real, copy = importlib.import_module(name), c_module(name, core.patch_ours)
        _c_copies[name] = copy
        note(real, copy.__dict__)
        substitute(real, copy)
    return _c_copies[name]


def note(real: ModuleType, namespace: dict[str, Any]) -> None:
    """Note which functions and types a namespace has in the place of its original's."""
    for name, value in real.__dict__.items():
        if name not in _OWN and callable(value) and namespace.get(name, value) is not value:
            substitute(value, namespace[name])


def instead(name: str) -> ModuleType | None:
    """The module that is imported in the place of the one of this name, in modules that are filled."""
    if name in _MODULES:
        return importlib.import_module(f"evergreen.lib.{name}")
    return _c_copies.get(name)


def remade(function: FunctionType, namespace: dict[str, Any]) -> FunctionType:
    """The same function with these globals beneath it; its defaults are ours."""
    copy = FunctionType(function.__code__, namespace, function.__name__, None, function.__closure__)
    copy.__defaults__ = function.__defaults__ and tuple(map(ours, function.__defaults__))
    copy.__kwdefaults__ = function.__kwdefaults__ and {
        name: ours(value) for name, value in function.__kwdefaults__.items()
    }
    copy.__dict__.update(function.__dict__)
    copy.__doc__, copy.__qualname__ = function.__doc__, function.__qualname__
    copy.__annotations__ = function.__annotations__
    copy.__module__ = namespace["__name__"]
    return copy


def subclass(cls: type, namespace: dict[str, Any], *more: type) -> type:
    """A subclass of one of the standard library's, and of *more* beneath it, whose methods are made again.

    Methods that call super() (they have a cell for it) are inherited as they are: the classes of *more* come
    next for them.
    """
    body: dict[str, Any] = {"__module__": namespace["__name__"], "__doc__": cls.__doc__}
    if not cls.__dictoffset__:  # its instances have no __dict__, nor have ours
        body["__slots__"] = ()
    for name, value in cls.__dict__.items():
        if isinstance(value, FunctionType):
            if value.__module__ == cls.__module__ and not value.__closure__:
                body[name] = remade(value, namespace)
        elif ours(value) is not value:
            body[name] = ours(value)
    return type(cls)(cls.__name__, (cls, *more), body)


def fill(namespace: dict[str, Any], classes: Iterable[str] = (), **given: Any) -> None:
    """Fill a module of this package with the names of the standard library's module that it is called after.

    Of *classes* there are subclasses; names in *given* are as given.
    """
    real = importlib.import_module(namespace["__name__"].rpartition(".")[2])
    namespace["__builtins__"] = builtins_with(instead)
    for name, value in real.__dict__.items():
        if name in _OWN:
            continue
        found = given.get(name, ours(value))
        if found is value and isinstance(value, FunctionType) and value.__globals__ is real.__dict__:
            found = remade(value, namespace)
            substitute(value, found)
        namespace[name] = found
    for name in classes:
        if name in real.__dict__:
            namespace[name] = subclass(real.__dict__[name], namespace)
            substitute(real.__dict__[name], namespace[name])
    note(real, namespace)
    for name, value in real.__dict__.items():  # other names of what was made meanwhile
        if name not in _OWN and namespace[name] is value:
            namespace[name] = ours(value)
    substitute(real, sys.modules[namespace["__name__"]])
