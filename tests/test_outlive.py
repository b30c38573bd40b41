"""What outlives its event loop: an error or what it does, but no crash, no hang, and no wake-up lost."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import in_thread, settle
from outlive import KINDS

from evergreen import Channel, EventLoop, Task, locks, spawn
from evergreen.event import Event
from evergreen.futures import Future
from evergreen.queue import Queue

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


# ---- no wake-up is lost to a waiter whose loop has ended -------------------------------------------------


def taken(kind):
    made = kind()
    made.acquire()
    return made


def full_queue():
    made = Queue(1)
    made.put(0)
    return made


def wait_in(condition):
    with condition:
        return condition.wait()


def notify(condition):
    with condition:
        condition.notify()


WOKEN = {
    "event": (Event, Event.wait, Event.set),
    "semaphore": (lambda: locks.Semaphore(0), locks.Semaphore.acquire, locks.Semaphore.release),
    "lock": (lambda: taken(locks.Lock), locks.Lock.acquire, locks.Lock.release),
    "condition": (locks.Condition, wait_in, notify),
    "queue": (Queue, Queue.get, lambda queue: queue.put(1)),
    "room in a queue": (full_queue, lambda queue: queue.put(1) or True, Queue.get),
    "channel": (Channel, Channel.receive, lambda channel: channel.send(1)),
    "future": (Future, Future.result, lambda future: future.set_result(1)),
}


def in_loop_that_ends(make, wait, destroys):
    """What is made in a thread whose loop ends while a task of it waits."""
    loop = EventLoop()
    made = make()
    spawn(wait, made)
    settle()
    if destroys:
        loop.destroy()
    return made


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("by", ["task", "thread"])
@pytest.mark.parametrize("destroys", [True, False])
@pytest.mark.parametrize("kind", WOKEN)
def test_a_waiter_is_woken_though_one_before_it_was_of_a_loop_that_ended(kind, destroys, by, hub):
    make, wait, wake = WOKEN[kind]
    made = in_thread(in_loop_that_ends, make, wait, destroys)
    waiter = spawn(wait, made)
    settle()
    assert waiter.is_alive()
    if by == "task":
        spawn(wake, made)
    else:
        in_thread(wake, made)
    assert waiter.result(5)


def test_a_task_of_a_loop_that_ended_with_its_thread_can_be_joined(hub):
    def work():
        EventLoop().excepthook = lambda args: None
        return spawn(settle), Task(int)

    with pytest.warns(ResourceWarning):
        started, unstarted = in_thread(work)
    assert started.join(5)
    with pytest.raises(RuntimeError, match="destroyed"):
        unstarted.start()
