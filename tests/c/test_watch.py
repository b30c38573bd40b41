"""watch.c: waiting for several things at once."""

import gc
import sys
import weakref

import pytest
from helpers import in_thread, output_of, pass_time, settle

from evergreen import Channel, EventLoop, Task, TaskExit, sleep, spawn
from evergreen._evergreen_c import Watch
from evergreen.event import Event
from evergreen.locks import BoundedSemaphore, Condition, Lock, RLock, Semaphore
from evergreen.queue import LifoQueue, PriorityQueue, Queue

PATIENCE = 30


class Mine(Queue):
    """Keeps its items itself."""

    def _init(self, maxsize):
        self.items = []

    def _qsize(self):
        return len(self.items)

    def _put(self, item):
        self.items.append(item)

    def _get(self):
        return self.items.pop()


def busy(lock):
    spawn(lock.acquire).join()
    return lock


# Each: how to make it so that it is not ready, how to make it ready, and what undoes that.
THINGS = {
    "task": (lambda: spawn(Event().wait), lambda thing: thing.kill()),
    "event": (Event, lambda thing: thing.set()),
    "semaphore": (lambda: Semaphore(0), lambda thing: thing.release()),
    "bounded": (lambda: busy(BoundedSemaphore(1)), lambda thing: thing.release()),
    "lock": (lambda: busy(Lock()), lambda thing: thing.release()),
    "rlock": (lambda: busy(RLock()), lambda thing: thing._at_fork_reinit()),
    "queue": (Queue, lambda thing: thing.put(1)),
    "lifo": (LifoQueue, lambda thing: thing.put(1)),
    "priority": (PriorityQueue, lambda thing: thing.put(1)),
    "subclass": (Mine, lambda thing: thing.put(1)),
    "shut down queue": (Queue, lambda thing: thing.shutdown()),
    "channel": (Channel, lambda thing: (spawn(thing.send, 1), sleep(0))),
    "closed channel": (Channel, lambda thing: thing.close()),
}


@pytest.fixture(params=THINGS)
def thing(request, hub):
    make, _ = THINGS[request.param]
    thing = make()
    thing_of[id(thing)] = THINGS[request.param][1]
    yield thing
    if isinstance(thing, Task):
        thing.kill()
    if isinstance(thing, Channel) and not thing.closed:
        receiver = spawn(thing.receive)  # what was sent, if anything was
        settle()
        receiver.kill()


thing_of = {}


def make_ready(thing):
    thing_of[id(thing)](thing)


def test_what_is_ready_is_taken_at_once(thing):
    make_ready(thing)
    settle()
    watch = Watch([thing])
    assert watch.left == 1
    assert watch.take(0) is thing
    assert watch.left == 0
    assert watch.take() is None


def test_what_becomes_ready_wakes_the_watcher(thing):
    watch = Watch([thing])
    task = spawn(watch.take)
    settle()
    assert task.waiting[:2] == ("watch", watch)
    make_ready(thing)
    assert task.result() is thing


def test_what_became_ready_before_take_is_taken(thing):
    watch = Watch([thing])
    make_ready(thing)
    settle()
    assert watch.take(0) is thing


def test_what_is_not_ready_is_none_when_time_is_up(thing):
    watch = Watch([thing])
    assert watch.take(0.001) is None
    assert watch.take(0) is None
    assert watch.left == 1
    make_ready(thing)
    settle()
    assert watch.take() is thing


def test_a_watch_that_is_closed_is_not_told(thing):
    watch = Watch([thing])
    task = spawn(watch.take)
    settle()
    watch.close()
    watch.close()
    assert task.result() is None
    make_ready(thing)
    settle()
    assert (watch.take(), watch.left) == (None, 0)


def test_a_watch_that_is_dropped_is_not_told(thing):
    Watch([thing])
    gc.collect()
    make_ready(thing)
    settle()


def test_a_killed_watcher_leaves_the_watch_as_it_was(thing):
    watch = Watch([thing])
    task = spawn(watch.take)
    settle()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()
    make_ready(thing)
    task = spawn(watch.take)
    settle()
    task.kill()  # too late
    assert task.result() is thing


def test_one_killed_after_it_was_woken_leaves_the_thing_to_the_next(thing, hub):
    watch = Watch([thing])
    task = spawn(watch.take)
    settle()
    hub.call_soon(task.kill)  # this turn's last
    make_ready(thing)
    settle()
    try:
        assert task.result() is thing
    except TaskExit:
        assert watch.take(0) is thing


def test_watching_takes_nothing(hub):
    semaphore, queue = Semaphore(0), Queue()
    watch = Watch([semaphore, queue])
    semaphore.release()
    queue.put(1)
    assert {watch.take(), watch.take()} == {semaphore, queue}
    assert semaphore.acquire(False)
    assert queue.get_nowait() == 1


def test_a_watcher_ahead_does_not_keep_others_waiting(hub):
    queue, lock = Queue(), busy(Lock())
    watch = Watch([queue, lock])
    getter, taker = spawn(queue.get), spawn(lock.acquire)
    settle()
    queue.put(1)
    lock.release()
    assert getter.result() == 1
    assert taker.result() is True
    assert [watch.take(), watch.take()] == [queue, lock]


def test_many_watch_one(hub):
    queue = Queue()
    watches = [Watch([queue]) for _ in range(5)]
    tasks = [spawn(watch.take) for watch in watches]
    settle()
    queue.put(1)
    assert [task.result() for task in tasks] == [queue] * 5


