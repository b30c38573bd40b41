"""wait.c: the ways in which a wait ends, and their races.

Every kind of wait is tried with every order of delivery, timeout and kill that can come before the task runs
again; then random schedules of many tasks are played, and nothing may be lost, doubled or left registered.
"""

import collections
import itertools
import os
import socket
import threading

import hypothesis
import pytest
from helpers import in_thread, pass_time, settle
from hypothesis import strategies as st

from evergreen import Channel, EventLoop, Task, TaskExit, TaskGroup, _policy, sleep, spawn, wait
from evergreen import _evergreen_c as core
from evergreen.event import Event
from evergreen.locks import Barrier, Condition, Lock, RLock, Semaphore
from evergreen.queue import Empty, Full, PriorityQueue, Queue
from evergreen.timeout import Timeout

races = hypothesis.settings(
    max_examples=1500,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)

# ---- every kind of wait --------------------------------------------------------------------------


class Kind:
    """One kind of wait: how to begin it, how to end it well, and what is still there afterwards."""

    def wait(self):
        raise NotImplementedError

    deliver = None

    def close(self):
        pass


class Sleep(Kind):
    def wait(self):
        sleep(100)


class WaitForEvent(Kind):
    def __init__(self):
        self.event = Event()

    def wait(self):
        assert self.event.wait() is True

    def wait_until(self, seconds):
        return self.event.wait(seconds)

    def deliver(self):
        self.event.set()


class Join(Kind):
    def __init__(self):
        self.gate = Event()
        self.task = spawn(self.gate.wait)
        self.task.name = "joined"

    def wait(self):
        assert self.task.join() is True

    def wait_until(self, seconds):
        return self.task.join(seconds)

    def deliver(self):
        self.gate.set()

    def close(self):
        self.gate.set()
        self.task.join()


class Result(Join):
    def wait(self):
        assert self.task.result() is True

    def wait_until(self, seconds):
        try:
            return self.task.result(seconds)
        except TimeoutError:
            return False


class Receive(Kind):
    def __init__(self):
        self.channel = Channel()
        self.got = []

    def wait(self):
        self.got.append(self.channel.receive())

    def deliver(self):
        self.sender = spawn(self.channel.send, "value")

    def close(self):
        if hasattr(self, "sender") and not self.got:  # what was not received is still there
            assert self.channel.receive() == "value"
        if hasattr(self, "sender"):
            self.sender.result()


class Send(Kind):
    def __init__(self):
        self.channel = Channel()

    def wait(self):
        self.channel.send("value")

    def deliver(self):
        self.receiver = spawn(self.channel.receive)

    def close(self):
        if not hasattr(self, "receiver"):
            return
        settle()
        if self.receiver.is_alive():  # nothing was sent
            self.receiver.kill()
        else:
            assert self.receiver.result() == "value"


class Readable(Kind):
    def __init__(self):
        self.here, self.there = socket.socketpair()

    def wait(self):
        assert core.wait_fd(self.here, 1) is True

    def wait_until(self, seconds):
        return core.wait_fd(self.here, 1, seconds)

    def deliver(self):
        self.there.send(b"x")

    def close(self):
        self.here.close()
        self.there.close()


class Writable(Readable):
    def __init__(self):
        super().__init__()
        self.here.setblocking(False)
        try:
            while True:
                self.here.send(b"x" * 65536)
        except BlockingIOError:
            pass

    def wait(self):
        assert core.wait_fd(self.here, 2) is True

    def wait_until(self, seconds):
        return core.wait_fd(self.here, 2, seconds)

    def deliver(self):
        self.there.setblocking(False)
        try:
            while self.there.recv(1 << 20):
                pass
        except BlockingIOError:
            pass


class Either(Readable):
    def wait(self):
        self.here.setblocking(False)
        try:
            while True:
                self.here.send(b"x" * 65536)
        except BlockingIOError:
            pass
        assert core.wait_fd(self.here, 3) is True


class Switch(Kind):
    def wait(self):
        self.task = Task.current()
        assert self.task.loop.switch() == "value"

    def deliver(self):
        self.task.loop.call_soon(lambda: self.task.switch("value") if self.task.waiting else None)


class Offload(Kind):
    def __init__(self):
        self.gate = threading.Event()

    def wait(self):
        assert _policy.offload(self.gate.wait, (30,)) is True

    def deliver(self):
        self.gate.set()

    def close(self):
        self.gate.set()
        while Task.current().loop.stats()["pins"]:
            sleep(0.001)


