"""Patched classes of the standard library lose nothing that is handed over as a task is killed."""

import concurrent.futures
import contextlib
import multiprocessing
import queue
import random
import threading
import time

import pytest
from helpers import pass_time, settle

from evergreen import patcher, sleep, spawn

ROUNDS = 150


@pytest.fixture
def patched(hub):
    with patcher.patched():
        yield


class OfQueue:
    """What can be taken: an item."""

    def __init__(self, kind):
        self.queue = kind()

    def give(self):
        self.queue.put(1)

    def take(self, timeout):
        try:
            return self.queue.get(timeout=timeout)
        except queue.Empty:
            return 0


class OfRoom:
    """What can be taken: room in a queue with one place."""

    def __init__(self, kind):
        self.queue = kind(1)
        self.queue.put(1)

    def give(self):
        if self.queue.empty():
            return False
        self.queue.get()
        return True

    def take(self, timeout):
        try:
            self.queue.put(1, timeout=timeout)
        except queue.Full:
            return 0
        return 1


class OfSemaphore:
    def __init__(self, kind):
        self.gate = kind(50)
        for _ in range(50):
            self.gate.acquire()

    def give(self):
        self.gate.release()

    def take(self, timeout):
        return int(self.gate.acquire(timeout=timeout))


class OfCondition:
    def __init__(self, kind):
        self.condition, self.there = kind(), 0

    def give(self):
        with self.condition:
            self.there += 1
            self.condition.notify()

    def take(self, timeout):
        with self.condition:
            while not self.there:
                if not self.condition.wait(timeout) and not self.there:
                    return 0
            self.there -= 1
            return 1


KINDS = {
    "Queue": lambda: OfQueue(queue.Queue),
    "LifoQueue": lambda: OfQueue(queue.LifoQueue),
    "PriorityQueue": lambda: OfQueue(queue.PriorityQueue),
    "SimpleQueue": lambda: OfQueue(queue.SimpleQueue),
    "_PySimpleQueue": lambda: OfQueue(queue._PySimpleQueue),
    "Queue's room": lambda: OfRoom(queue.Queue),
    "LifoQueue's room": lambda: OfRoom(queue.LifoQueue),
    "PriorityQueue's room": lambda: OfRoom(queue.PriorityQueue),
    "Semaphore": lambda: OfSemaphore(threading.Semaphore),
    "BoundedSemaphore": lambda: OfSemaphore(threading.BoundedSemaphore),
    "Condition": lambda: OfCondition(threading.Condition),
    "Condition of a Lock": lambda: OfCondition(lambda: threading.Condition(threading.Lock())),
    "multiprocessing.Semaphore": lambda: OfSemaphore(multiprocessing.Semaphore),
    "multiprocessing.Queue": lambda: OfQueue(multiprocessing.Queue),
    "multiprocessing.JoinableQueue": lambda: OfQueue(multiprocessing.JoinableQueue),
}


def race(source, chance):
    """One round: tasks that take, with deadlines that pass and kills in the turn of what is given."""
    given, taken = 0, []

    def take(timeout):
        if source.take(timeout):
            taken.append(1)

    tasks = [spawn(take, chance.choice([None, None, 0.0005])) for _ in range(chance.randint(2, 5))]
    settle()
    steps = ["give"] * chance.randint(1, 3) + ["kill"] * chance.randint(0, 2) + ["late", "turn", "turn"]
    chance.shuffle(steps)
    for step in steps:
        if step == "give":
            given += source.give() is not False
        elif step == "kill":
            chance.choice(tasks).kill()
        elif step == "late":
            pass_time(0.0006)
        else:
            sleep(0)
    deadline = time.monotonic() + 5
    while True:
        sleep(0.001)
        waiting = [task for task in tasks if task.is_alive()]
        left = given - len(taken)
        if not (waiting and left) or time.monotonic() > deadline:
            break
    assert not (waiting and left), f"{left} given, {len(waiting)} wait: {steps}"
    for task in waiting:
        task.kill()
        task.join()
    for _ in range(left):
        assert source.take(0.5), f"{left} left, and not there: {steps}"


def close(source):
    """End the task that writes for a queue of multiprocessing, while it is one."""
    made = getattr(source, "queue", None)
    if hasattr(made, "join_thread"):
        made.close()
        made.join_thread()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_in_the_turn_of_a_kill_or_a_deadline_is_taken_by_another(kind, patched):
    seed = random.randrange(10**6)
    chance, source = random.Random(seed), KINDS[kind]()
    for turn in range(ROUNDS):
        try:
            race(source, chance)
        except BaseException as exc:
            exc.add_note(f"seed {seed}, round {turn}")
            raise
    close(source)


# ---- what is told to all --------------------------------------------------------------------------


def event(chance):
    """Waiters, and what wakes them all."""
    made = threading.Event()
    return made.wait, made.set


def joined_queue(chance):
    made = queue.Queue()
    made.put(1)
    return made.join, made.task_done


def future(chance):
    made = concurrent.futures.Future()
    return made.result, lambda: made.set_result(1)


def future_of_a_pool(chance):
    gate = threading.Event()
    pool = concurrent.futures.ThreadPoolExecutor(1)
    later = pool.submit(gate.wait)
    pool.shutdown(wait=False)
    return later.result, gate.set


def shut_queue(chance):
    made = queue.Queue()
    return made.get, made.shutdown


def notified_by_all(chance):
    made = threading.Condition()

    def wait():
        with made:
            made.wait()

    def tell():
        with made:
            made.notify_all()

    return wait, tell


TOLD = [event, joined_queue, future, future_of_a_pool, notified_by_all]
if hasattr(queue.Queue, "shutdown"):
    TOLD.append(shut_queue)


@pytest.mark.parametrize("kind", TOLD)
def test_all_who_wait_go_on_though_some_of_them_are_killed_in_that_turn(kind, patched):
    chance = random.Random(1)
    for _ in range(ROUNDS):
        wait, tell = kind(chance)

        def attempt(wait=wait):
            with contextlib.suppress(Exception):  # a queue that is shut down
                wait()

        tasks = [spawn(attempt) for _ in range(4)]
        settle()
        steps = [tell, chance.choice(tasks).kill, chance.choice(tasks).kill, lambda: sleep(0)]
        chance.shuffle(steps)
        for step in steps:
            step()
        assert all(task.join(5) for task in tasks)


def test_a_barrier_knows_who_waits_for_it_after_a_kill(patched):
    chance = random.Random(1)
    for _ in range(ROUNDS):
        barrier = threading.Barrier(3)

        def attempt(barrier=barrier):
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait()

        tasks = [spawn(attempt) for _ in range(2)]
        settle()
        victim = chance.choice(tasks)
        steps = [
            lambda tasks=tasks, attempt=attempt: tasks.append(spawn(attempt)),
            victim.kill,
            lambda: sleep(0),
        ]
        chance.shuffle(steps)
        for step in steps:
            step()
        settle()
        assert barrier.n_waiting == sum(task.is_alive() for task in tasks) != 3
        barrier.abort()
        assert all(task.join(5) for task in tasks)


def test_a_pool_makes_every_call_though_who_waits_for_them_is_killed(patched):
    made = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number in range(ROUNDS):
            later = pool.submit(made.append, number)
            waiter = spawn(later.result)
            sleep(0)
            waiter.kill()
    assert sorted(made) == list(range(ROUNDS))
