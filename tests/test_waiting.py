"""evergreen.wait and evergreen.iwait."""

import asyncio
import concurrent.futures
import gc
import inspect
import threading
import weakref

import pytest
from helpers import settle

from evergreen import Channel, TaskExit, iwait, sleep, spawn, wait
from evergreen.event import Event
from evergreen.locks import Lock, RLock, Semaphore
from evergreen.queue import Queue


@pytest.fixture
def things(hub):
    """One of each, none of them ready; and a function for each that makes it so."""
    gate = Event()
    task, event, lock, semaphore = spawn(gate.wait), Event(), Lock(), Semaphore(0)
    rlock, queue, channel, future = RLock(), Queue(), Channel(), concurrent.futures.Future()
    lock.acquire()
    owner = Event()
    holder = spawn(lambda: (rlock.acquire(), owner.wait(), rlock.release()))
    settle()
    ready = {
        task: gate.set,
        event: event.set,
        lock: lock.release,
        semaphore: semaphore.release,
        rlock: owner.set,
        queue: lambda: queue.put(1),
        channel: lambda: spawn(channel.send, 1),
        future: lambda: future.set_result(1),
    }
    yield ready
    receiver = spawn(channel.receive)  # what was sent, if anything was
    settle()
    receiver.kill()
    gate.set()
    owner.set()
    settle()
    holder.result()


def test_wait_returns_all_in_the_order_in_which_they_became_ready(things):
    expected = list(things)[::-1]

    def make_ready():
        for thing in expected:
            things[thing]()
            settle()

    task = spawn(make_ready)
    assert wait(things) == expected
    task.result()


def test_iwait_gives_each_as_it_comes(things):
    waiting = iwait(things)
    for thing, make_ready in things.items():
        make_ready()
        assert next(waiting) is thing
    with pytest.raises(StopIteration):
        next(waiting)


def test_what_is_ready_already_comes_at_once(things):
    for make_ready in things.values():
        make_ready()
    settle()
    assert set(wait(things, timeout=0)) == set(things)


def test_count_says_how_many(things):
    thing, other, *_ = things
    things[other]()
    settle()
    assert wait(things, count=1) == [other]
    things[thing]()
    settle()
    assert set(wait(things, 2)) == {thing, other}
    assert wait(things, 0) == []
    with pytest.raises(ValueError, match="-1"):
        wait(things, -1)
    for make_ready in list(things.values())[2:]:
        make_ready()
    assert len(wait(things, 1000)) == len(things)


def test_timeout_says_for_how_long(things, hub):
    thing = next(iter(things))
    before = hub.time()
    assert wait(things, timeout=0.005) == []
    assert hub.time() - before >= 0.005
    things[thing]()
    assert wait(things, timeout=0.005) == [thing]
    assert wait(things, None, 0) == [thing]
    assert wait(things, timeout=-1) == [thing]
    assert wait(things, count=1, timeout=100) == [thing]


def test_the_time_of_iwait_runs_from_the_call(hub):
    waiting = iwait([Event(), Event()], timeout=0.005)
    sleep(0.006)
    before = hub.time()
    assert list(waiting) == []
    assert hub.time() - before < 0.005


def test_the_same_thing_twice_comes_once(hub):
    event, future = Event(), concurrent.futures.Future()
    event.set()
    future.set_result(1)
    assert wait([event, event, future, event, future]) == [event, future]
    assert wait([event, Event(), event], count=1) == [event]


def test_equal_things_are_two_things(hub):
    class Equal(Event):
        def __eq__(self, other):
            return True

        __hash__ = None

    events = [Equal(), Equal()]
    events[1].set()
    [first] = wait(events, 1)
    assert first is events[1]


def test_nothing_to_wait_for_is_nothing(hub):
    assert wait([]) == []
    assert wait(iter(())) == []
    assert list(iwait((), timeout=100)) == []


def test_a_task_that_failed_is_ready_and_keeps_its_exception(hub):
    def fail():
        raise KeyError

    task, killed = spawn(fail), spawn(sleep, 100)
    killed.kill()
    assert set(wait([task, killed])) == {task, killed}
    with pytest.raises(KeyError):
        task.result()
    with pytest.raises(TaskExit):
        killed.result()