def test_things_come_in_the_order_in_which_they_became_ready(hub):
    events = [Event() for _ in range(10)]
    watch = Watch(events)
    for number in (3, 1, 4, 5, 9, 2, 6):
        events[number].set()
    assert [events.index(watch.take()) for _ in range(7)] == [3, 1, 4, 5, 9, 2, 6]
    assert watch.take(0) is None
    assert watch.left == 3


def test_the_same_thing_may_be_there_twice(hub):
    event = Event()
    watch = Watch([event, event])
    event.set()
    assert [watch.take(), watch.take(), watch.take()] == [event, event, None]


def test_one_killed_after_it_was_woken_by_an_event_leaves_it_to_the_next(hub):
    event = Event()
    watch = Watch([event])
    task = spawn(watch.take)
    settle()
    event.set()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()
    assert watch.take(0) is event


def test_two_tasks_may_take_from_one_watch(hub):
    events = [Event() for _ in range(2)]
    watch = Watch(events)
    tasks = [spawn(watch.take) for _ in range(2)]
    settle()
    for event in events:
        event.set()
    assert [task.result() for task in tasks] == events


def test_what_is_given_back_makes_a_queue_or_channel_ready(hub):
    for thing, put, get in ((Queue(), "put", "get"), (Channel(), "send", "receive")):
        getter = spawn(getattr(thing, get))
        settle()
        watch = Watch([thing])
        getattr(thing, put)("value")
        getter.kill()
        assert watch.take(0) is thing
        assert getattr(thing, get)() == "value"


def test_a_permit_given_back_makes_a_lock_ready(hub):
    lock = Lock()
    lock.acquire()
    waiter = spawn(lock.acquire)
    settle()
    watch = Watch([lock])
    lock.release()
    waiter.kill()
    assert watch.take(0) is lock


def test_bad_things_are_type_errors_and_leave_nothing_behind(hub):
    event = Event()
    before = sys.getrefcount(event)
    for bad in (1, "x", None, object(), Condition()):
        with pytest.raises(TypeError, match="cannot wait for"):
            Watch([event, bad])
    with pytest.raises(TypeError):
        Watch(1)
    with pytest.raises(TypeError):
        Watch()
    with pytest.raises(TypeError):
        Watch([]).take("1")
    with pytest.raises(TypeError):
        Watch([]).take(1, 2)
    event.set()
    assert sys.getrefcount(event) == before


def test_a_task_that_was_not_started_and_the_main_greenlet(hub):
    with pytest.raises(RuntimeError, match="started"):
        Watch([Task()])
    with pytest.raises(RuntimeError, match="not a task"):
        Watch([Task.current()])


def test_a_queue_of_a_subclass_that_fails(hub):
    class Failing(Mine):
        def _qsize(self):
            raise KeyError

    with pytest.raises(KeyError):
        Watch([Event(), Failing()])


def test_an_empty_watch_is_at_its_end(hub):
    watch = Watch([])
    assert (watch.left, watch.take(), watch.take(0)) == (0, None, None)


def test_things_of_other_threads(hub):
    event, queue = Event(), Queue()
    watch = Watch([event, queue])
    in_thread(event.set)

    def with_loop():
        loop = EventLoop()
        spawn(queue.put, 1).result()
        loop.destroy()

    in_thread(with_loop)
    assert [watch.take(PATIENCE), watch.take(PATIENCE)] == [event, queue]
    assert in_thread(lambda: Watch([event]).take()) is event


def test_a_watch_and_what_it_watches_are_collected(hub):
    class Holder(Event):
        pass

    event = Holder()
    event.watch = Watch([event])
    refs = [weakref.ref(event)]
    del event
    gc.collect()
    assert refs[0]() is None
    queue = Queue()
    queue.put(Watch([queue, Event()]))
    refs.append(weakref.ref(queue))
    del queue
    gc.collect()
    assert refs[1]() is None


def test_no_reference_is_lost_or_kept(thing):
    before = sys.getrefcount(thing)
    for _ in range(20):
        watch = Watch([thing, thing])
        watch.take(0)
        task = spawn(watch.take)
        settle()
        task.kill()
        settle()
    del watch, task
    gc.collect()
    assert sys.getrefcount(thing) == before


def test_a_take_costs_no_more_when_many_are_watched(hub):
    """Each thing has its own place in its own queue: one that comes ready touches no other."""
    events = [Event() for _ in range(20_000)]
    watch = Watch(events)
    task = spawn(lambda: [watch.take() for _ in events])
    settle()
    switches = hub.stats()["switches"]
    for event in reversed(events):
        event.set()
    assert task.result() == events[::-1]
    assert hub.stats()["switches"] - switches < 10


def test_a_fork_while_tasks_are_watched():
    out = output_of("""
        import os
        from evergreen import Task, iwait, sleep, spawn
        from evergreen.event import Event

        def child():
            tasks = [spawn(Event().wait) for _ in range(3)]
            ended = spawn(sleep, 0)
            waiting = iwait([*tasks, ended, event])
            assert next(waiting) is ended
            pid = os.fork()
            if not pid:
                event.set()
                assert next(waiting) is event
                waiting.close()
                os._exit(7)
            for task in tasks:
                task.kill()
            waiting.close()
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        event = Event()
        print(spawn(child).result())
    """)
    assert out == "7\n"


def test_time_that_passes_before_take_counts_from_take(hub):
    watch = Watch([Event()])
    pass_time(0.003)
    assert watch.take(0.001) is None
