"""Fixtures: an event loop that must be empty when its test ends."""

import gc
import signal
import time

import pytest
from helpers import settle

import evergreen
from evergreen import _evergreen_c as core

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background: Ctrl-C is tested anyway
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session):
    """The tests collect garbage often: they need not look at what pytest holds for good each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def hub():
    """The main thread's event loop; afterwards nothing may be left in it, nor reported by it."""
    if core.loop_here() is not None:  # a test without this fixture made one
        core.loop_here().destroy()
    loop = evergreen.EventLoop()
    reported = []
    loop.excepthook = reported.append
    yield loop
    if loop.destroyed:
        assert not reported
        return
    try:
        settle()
        deadline = time.monotonic() + 10
        while loop.stats()["pins"] and time.monotonic() < deadline:
            evergreen.sleep(0.001)  # a call in a native thread that was given up, and ends by itself
        gc.collect()  # reports tasks that failed without anybody knowing
        assert not reported
        stats = loop.stats()
        left = {name: stats[name] for name in ("tasks", "timers", "descriptors", "streams", "pins", "ready")}
        assert not any(left.values()), f"left in the loop: {left} {loop.tasks()}"
    finally:
        loop.excepthook = None
        loop.destroy()
