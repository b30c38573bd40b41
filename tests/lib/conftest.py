"""Fixtures: a hub, with nothing patched and with everything patched."""

import contextlib

import pytest
from helpers import settle

from evergreen import _evergreen_c as core
from evergreen import patcher, spawn


@pytest.fixture(params=["unpatched", "patched"])
def either(request, hub):
    """The hub, once with nothing patched, and once with everything patched."""
    with patcher.patched() if request.param == "patched" else contextlib.nullcontext():
        yield hub


@pytest.fixture
def parked():
    """A function that returns a task that is inside function(*args), waiting."""

    def park(function, *args, **kwargs):
        task = spawn(function, *args, **kwargs)
        settle()
        assert task.is_alive()
        return task

    return park


@pytest.fixture
def natively():
    """A function that returns what function(*args) returns in a native thread that has no hub."""
    threading = patcher.original("threading")

    def run(function, *args):
        outcome = []

        def call():
            outcome.append(function(*args))
            outcome.append(core.loop_here())

        thread = threading.Thread(target=call)
        thread.start()
        thread.join(30)
        assert outcome[1:] == [None]
        return outcome[0]

    return run


@pytest.fixture
def ticks():
    """What a task beside the test's counts, once a millisecond."""
    from evergreen import sleep

    count = [0]

    def tick():
        while True:
            sleep(0.001)
            count[0] += 1

    ticker = spawn(tick)
    yield count
    ticker.kill()
    ticker.join()
