"""Searchers: each round does random things, then checks that nothing was lost.

`make test` plays a few rounds, the same ones each time. `make fuzz SECONDS=600` plays new ones for so long in
each test, and `make asan SECONDS=600 ARGS=tests/fuzz` does so with the sanitizers.

The report of a failure names its round; build/fuzz/TEST holds the round under way when the process crashed.
`EVERGREEN_FUZZ_ROUND=NUMBER` plays that one alone.
"""

import itertools
import os
import random
import time
from pathlib import Path

import pytest

SECONDS = float(os.environ.get("EVERGREEN_FUZZ") or 0)
ROUND = os.environ.get("EVERGREEN_FUZZ_ROUND")
NOTES = Path(__file__).parents[2] / "build" / "fuzz"
under_way = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and under_way in item.stash:
        report.sections.append(("round", f"EVERGREEN_FUZZ_ROUND={item.stash[under_way]} plays it again"))
    return report


@pytest.fixture
def rounds(request):
    """rounds(few) yields that many random generators, or as many as EVERGREEN_FUZZ seconds allow."""

    def play(few):
        if ROUND:
            numbers = [int(ROUND)]
        elif SECONDS:
            first = time.time_ns() // 1_000_000
            deadline = time.monotonic() + SECONDS
            numbers = itertools.takewhile(lambda _: time.monotonic() < deadline, itertools.count(first))
            print(f"rounds from {first} on")
            NOTES.mkdir(parents=True, exist_ok=True)
        else:
            numbers = range(few)
        for number in numbers:
            request.node.stash[under_way] = number
            if SECONDS:
                (NOTES / request.node.name).write_text(f"{number}\n")
            yield random.Random(number)

    return play
