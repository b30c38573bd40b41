"""evergreen.lib.time: sleep() lets other tasks run."""

import time as standard

from helpers import settle

from evergreen import spawn
from evergreen.lib import time


def test_tasks_sleep_at_once_while_others_run(either, ticks):
    asleep = []

    def nap():
        asleep.append(1)
        time.sleep(0.02)
        return len(asleep)

    naps = [spawn(nap) for _ in range(5)]
    assert [nap.result() for nap in naps] == [5] * 5
    assert ticks[0]


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
