"""event.c: a flag to wait for."""

import gc
import math
import sys
import weakref

import pytest
from helpers import in_thread, settle

from evergreen import TaskExit, sleep, spawn
from evergreen.event import Event


def test_an_event_starts_unset(hub):
    event = Event()
    assert not event.is_set()
    event.set()
    assert event.is_set()
    event.clear()
    assert not event.is_set()


def test_waiting_for_a_set_event_returns_at_once(hub):
    event = Event()
    event.set()
    assert event.wait() is True
    assert event.wait(0) is True
    assert event.wait(timeout=-1) is True


def test_set_wakes_the_longest_waiter_first(hub):
    event, order = Event(), []
    tasks = [spawn(lambda n=n: (event.wait(), order.append(n))) for n in range(10)]
    settle()
    event.set()
    for task in tasks:
        task.join()
    assert order == list(range(10))


def test_those_who_were_woken_return_true_although_it_was_cleared_again(hub):
    event = Event()
    tasks = [spawn(event.wait) for _ in range(3)]
    settle()
    event.set()
    event.clear()
    late = spawn(event.wait, 0.001)
    assert [task.result() for task in tasks] == [True] * 3
    assert late.result() is False


def test_wait_returns_false_when_time_is_up(hub):
    before = hub.time()
    assert Event().wait(0.02) is False
    assert hub.time() - before >= 0.02
    assert Event().wait(0) is False


def test_a_killed_waiter_is_not_woken(hub):
    event = Event()
    task, other = spawn(event.wait), spawn(event.wait)
    settle()
    task.kill()
    event.set()
    with pytest.raises(TaskExit):
        task.result()
    assert other.result() is True


def test_set_twice_wakes_once(hub):
    event, count = Event(), []
    task = spawn(lambda: (event.wait(), count.append(1)))
    settle()
    event.set()
    event.set()
    task.join()
    assert count == [1]


def test_bad_timeouts_are_refused(hub):
    event = Event()
    with pytest.raises(TypeError):
        event.wait("1")
    with pytest.raises(ValueError):
        event.wait(math.nan)
    with pytest.raises(TypeError):
        event.wait(1, 2)


def test_an_event_is_made_without_arguments(hub):
    with pytest.raises(TypeError):
        Event(1)
    with pytest.raises(TypeError):
        Event(set=True)


def test_repr_says_whether_it_is_set(hub):
    event = Event()
    assert repr(event).endswith(": unset>")
    event.set()
    assert repr(event).endswith(": set>")


def test_an_event_has_weak_references_and_is_freed(hub):
    event = Event()
    ref = weakref.ref(event)
    task = spawn(event.wait, 0.001)
    task.join()
    del event, task
    gc.collect()
    assert ref() is None


def test_an_event_that_is_waited_for_stays(hub):
    tasks = [spawn(Event().wait, 0.005)]
    settle()
    gc.collect()
    assert tasks[0].result() is False


def test_an_event_works_in_native_threads_alone():
    event = Event()

    def thread():
        assert event.wait(0.001) is False
        event.set()
        return event.wait()

    assert in_thread(thread) is True


def test_ten_thousand_waiters_wake(hub):
    event = Event()
    tasks = [spawn(event.wait) for _ in range(10_000)]
    settle()
    event.set()
    assert all(task.result() for task in tasks)


def test_a_waiter_that_sets_it_again_wakes_the_next(hub):
    event, order = Event(), []

    def relay(number):
        event.wait()
        event.clear()
        order.append(number)
        sleep(0)
        event.set()

    tasks = [spawn(relay, number) for number in range(5)]
    settle()
    event.set()
    for task in tasks:
        task.join()
    assert order == list(range(5))


def test_an_idle_one_is_small():
    assert sys.getsizeof(Event()) <= 120


def test_no_reference_is_lost_or_kept(hub):
    event = Event()
    before = sys.getrefcount(event)
    for _ in range(20):
        tasks = [spawn(event.wait), spawn(event.wait, 0.0001), spawn(event.wait)]
        settle()
        tasks[0].kill()
        tasks[1].join()
        event.set()
        tasks[2].kill()
        settle()
        event.clear()
    del tasks
    assert sys.getrefcount(event) == before


def test_empty_keyword_arguments_are_none(hub):
    nothing = {}
    assert not Event(*(), **nothing).is_set()
