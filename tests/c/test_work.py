"""work.c: lanes of native threads."""

import contextlib
import os
from pathlib import Path

import pytest
from helpers import settle, slow_file, threads_in_open

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
    with contextlib.ExitStack() as stack:
        paths = [tmp_path / f"slow{number}" for number in range(4)]
        releases = [stack.enter_context(slow_file(path)) for path in paths]
        openers = [spawn(fs.open, path) for path in paths]
        while threads_in_open() < 2:
            sleep(0.001)
        settle()
        assert (threads_in_open(), hub.stats()["requests"]) == (2, 4)
        for release, opener in zip(releases, openers, strict=True):
            release()
            os.close(opener.result())
        assert threads_in_open() == 0


def test_a_lane_grows_while_none_of_its_work_ends_and_shrinks_afterwards(hub, few, tmp_path):
    with contextlib.ExitStack() as stack:
        paths = [tmp_path / f"slow{number}" for number in range(7)]
        releases = [stack.enter_context(slow_file(path)) for path in paths]
        openers = [spawn(fs.open, path) for path in paths]
        settle()
        assert fs.stat(tmp_path) == os.stat(tmp_path)
        while threads_in_open() < 7:
            sleep(0.001)
        for release, opener in zip(releases, openers, strict=True):
            release()
            os.close(opener.result())
    while threads_of_lane() > 2:
        sleep(0.001)
    assert fs.stat(tmp_path) == os.stat(tmp_path)


def threads_of_lane():
    found = 0
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            found += Path(f"/proc/self/task/{thread}/comm").read_text() == "evergreen-file\n"
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