def test_futures_of_a_native_pool(hub):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        gates = [threading.Event() for _ in range(3)]
        futures = [pool.submit(gate.wait) for gate in gates]
        waiting = iwait(futures)
        for number in (2, 0, 1):
            gates[number].set()
            assert next(waiting) is futures[number]


def test_futures_that_are_cancelled_or_failed_are_ready(hub):
    cancelled, failed, late = (concurrent.futures.Future() for _ in range(3))
    cancelled.cancel()
    failed.set_exception(KeyError())
    assert wait([cancelled, failed, late], 2) == [cancelled, failed]


def test_what_cannot_be_waited_for_is_a_type_error(hub):
    for bad in (1, None, "x", [Event()], object()):
        with pytest.raises(TypeError, match="cannot wait for"):
            wait([Event(), bad])
        with pytest.raises(TypeError, match="cannot wait for"):
            iwait([bad])  # at the call, not at the first step
    with pytest.raises(TypeError):
        wait(1)


def test_asyncio_futures_have_callbacks_of_another_loop(hub):
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    waiting = iwait([future])
    loop.run_until_complete(asyncio.sleep(0))
    future.set_result(1)
    loop.run_until_complete(asyncio.sleep(0))
    assert next(waiting) is future
    loop.close()


@pytest.mark.parametrize("started", [False, True])
def test_a_generator_that_is_closed_early_leaves_nothing_registered(things, started):
    waiting = iwait(things)
    if started:
        list(things.values())[1]()
        next(waiting)
    queue = next(thing for thing in things if isinstance(thing, Queue))
    getter = spawn(queue.get)
    settle()
    waiting.close()
    things[queue]()
    assert getter.result() == 1
    refs = [weakref.ref(thing) for thing in things if not isinstance(thing, type(spawn(sleep)))]
    assert all(ref() for ref in refs)


def test_things_are_freed_after_the_wait(hub):
    event, other = Event(), Event()
    refs = [weakref.ref(event), weakref.ref(other)]
    event.set()
    assert wait([event, other], 1) == [event]
    waiting = iwait([event, other])
    next(waiting)
    waiting.close()
    del waiting, event, other
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_one_killed_while_it_waits_leaves_nothing_registered(things, hub):
    task = spawn(wait, things, timeout=100)
    settle()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()
    assert hub.stats()["timers"] == 0
    for make_ready in things.values():
        make_ready()
    settle()


def test_somebody_else_may_be_quicker(hub):
    """wait() takes nothing: what it says is a hint, as with select()."""
    queue = Queue()
    getter, waiting = spawn(queue.get), iwait([queue])
    queue.put(1)
    assert next(waiting) is queue
    assert getter.result() == 1
    assert queue.empty()


def test_wait_and_iwait_have_signatures():
    assert list(inspect.signature(wait).parameters) == ["objects", "count", "timeout"]
    assert list(inspect.signature(iwait).parameters) == ["objects", "count", "timeout"]


def test_ten_thousand_things(hub):
    tasks = [spawn(sleep, 0.001) for _ in range(10_000)]
    assert sorted(wait(tasks), key=id) == sorted(tasks, key=id)


def test_waits_that_are_given_up_leave_one_callback_in_a_future_of_others(hub):
    future = concurrent.futures.Future()
    for _ in range(100):
        assert wait([future], timeout=0) == []
    assert len(future._done_callbacks) == 1
    waiting = [spawn(wait, [future]) for _ in range(3)]
    settle()
    future.set_result(1)
    assert [task.result() for task in waiting] == [[future]] * 3
    assert wait([future], timeout=0) == [future]
    gone = weakref.ref(future)
    del future, waiting
    assert gone() is None


def test_a_future_without_weak_references_can_be_waited_for(hub):
    class Plain:
        __slots__ = ("call",)

        def add_done_callback(self, call):
            self.call = call

    future = Plain()
    task = spawn(wait, [future])
    settle()
    future.call(future)
    assert task.result() == [future]