class Acquire(Kind):
    """Afterwards the lock is free, whoever got it."""

    def __init__(self):
        self.lock = Lock()
        self.lock.acquire()
        self.taken = True

    def wait(self):
        assert self.lock.acquire() is True
        self.lock.release()

    def wait_until(self, seconds):
        return self.lock.acquire(timeout=max(seconds, 0)) and (self.lock.release() or True)

    def deliver(self):
        if self.taken:
            self.taken = False
            self.lock.release()

    def close(self):
        settle()
        self.deliver()
        assert self.lock.acquire(False)


class AcquireSemaphore(Acquire):
    def __init__(self):
        self.lock = Semaphore(0)
        self.taken = True


class AcquireR(Acquire):
    def __init__(self):
        self.lock = RLock()
        in_thread(self.lock.acquire)  # a thread that has ended keeps it
        self.taken = True

    def deliver(self):
        if self.taken:
            self.taken = False
            self.lock._at_fork_reinit()  # which passes it on


class Get(Kind):
    """Afterwards what was not got is still there."""

    kind = Queue

    def __init__(self):
        self.queue = self.kind()
        self.put, self.got = [], []

    def wait(self):
        self.got.append(self.queue.get())

    def wait_until(self, seconds):
        try:
            self.got.append(self.queue.get(timeout=max(seconds, 0)))
            return True
        except Empty:
            return False

    def deliver(self):
        self.put.append(len(self.put))
        self.queue.put(self.put[-1])

    def close(self):
        while not self.queue.empty():
            self.got.append(self.queue.get_nowait())
        assert sorted(self.got) == self.put


class GetPriority(Get):
    kind = PriorityQueue


class Put(Kind):
    def __init__(self):
        self.queue = Queue(1)
        self.queue.put("first")

    def wait(self):
        self.queue.put("second")

    def wait_until(self, seconds):
        try:
            self.queue.put("second", timeout=max(seconds, 0))
            return True
        except Full:
            return False

    def deliver(self):
        if self.queue.qsize():
            self.queue.get()


class JoinQueue(Kind):
    def __init__(self):
        self.queue = Queue()
        self.queue.put(1)

    def wait(self):
        self.queue.join()

    def deliver(self):
        if self.queue.unfinished_tasks:
            self.queue.task_done()


class WaitForCondition(Kind):
    def __init__(self):
        self.condition = Condition()
        self.ready = False

    def wait(self):
        with self.condition:
            assert self.condition.wait_for(lambda: self.ready) is True

    def wait_until(self, seconds):
        with self.condition:
            return self.ready or self.condition.wait(seconds)

    def deliver(self):
        self.ready = True
        assert self.condition.acquire(False)  # whoever waits has given it up
        self.condition.notify_all()
        self.condition.release()

    def close(self):
        assert self.condition.acquire(False)


class WaitForBarrier(Kind):
    def __init__(self):
        self.barrier = Barrier(2)
        self.others = []

    def wait(self):
        self.barrier.wait()

    def deliver(self):
        self.others.append(spawn(self.barrier.wait))
        settle()

    def close(self):
        for other in self.others:
            other.kill()
        settle()
        assert self.barrier.n_waiting == 0


class EndOfGroup(Join):
    def wait(self):
        with TaskGroup() as group:
            group.spawn(self.gate.wait)


class Watching(WaitForEvent):
    def wait(self):
        assert wait([Event(), self.event], 1) == [self.event]

    def wait_until(self, seconds):
        return bool(wait([Event(), self.event], 1, seconds))


KINDS = [Sleep, WaitForEvent, Join, Result, Receive, Send, Readable, Writable, Either, Switch, Offload]
KINDS += [Acquire, AcquireR, AcquireSemaphore, Get, GetPriority, Put, JoinQueue, WaitForCondition]
KINDS += [WaitForBarrier, EndOfGroup, Watching]
BOUNDED = [WaitForEvent, Join, Result, Readable, Writable]
BOUNDED += [Acquire, AcquireR, AcquireSemaphore, Get, GetPriority, Put, WaitForCondition, Watching]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.lower())
def kind(request, hub):
    kind = request.param()
    yield kind
    kind.close()


@pytest.fixture(params=BOUNDED, ids=lambda kind: kind.__name__.lower())
def bounded(request, hub):
    kind = request.param()
    yield kind
    kind.close()


