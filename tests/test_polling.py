"""_polling.py, and what polls elsewhere: who asks in a loop lets others run."""

import concurrent.futures
import inspect
import multiprocessing
import os
import queue
import subprocess
import sys
import threading
import time

import pytest
from helpers import output_of

from evergreen import patcher, spawn


@pytest.fixture
def patched(hub):
    with patcher.patched():
        yield hub


def ask_lock():
    lock = threading.Lock()
    return lock.locked, lock.acquire


def ask_event():
    event = threading.Event()
    return event.is_set, event.set


def ask_simple_queue(name):
    items = queue.SimpleQueue()
    answer = {"empty": lambda: not items.empty(), "qsize": items.qsize}[name]
    return answer, lambda: items.put(1)


def ask_get_nowait():
    items = queue.SimpleQueue()

    def answer():
        try:
            return items.get_nowait()
        except queue.Empty:
            return None

    return answer, lambda: items.put(1)


def ask_queue():
    items = queue.Queue()
    return lambda: not items.empty(), lambda: items.put(1)


def ask_thread():
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    return lambda: not thread.is_alive(), gate.set


def ask_future():
    future = concurrent.futures.Future()
    return future.done, lambda: future.set_result(1)


def ask_barrier_broken():
    barrier = threading.Barrier(2)
    return lambda: barrier.broken, barrier.abort


def ask_semaphore_of_processes():
    semaphore = multiprocessing.Semaphore(0)
    return semaphore.get_value, semaphore.release


def ask_event_of_processes():
    event = multiprocessing.Event()
    return event.is_set, event.set


def ask_child():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    return lambda: child.poll() is not None, child.stdin.close


def ask_sched_yield():
    seen = []
    return lambda: (os.sched_yield(), seen)[1], lambda: seen.append(1)


def ask_sleep():
    seen = []
    return lambda: (time.sleep(0), seen)[1], lambda: seen.append(1)


QUESTIONS = {
    "Lock.locked": ask_lock,
    "Event.is_set": ask_event,
    "SimpleQueue.empty": lambda: ask_simple_queue("empty"),
    "SimpleQueue.qsize": lambda: ask_simple_queue("qsize"),
    "SimpleQueue.get_nowait": ask_get_nowait,
    "Queue.empty": ask_queue,
    "Thread.is_alive": ask_thread,
    "Future.done": ask_future,
    "Barrier.broken": ask_barrier_broken,
    "multiprocessing.Semaphore": ask_semaphore_of_processes,
    "multiprocessing.Event": ask_event_of_processes,
    "Popen.poll": ask_child,
    "sched_yield": ask_sched_yield,
    "sleep(0)": ask_sleep,
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_who_asks_in_a_loop_lets_others_run(patched, question):
    answer, act = question()

    def act_later():
        time.sleep(0.003)
        act()

    other = spawn(act_later)
    deadline = time.monotonic() + 20
    while not answer():
        assert time.monotonic() < deadline, "the other task did not run"
    other.join()


def test_who_asks_how_many_wait_at_a_barrier_lets_them_come(patched):
    barrier = threading.Barrier(2)
    other = spawn(lambda: (time.sleep(0.003), barrier.wait()))
    deadline = time.monotonic() + 20
    while not barrier.n_waiting:
        assert time.monotonic() < deadline, "the other task did not run"
    barrier.wait()
    other.join()


def test_a_question_that_is_answered_with_yes_does_not_switch(patched):
    event = threading.Event()
    event.set()
    ran = []
    spawn(ran.append, 1)
    for _ in range(100_000):
        assert event.is_set() is True
    assert ran == []


def described(function):
    return function.__name__, function.__doc__, inspect.signature(function), inspect.getsource(function)


def test_the_functions_stay_what_they_are(hub):
    functions = [threading.Event.is_set, threading.Barrier.n_waiting.fget, threading.Barrier.broken.fget]
    codes = [function.__code__ for function in functions]
    before = [described(function) for function in functions]
    with patcher.patched(thread=True):
        event, barrier = threading.Event(), threading.Barrier(3)
        assert threading.Event.is_set is functions[0]
        assert event.is_set() is False
        event.set()
        assert (event.is_set(), barrier.n_waiting, barrier.broken) == (True, 0, False)
        assert [described(function) for function in functions] == before
    assert [function.__code__ for function in functions] == codes


def test_a_polling_native_thread_is_left_alone():
    assert (
        output_of(
            """
        import threading
        from evergreen import patcher
        event = threading.Event()
        start = patcher.original("_thread").start_new_thread
        patcher.patch()
        done = []
        def poll():
            while not event.is_set():
                pass
            done.append(1)
        start(poll, ())
        event.set()
        while not done:
            pass
        print(done)
        """
        )
        == "[1]\n"
    )
