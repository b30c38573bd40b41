"""work.c: lanes of native threads."""

import os
from pathlib import Path

import pytest
from helpers import settle

from evergreen import _evergreen_c as core
from evergreen import sleep, spawn
from evergreen.io import fs


@pytest.fixture
def few():
    """The file lane, with up to two threads."""
    before = core.work_limit("file", 2)
    yield
    core.work_limit("file", before)


def test_a_lane_has_no_more_threads_than_its_limit(hub, few, tmp_path):
    fifos = [tmp_path / f"fifo{number}" for number in range(4)]
    for fifo in fifos:
        os.mkfifo(fifo)
    openers = [spawn(fs.open, fifo) for fifo in fifos]
    while threads_blocked() < 2:
        sleep(0.001)
    settle()
    assert hub.stats()["requests"] == 4
    for fifo, opener in zip(fifos, openers, strict=True):
        os.close(os.open(fifo, os.O_WRONLY))
        os.close(opener.result())
    assert threads_blocked() == 0


def threads_blocked():
    found = 0
    for thread in os.listdir("/proc/self/task"):
        try:
            found += "wait_for_partner" in Path(f"/proc/self/task/{thread}/wchan").read_text()
        except OSError:
            pass
    return found


def test_work_is_begun_in_the_order_in_which_it_was_submitted(hub, tmp_path):
    before = core.work_limit("file", 1)
    done = []
    for number in range(20):
        fs.stat(tmp_path, callback=lambda request, number=number: done.append(number))
    while len(done) < 20:
        sleep(0.001)
    core.work_limit("file", before)
    assert done == list(range(20))


def test_threads_over_the_limit_end(hub, tmp_path):
    for task in [spawn(fs.stat, tmp_path) for _ in range(50)]:
        task.result()
    before = core.work_limit("file", 1)
    deadline = hub.time() + 10
    while lane_threads() > 1:
        assert hub.time() < deadline
        sleep(0.001)
    assert core.work_limit("file", before) == 1
    assert fs.stat(tmp_path)


def lane_threads():
    found = 0
    for thread in os.listdir("/proc/self/task"):
        try:
            found += Path(f"/proc/self/task/{thread}/comm").read_text() == "evergreen-file\n"
        except OSError:
            pass
    return found


@pytest.mark.parametrize("args", [("nowhere", 1), ("file", 0), ("file", -1)])
def test_a_limit_that_makes_no_sense_is_refused(args):
    with pytest.raises(ValueError):
        core.work_limit(*args)