@pytest.mark.parametrize(
    "how", KINDS[1:], ids=lambda kind: kind.__name__.lower()
)  # nothing ends a sleep but time
def test_a_wait_ends_when_it_is_delivered(hub, how):
    kind = how()
    task = spawn(kind.wait)
    settle()
    kind.deliver()
    task.result()
    kind.close()


def test_a_kill_ends_any_wait_and_leaves_nothing_behind(kind):
    task = spawn(kind.wait)
    settle()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()


def test_a_timeout_ends_any_wait_and_leaves_nothing_behind(kind):
    def wait():
        with Timeout(0.002):
            kind.wait()

    with pytest.raises(Timeout):
        spawn(wait).result()


def test_a_timeout_ends_any_wait_of_main(kind):
    with pytest.raises(Timeout):
        with Timeout(0.002):
            kind.wait()


def test_a_kill_before_the_wait_is_raised_by_it(kind):
    def victim():
        in_thread(Task.current().kill)
        with pytest.raises(TaskExit):
            kind.wait()
        return "met it"

    assert spawn(victim).result() == "met it"


def test_an_exception_thrown_at_main_ends_any_wait(kind):
    def leave():
        raise KeyboardInterrupt

    spawn(lambda: (sleep(0.002), leave()))
    with pytest.raises(KeyboardInterrupt):
        kind.wait()


def test_a_bounded_wait_returns_false_when_time_is_up(bounded):
    assert spawn(bounded.wait_until, 0.002).result() is False
    assert spawn(bounded.wait_until, 0).result() is False
    assert bounded.wait_until(0.002) is False


def test_a_bounded_wait_that_is_delivered_leaves_no_timer(bounded, hub):
    task = spawn(bounded.wait_until, 100)
    settle()
    bounded.deliver()
    assert task.result() is True
    assert hub.stats()["timers"] == 0


def test_a_bounded_wait_that_is_killed_leaves_no_timer(bounded, hub):
    task = spawn(bounded.wait_until, 100)
    settle()
    task.kill()
    task.join()
    assert hub.stats()["timers"] == 0


# ---- all orders of what can happen before the task runs again ------------------------------------

ORDERS = [
    order for length in (1, 2, 3) for order in itertools.permutations(("deliver", "expire", "kill"), length)
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("how", BOUNDED, ids=lambda kind: kind.__name__.lower())
def test_the_first_end_of_a_wait_counts_and_a_kill_overrides(hub, how, order):
    delay = 0.004
    while (outcome := play(hub, how(), order, delay)) is None:
        delay *= 3  # this machine was too slow for the order to be as it should
    before, _ = split(order)
    if "kill" in order:
        expected = "killed"  # a deadline's callback goes ahead of a task that was ready before
    elif "deliver" in before and not ("expire" in order and issubclass(how, Join)):
        expected = True
    else:
        expected = False  # what is joined had its own turn to come
    assert outcome == [expected]


def split(order):
    """What comes before the deadline, and what comes after it."""
    if "expire" not in order:
        return order, ()
    return order[: order.index("expire")], order[order.index("expire") + 1 :]


def play(hub, kind, order, delay):
    """All in one turn: a timer armed for the deadline's own moment calls back before the task runs."""
    outcome = []
    before, after = split(order)
    due = hub.time() + (delay if "expire" in order else 100)

    def waiter():
        try:
            outcome.append(kind.wait_until(due + 0.0001 - hub.time()))
        except TaskExit:
            outcome.append("killed")

    def act(steps):
        for step in steps:
            if step == "deliver":
                kind.deliver()
            elif step == "kill":
                task.kill()

    timer = hub.call_at(due, act, after)  # it fires first, and its callback runs ahead of the task
    task = spawn(waiter)
    settle()
    act(before)
    slow = hub.time() >= due
    if "expire" in order:
        pass_time(delay + 0.003)
    assert task.join(5)
    timer.cancel()
    kind.close()
    return None if slow else outcome


def test_a_value_handed_to_a_receiver_that_is_killed_goes_to_the_next(hub):
    channel, got = Channel(), []
    first = spawn(channel.receive)
    second = spawn(lambda: got.append(channel.receive()))
    settle()
    channel.send("value")
    first.kill()
    second.join()
    assert got == ["value"]
    with pytest.raises(TaskExit):
        first.result()


def test_a_value_handed_to_a_receiver_that_is_killed_waits_for_the_next(hub):
    channel = Channel()
    first = spawn(channel.receive)
    settle()
    channel.send("value")
    first.kill()
    first.join()
    later = spawn(channel.send, "later")
    settle()
    assert channel.receive() == "value"
    assert channel.receive() == "later"
    later.result()


def test_values_handed_to_receivers_that_are_killed_keep_their_order(hub):
    for order in itertools.permutations(range(3)):
        channel = Channel()
        receivers = [spawn(channel.receive) for _ in range(3)]
        settle()
        for value in range(3):
            channel.send(value)
        for number in order:
            receivers[number].kill()
        settle()
        assert [channel.receive() for _ in range(3)] == [0, 1, 2]


def test_a_value_handed_to_a_receiver_that_timed_out_is_not_lost(hub):
    channel = Channel()

    def receive():
        with Timeout(0.001):
            return channel.receive()

    task = spawn(receive)
    settle()
    channel.send("value")
    pass_time()
    settle()
    try:
        assert task.result() == "value"
    except Timeout:
        assert channel.receive() == "value"


# ---- random schedules: channels ------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["send", "receive", "kill"] * 2 + ["send soon", "receive soon", "yield", "settle", "pass", "poll"]
        ),
        st.integers(min_value=0, max_value=12),
        st.sampled_from([None, None, 0.0004, 0.001]),
    ),
    max_size=40,
)


