"""The frameworks compared, and how each runs an adapter.

A workload (see `workloads/`) has one adapter per framework, a function named after it: ``on_gevent``,
``on_asyncio``.  A framework may borrow another's adapters: uvloop is asyncio on another event loop.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["FRAMEWORKS", "OURS", "Framework"]

OURS = "evergreen"


def _run_evergreen(adapter: Callable, *args, **options) -> None:
    import evergreen

    evergreen.run(lambda: adapter(*args, **options))


def _run_in_main(adapter: Callable, *args, **options) -> None:
    adapter(*args, **options)


def _run_asyncio(adapter: Callable, *args, **options) -> None:
    asyncio.run(adapter(*args, **options))


def _run_uvloop(adapter: Callable, *args, **options) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(adapter(*args, **options))


@dataclass(frozen=True)
class Framework:
    """One contender: the module it is, whose adapters it uses, and how an adapter is called."""

    name: str
    module: str
    run: Callable[..., None]
    adapters: str

    def version(self) -> str:
        """Import the framework and return its version; ImportError if that cannot be done."""
        module = importlib.import_module(self.module)
        if self.module in ("asyncio", "os"):
            return "standard library"
        try:
            return importlib.metadata.version(self.module)
        except importlib.metadata.PackageNotFoundError:  # on sys.path without being installed
            return getattr(module, "__version__", "version unknown")


FRAMEWORKS = {
    framework.name: framework
    for framework in (
        Framework(OURS, "evergreen", _run_evergreen, adapters="evergreen"),
        Framework("gevent", "gevent", _run_in_main, adapters="gevent"),
        Framework("eventlet", "eventlet", _run_in_main, adapters="eventlet"),
        Framework("asyncio", "asyncio", _run_asyncio, adapters="asyncio"),
        Framework("uvloop", "uvloop", _run_uvloop, adapters="asyncio"),
        Framework("greenlet", "greenlet", _run_in_main, adapters="greenlet"),
        Framework("plain", "os", _run_in_main, adapters="plain"),  # the blocking call itself: a floor
    )
}
