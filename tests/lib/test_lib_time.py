"""evergreen.lib.time: sleep() lets other tasks run."""

import time as standard

from helpers import settle

from evergreen import spawn
from evergreen.lib import time


def test_tasks_sleep_at_once_while_others_run(either, ticks):
    before = standard.monotonic()
    naps = [spawn(time.sleep, 0.02) for _ in range(5)]
    for nap in naps:
        nap.join()
    assert standard.monotonic() - before < 0.1
    assert ticks[0] > 2


def test_everything_else_is_the_standard_library_s(hub):
    assert time.monotonic is standard.monotonic
    assert set(standard.__all__ if hasattr(standard, "__all__") else dir(standard)) <= set(dir(time))
    assert time.sleep is not standard.sleep


def test_in_a_native_thread_it_blocks_natively(either, natively):
    assert natively(time.sleep, 0.001) is None


def test_the_standard_sleep_stays_native(hub):
    ran = []
    task = spawn(ran.append, 1)
    standard.sleep(0.001)
    assert not ran
    time.sleep(0.001)
    assert ran
    settle()
    assert not task.is_alive()