@races
@hypothesis.given(STEPS)
def test_a_channel_loses_and_doubles_nothing(hub, steps):
    channel = Channel()
    tasks, sent, tried, received = [], [], [], []

    def send(value, timeout):
        tried.append(value)
        with Timeout(timeout):
            channel.send(value)
            sent.append(value)

    def receive(timeout):
        with Timeout(timeout):
            value = channel.receive()
            received.append(value)

    def quietly(function, *args):
        try:
            function(*args)
        except (Timeout, TaskExit):
            pass

    for step, number, timeout in steps:
        if step.startswith("send"):
            tasks.append(spawn(quietly, send, len(tasks), timeout))
        elif step.startswith("receive"):
            tasks.append(spawn(quietly, receive, timeout))
        elif step == "kill" and tasks:
            tasks[number % len(tasks)].kill()
        elif step == "yield":
            sleep(0)
        elif step == "pass":
            pass_time(0.0006)
        elif step == "poll":
            hub.run(EventLoop.RUN_NOWAIT)
        if step in ("send soon", "receive soon", "settle"):
            settle()
    settle()
    drain = spawn(lambda: [receive(None) for _ in itertools.count()])  # what is left, if anything
    settle()
    for task in (*tasks, drain):
        task.kill()
        task.join()
    assert max(collections.Counter(received).values(), default=1) == 1, "doubled"
    assert set(sent) <= set(received), "lost"
    assert set(received) <= set(tried)
    stats = hub.stats()
    assert (stats["tasks"], stats["timers"]) == (0, 0)


# ---- random schedules: events --------------------------------------------------------------------


@races
@hypothesis.given(
    st.lists(
        st.tuples(
            st.sampled_from(["wait", "wait", "set", "clear", "kill", "yield", "settle", "pass", "poll"]),
            st.integers(min_value=0, max_value=12),
            st.sampled_from([None, None, 0, 0.0004, 0.001, 50]),
        ),
        max_size=40,
    )
)
def test_an_event_wakes_everyone_who_waits_and_nobody_twice(hub, steps):
    event = Event()
    tasks, outcomes, timeouts, killed = [], {}, {}, set()

    def wait(number, timeout):
        assert number not in outcomes
        outcomes[number] = "waiting"
        try:
            outcomes[number] = event.wait(timeout)
        except TaskExit:
            outcomes[number] = "killed"

    for step, number, timeout in steps:
        if step == "wait":
            timeouts[len(tasks)] = timeout
            tasks.append(spawn(wait, len(tasks), timeout))
        elif step == "set":
            event.set()
        elif step == "clear":
            event.clear()
        elif step == "kill" and tasks:
            tasks[number % len(tasks)].kill()
            killed.add(number % len(tasks))
        elif step == "yield":
            sleep(0)
        elif step == "settle":
            settle()
        elif step == "pass":
            pass_time(0.0006)
        elif step == "poll":
            hub.run(EventLoop.RUN_NOWAIT)
    event.set()
    settle()
    assert not any(task.is_alive() for task in tasks), "somebody still waits for an event that is set"
    for number, task in enumerate(tasks):
        task.result() if number not in killed else task.join()
        outcome = outcomes.get(number, "killed")
        if number not in killed:
            assert outcome is True or (outcome is False and timeouts[number] is not None)
        else:
            assert outcome in (True, False, "killed")
    stats = hub.stats()
    assert (stats["tasks"], stats["timers"]) == (0, 0)


