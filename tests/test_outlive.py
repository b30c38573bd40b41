"""What outlives its event loop: an error or what it does, but no crash, no hang, and no wake-up lost."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import in_thread
from outlive import KINDS

from evergreen import EventLoop

PROGRAM = Path(__file__).parent / "outlive.py"


@pytest.mark.parametrize("kind", KINDS)
def test_what_outlives_its_loop_works_or_raises(kind):
    child = subprocess.run([sys.executable, PROGRAM, kind], capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stdout + child.stderr
    assert int(child.stdout) > 50


def test_a_loop_that_was_destroyed_has_none_of_its_threads_greenlets():
    def work():
        loop = EventLoop()
        task = loop.main_task
        assert task.greenlet is not None
        loop.destroy()
        return task.greenlet

    assert in_thread(work) is None
