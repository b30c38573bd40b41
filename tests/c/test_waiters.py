"""waiters.c: any number of objects may have waiting tasks, each a queue of its own."""

import random
import threading
from queue import SimpleQueue

import pytest
from helpers import settle

from evergreen import patcher, spawn


@pytest.fixture
def patched(hub):
    with patcher.patched(thread=True):
        yield hub


def locked():
    lock = threading.Lock()
    lock.acquire()
    return lock


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_each_object_wakes_those_who_wait_for_it_and_nobody_else(patched, count):
    locks, woken = [locked() for _ in range(count)], []

    def work(number, lock):
        lock.acquire()
        woken.append(number)

    tasks = [spawn(work, number, lock) for number, lock in enumerate(locks) for _ in range(2)]
    settle()
    order = list(range(count)) * 2
    random.Random(count).shuffle(order)
    for number in order:
        locks[number].release()
    settle()
    assert woken == order
    assert not any(task.is_alive() for task in tasks)


def test_places_come_and_go_as_the_table_grows(patched):
    rest = []
    for _ in range(30):
        locks = [locked() for _ in range(20)]
        tasks = [spawn(lock.acquire) for lock in locks]
        settle()
        for lock in locks[::2]:
            lock.release()
        for task in tasks[::2]:
            assert task.result() is True
        rest += zip(locks[1::2], tasks[1::2], strict=True)
    random.Random(1).shuffle(rest)
    for lock, task in rest:
        lock.release()
        assert task.result() is True


def test_an_object_at_the_address_of_an_old_one_has_no_waiters(patched):
    for _ in range(200):
        lock = locked()
        task = spawn(lock.acquire)
        settle()
        task.kill()
        task.join()
        lock.release()
        assert lock.acquire(False)
        del lock


def test_locks_and_queues_share_the_table(patched):
    pairs = [(locked(), SimpleQueue()) for _ in range(100)]
    tasks = [(spawn(lock.acquire), spawn(queue.get)) for lock, queue in pairs]
    settle()
    for number, (lock, queue) in enumerate(pairs):
        queue.put(number)
        lock.release()
    assert [(a.result(), b.result()) for a, b in tasks] == [(True, number) for number in range(100)]
