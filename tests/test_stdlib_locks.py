"""CPython's own tests of locks, with the primitives of `threading` and with ours, and tasks for threads."""

import threading

import pytest

import evergreen
from evergreen import event, locks, patcher

reason = "this interpreter comes without CPython's `test` package"
lock_tests = pytest.importorskip("test.lock_tests", reason=reason)


@pytest.fixture(autouse=True)
def everything_patched(hub):
    with patcher.patched():
        yield hub


def test_the_threads_of_these_tests_are_tasks(everything_patched):
    loop, found = everything_patched, []

    def note():
        found.append(evergreen.current.task)

    with lock_tests.Bunch(note, 3):
        pass
    assert len({*found, loop.main_task}) == 4
    assert all(task.loop is loop for task in found)


class TestLock(lock_tests.LockTests):
    locktype = staticmethod(threading.Lock)


class TestRLock(lock_tests.RLockTests):
    locktype = staticmethod(threading._CRLock)


class TestRLockInPython(lock_tests.RLockTests):
    locktype = staticmethod(threading._PyRLock)


class TestEvent(lock_tests.EventTests):
    eventtype = staticmethod(threading.Event)


class TestConditionAsRLock(lock_tests.RLockTests):
    locktype = staticmethod(threading.Condition)
    test_recursion_count = None  # a Condition does not say it, nor does CPython test it


class TestCondition(lock_tests.ConditionTests):
    condtype = staticmethod(threading.Condition)


class TestSemaphore(lock_tests.SemaphoreTests):
    semtype = staticmethod(threading.Semaphore)


class TestBoundedSemaphore(lock_tests.BoundedSemaphoreTests):
    semtype = staticmethod(threading.BoundedSemaphore)


class TestBarrier(lock_tests.BarrierTests):
    barriertype = staticmethod(threading.Barrier)


class TestOurLock(lock_tests.LockTests):
    locktype = staticmethod(locks.Lock)


class TestOurRLock(lock_tests.RLockTests):
    locktype = staticmethod(locks.RLock)


class TestOurEvent(lock_tests.EventTests):
    eventtype = staticmethod(event.Event)
    test_at_fork_reinit = None  # of what a threading.Event is made of


class TestOurConditionAsRLock(lock_tests.RLockTests):
    locktype = staticmethod(locks.Condition)


class TestOurCondition(lock_tests.ConditionTests):
    condtype = staticmethod(locks.Condition)


class TestOurSemaphore(lock_tests.SemaphoreTests):
    semtype = staticmethod(locks.Semaphore)


class TestOurBoundedSemaphore(lock_tests.BoundedSemaphoreTests):
    semtype = staticmethod(locks.BoundedSemaphore)


class TestOurBarrier(lock_tests.BarrierTests):
    barriertype = staticmethod(locks.Barrier)
