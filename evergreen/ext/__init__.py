"""Extensions: ``evergreen.ext.NAME`` is the top-level module ``evergreen_NAME``.

A package that builds on Evergreen calls itself ``evergreen_NAME``; its users import it under either
name and get the same module object, submodules too::

    from evergreen.ext import redis  # evergreen_redis
    import evergreen.ext.redis.pool  # evergreen_redis.pool

What goes wrong while the module is imported comes out as it is.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

__all__: list[str] = []

_PREFIX = __name__ + "."


class _Finder(MetaPathFinder):
    """Finds evergreen_NAME, or a submodule of it, when ``evergreen.ext.NAME`` is asked for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_PREFIX):
            return None
        real = "evergreen_" + fullname.removeprefix(_PREFIX)
        if real not in sys.modules and find_spec(real) is None:
            return None
        return ModuleSpec(fullname, _Alias(real))


class _Alias(Loader):
    """Loads a module by importing it under its real name."""

    def __init__(self, real: str) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        # Here, and not in exec_module(): by then an empty module stands under our name, and the
        # real one would find that if it imports itself by it.
        importlib.import_module(self._real)
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = sys.modules[self._real]


def __getattr__(name: str) -> ModuleType:
    if not name.startswith("__"):
        try:
            return importlib.import_module(_PREFIX + name)
        except ModuleNotFoundError as exc:
            if exc.name != _PREFIX + name:  # something that evergreen_NAME imports is missing
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)


# In front: a submodule would else be found on the package's __path__, and loaded a second time.
sys.meta_path.insert(0, _Finder())