# ---- random schedules: everything at once --------------------------------------------------------


@races
@hypothesis.given(
    st.lists(
        st.tuples(
            st.sampled_from(["spawn", "deliver"] * 3 + ["kill"] * 2 + ["yield", "settle", "pass", "poll"]),
            st.sampled_from([kind for kind in KINDS if kind is not Offload]),
            st.integers(min_value=0, max_value=12),
            st.sampled_from([None, None, 0.0004, 0.001, 50]),
        ),
        max_size=30,
    )
)
def test_any_mixture_of_waits_ends_cleanly(hub, steps):
    kinds, tasks, ends = [], [], []

    def wait(number, kind, timeout):
        try:
            with Timeout(timeout):
                kind.wait()
            ends.append((number, "delivered"))
        except Timeout:
            ends.append((number, "timed out"))
        except TaskExit:
            ends.append((number, "killed"))

    delivered, killed, timeouts = set(), set(), {}
    for step, how, number, timeout in steps:
        if step == "spawn":
            kinds.append(how())
            timeouts[len(tasks)] = timeout
            tasks.append(spawn(wait, len(tasks), kinds[-1], timeout))
            if how is Switch:
                settle()
        elif step == "deliver" and tasks:
            number %= len(tasks)
            if kinds[number].deliver is not None and number not in delivered:
                kinds[number].deliver()
                delivered.add(number)
        elif step == "kill" and tasks:
            tasks[number % len(tasks)].kill()
            killed.add(number % len(tasks))
        elif step == "yield":
            sleep(0)
        elif step == "settle":
            settle()
        elif step == "pass":
            pass_time(0.0006)
        elif step == "poll":
            hub.run(EventLoop.RUN_NOWAIT)
    settle()
    for _ in range(2):  # what descriptors have to say
        hub.run(EventLoop.RUN_NOWAIT)
        settle()
    for number, task in enumerate(tasks):
        if number in delivered and number not in killed and timeouts[number] != 0.0004:
            assert task.join(5), f"{task} was delivered, and still waits"
        task.kill()
        task.join()
    for kind in kinds:
        kind.close()
    counted = collections.Counter(number for number, _ in ends)
    assert max(counted.values(), default=1) == 1
    for number, end in ends:
        if end == "delivered":
            assert number in delivered
        if end == "timed out":
            assert timeouts[number] is not None
    settle()
    stats = hub.stats()
    left = {name: stats[name] for name in ("tasks", "timers", "descriptors", "pins")}
    assert not any(left.values()), left


# ---- races with native threads -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_calls_in_native_threads_race_with_kills_and_timeouts(hub, seed):
    import random

    rng = random.Random(seed)
    ran, ends = [], []

    def call(number, seconds):
        threading.Event().wait(seconds)
        ran.append(number)
        return number

    def work(number, seconds, timeout):
        try:
            with Timeout(timeout):
                assert _policy.offload(call, (number, seconds)) == number
            ends.append((number, "done"))
        except Timeout:
            ends.append((number, "timed out"))
        except TaskExit:
            ends.append((number, "killed"))

    tasks = []
    for number in range(60):
        timeout = rng.choice([None, 0.001, 0.003, 0.01])
        tasks.append(spawn(work, number, rng.random() * 0.004, timeout))
    for _ in range(30):
        sleep(rng.random() * 0.001)
        rng.choice(tasks).kill()
    for task in tasks:
        task.join()
    while hub.stats()["pins"]:
        sleep(0.001)
    assert len(ran) == len(set(ran))
    assert {number for number, end in ends if end == "done"} <= set(ran)


@pytest.mark.parametrize("seed", range(20))
def test_kills_from_native_threads_race_with_deliveries(hub, seed):
    import random

    rng = random.Random(seed)
    channel, received, sent = Channel(), [], []

    def receive():
        while True:
            received.append(channel.receive())

    def send(value):
        channel.send(value)
        sent.append(value)

    receivers = [spawn(receive) for _ in range(20)]
    victims = receivers[:10]
    settle()

    def kill():
        for victim in victims:
            os.sched_yield()
            victim.kill()

    thread = threading.Thread(target=kill)
    senders = [spawn(send, number) for number in range(100)]
    thread.start()
    for sender in senders:
        sender.result()
        if rng.random() < 0.2:
            sleep(0.0001)
    thread.join()
    settle()
    for receiver in receivers:
        receiver.kill()
        receiver.join()
    assert sorted(received) == sorted(sent) == list(range(100))
