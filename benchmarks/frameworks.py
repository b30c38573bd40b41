"""The frameworks compared, and how each runs an adapter.

A workload (see `workloads/`) has one adapter per framework, a function named after it: ``on_gevent``,
``on_asyncio``.  A framework may borrow another's adapters: uvloop is asyncio on another event loop.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["FRAMEWORKS", "OURS", "Absent", "Framework"]

OURS = "evergreen"


class Absent(Exception):
    """Why a framework cannot be measured here, in words."""


# ---- how an adapter is called --------------------------------------------------------------------


def _run_evergreen(adapter: Callable, *args, **options) -> None:
    import evergreen

    evergreen.run(lambda: adapter(*args, **options))


def _run_in_main(adapter: Callable, *args, **options) -> None:
    adapter(*args, **options)


def _run_asyncio(adapter: Callable, *args, **options) -> None:
    import asyncio

    asyncio.run(adapter(*args, **options))


def _run_uvloop(adapter: Callable, *args, **options) -> None:
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(adapter(*args, **options))


# ---- how its version is found: each raises Absent ------------------------------------------------


def _package(name: str) -> Callable[[], str]:
    def find() -> str:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise Absent("not installed" if error.name == name else f"cannot be imported: {error}") from None
        except Exception as error:  # whatever its import raises is the reader's answer
            raise Absent(f"cannot be imported: {type(error).__name__}: {error}") from None
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # on sys.path without being installed
            return getattr(module, "__version__", "version unknown")

    return find


def _gevent_libuv() -> str:
    version = _package("gevent")()
    try:
        from gevent.libuv import loop
    except ImportError as error:
        raise Absent(f"gevent has no libuv loop: {error}") from None
    return f"{version}, libuv {loop.get_version().split('-')[-1]}"


def _standard() -> str:
    return "standard library"


def _threads() -> str:
    return platform.release()


def _program(*command: str) -> Callable[[], str]:
    """A version that a program prints."""

    def find() -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except FileNotFoundError:
            raise Absent("not installed") from None
        except subprocess.CalledProcessError as error:
            raise Absent(f"not installed: {(error.stderr.strip() or str(error)).splitlines()[0]}") from None
        return done.stdout.strip().removeprefix("go version go").split()[0]

    return find


@dataclass(frozen=True)
class Framework:
    """One contender: how its version is found, how an adapter is called, and whose adapters it uses.

    environment: what must be in the environment before it is imported.
    """

    name: str
    find: Callable[[], str]
    run: Callable[..., None] = _run_in_main
    adapters: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Set the environment; before anything else is imported."""
        os.environ.update(self.environment)

    def version(self) -> str:
        """Return the framework's version; Absent if it is not here."""
        self.prepare()
        return self.find()


FRAMEWORKS = {
    framework.name: framework
    for framework in (
        Framework(OURS, _package("evergreen"), _run_evergreen, adapters="evergreen"),
        Framework("gevent", _package("gevent"), adapters="gevent"),
        Framework(
            "gevent_libuv",
            _gevent_libuv,
            adapters="gevent",
            environment={"GEVENT_LOOP": "libuv"},
        ),
        Framework("eventlet", _package("eventlet"), adapters="eventlet"),
        Framework("asyncio", _standard, _run_asyncio, adapters="asyncio"),
        Framework("uvloop", _package("uvloop"), _run_uvloop, adapters="asyncio"),
        # asyncio.Protocol instead of streams: the fastest that uvloop offers
        Framework("uvloop_protocol", _package("uvloop"), _run_uvloop, adapters="protocol"),
        # native ones; the version is the kernel's
        Framework("threads", _threads, adapters="threads"),
        Framework("go", _program("go", "version"), adapters="go"),
        # floors: what Evergreen stands on, and nothing else
        Framework("libuv", _program("pkg-config", "--modversion", "libuv"), adapters="libuv"),
        Framework("greenlet", _package("greenlet"), adapters="greenlet"),
        Framework("greenlet_c", _package("greenlet"), adapters="greenlet_c"),
        Framework("plain", _standard, adapters="plain"),  # the blocking call itself
    )
}
