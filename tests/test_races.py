"""Random schedules over every primitive, compared with what a simple model says.

Tasks use one object; some are killed, some run out of time, at whatever they wait for, before and after it
was handed to them. At the end nothing may be lost, doubled or left registered. A few thousand schedules, the
same ones each time, are played by default; `make races ARGS=100000` plays as many new ones as ARGS says.
"""

import collections
import contextlib
import os
import random
import sys
import threading

import hypothesis
import pytest
from helpers import pass_time, settle
from hypothesis import strategies as st

from evergreen import (
    Channel,
    ChannelClosed,
    EventLoop,
    TaskExit,
    TaskGroup,
    fail_after,
    move_on_after,
    shield,
    sleep,
    spawn,
    wait,
)
from evergreen.event import Event
from evergreen.locks import Barrier, BoundedSemaphore, BrokenBarrierError, Condition, Lock, RLock, Semaphore
from evergreen.pool import Pool
from evergreen.queue import Empty, Full, LifoQueue, PriorityQueue, Queue, ShutDown

PROPERTIES = 10
MANY = int(os.environ.get("EVERGREEN_RACES", 0))

races = hypothesis.settings(
    max_examples=MANY // PROPERTIES if MANY else 300,
    derandomize=not MANY,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
pytestmark = pytest.mark.filterwarnings("error")

SOON = [None, None, 0, 0.0004, 0.001, 50]


def schedule(*ops, size=40):
    """Lists of (op, number, seconds); what the schedules of all have in common is added to ops."""
    common = ["kill"] * 3 + ["yield", "settle", "pass", "poll"]
    steps = st.tuples(
        st.sampled_from([*ops * 2, *common]), st.integers(min_value=0, max_value=12), st.sampled_from(SOON)
    )
    return st.lists(steps, max_size=size)


class Race:
    """The tasks of one schedule, and how each ended: "done", "late", "killed", or what it raised."""

    def __init__(self, hub, expected=()):
        self.hub = hub
        self.expected = expected
        self.tasks, self.ends, self.killed = [], {}, set()

    def spawn(self, function, *args, scope=None):
        """Have a task call function(number, *args), with a deadline around it."""
        number = len(self.tasks)
        self.tasks.append(spawn(self._run, number, function, args, scope))
        return number

    def _run(self, number, function, args, scope):
        assert number not in self.ends
        try:
            with move_on_after(scope) as deadline:
                function(number, *args)
            self.ends[number] = "late" if deadline.expired else "done"
        except TaskExit:
            self.ends[number] = "killed"
        except self.expected as exc:
            self.ends[number] = type(exc)

    def step(self, op, number):
        """What is the same for all; false: this op is not."""
        if op == "kill":
            if self.tasks:
                self.killed.add(number % len(self.tasks))
                self.tasks[number % len(self.tasks)].kill()
        elif op == "yield":
            sleep(0)
        elif op == "settle":
            settle()
        elif op == "pass":
            pass_time(0.0006)
        elif op == "poll":
            self.hub.run(EventLoop.RUN_NOWAIT)
        else:
            return False
        return True

    def finish(self):
        """Kill who is left; nobody may have ended in a way that was not to be expected."""
        settle()
        for number, task in enumerate(self.tasks):
            if task.is_alive():
                self.killed.add(number)
                task.kill()
        settle()
        for number, task in enumerate(self.tasks):
            assert not task.is_alive()
            if self.ends.get(number) is None:
                assert number in self.killed  # before it ran
                self.ends[number] = "killed"
                with contextlib.suppress(TaskExit, *self.expected):
                    task.result()
            else:
                task.result()
            if self.ends[number] == "killed":
                assert number in self.killed
        stats = self.hub.stats()
        assert (stats["tasks"], stats["timers"]) == (0, 0)

    def those(self, end):
        return {number for number, how in self.ends.items() if how == end}


# ---- locks -----------------------------------------------------------------------------------------


@races
@hypothesis.given(
    st.sampled_from([Lock, RLock, Semaphore, BoundedSemaphore]),
    st.integers(min_value=0, max_value=3),
    schedule("acquire", "acquire with a deadline", "hold", "try"),
)
def test_permits(hub, kind, permits, steps):
    race = Race(hub)
    if kind in (Lock, RLock):
        permits = 1
    lock = kind(permits) if permits != 1 else kind()
    came, got, holding = [], [], [0]

    def take(number, timeout, turns):
        came.append(number)
        if not lock.acquire(timeout=timeout):
            return
        try:
            got.append(number)
            holding[0] += 1
            assert holding[0] <= permits
            for _ in range(turns):
                sleep(0)
        finally:
            holding[0] -= 1
            lock.release()

    for op, number, seconds in steps:
        if race.step(op, number):
            continue
        if op == "acquire":
            race.spawn(take, seconds, number % 3)
        elif op == "hold":
            race.spawn(take, None, number * 3)
        elif op == "acquire with a deadline":
            race.spawn(take, None, number % 3, scope=seconds)
        elif op == "try" and lock.acquire(False):
            assert holding[0] < permits
            lock.release()
    race.finish()
    assert holding == [0]
    assert [lock.acquire(False) for _ in range(permits)] == [True] * permits
    assert spawn(lock.acquire, False).result() is False
    assert len(got) == len(set(got))
    if permits == 1:  # with more, one who finds a permit goes on before one who is handed another
        assert got == [number for number in came if number in set(got)], "somebody overtook"
    if permits:
        assert race.those("done") - race.killed <= set(came)


# ---- queues ----------------------------------------------------------------------------------------


class Mine(Queue):
    def _init(self, maxsize):
        self.items = collections.deque()

    def _qsize(self):
        return len(self.items)

    def _put(self, item):
        self.items.append(item)

    def _get(self):
        return self.items.popleft()


@races
@hypothesis.given(
    st.sampled_from([Queue, LifoQueue, PriorityQueue, Mine]),
    st.integers(min_value=0, max_value=3),
    schedule("put", "put", "get", "get", "put with a deadline", "get with a deadline", "try put", "try get"),
    st.sampled_from([None, None, None, "shutdown", "drop"]),
)
def test_queues(hub, kind, maxsize, steps, end):
    race = Race(hub, (Empty, Full, ShutDown))
    queue = kind(maxsize)
    entered, put, refused, got = [], set(), set(), []

    def do_put(number, timeout):
        item = ((number * 7) % 5, number)
        entered.append(item)
        try:
            queue.put(item, timeout=timeout)
            put.add(item)
        except (Full, ShutDown):
            refused.add(item)
            raise

    def do_get(number, timeout):
        got.append(queue.get(timeout=timeout))

    def drain():
        items = []
        with contextlib.suppress(Empty, ShutDown):
            while True:
                items.append(queue.get_nowait())
        return items

    extra = 1000
    for place, (op, number, seconds) in enumerate(steps):
        if end and place == len(steps) * 2 // 3:
            left = queue.qsize()
            queue.shutdown(immediate=end == "drop")
            assert queue.qsize() == (0 if end == "drop" else left)
        if race.step(op, number):
            continue
        if op in ("put", "get"):
            race.spawn(do_put if op == "put" else do_get, seconds)
        elif op in ("put with a deadline", "get with a deadline"):
            race.spawn(do_put if op.startswith("put") else do_get, None, scope=seconds)
        elif op == "try put":
            with contextlib.suppress(Full, ShutDown):
                extra += 1
                entered.append((number % 5, extra))
                queue.put((number % 5, extra), block=False)
                put.add((number % 5, extra))
        elif op == "try get":
            with contextlib.suppress(Empty, ShutDown):
                got.append(queue.get_nowait())
    settle()
    race.finish()
    left = drain()
    assert queue.qsize() == 0
    counts = collections.Counter(got + left)
    assert max(counts.values(), default=1) == 1, "doubled"
    assert not set(counts) & refused, "refused, and there all the same"
    assert set(counts) <= set(entered)
    if end != "drop":
        assert put <= set(counts), "lost"
        assert queue.unfinished_tasks >= len(put)
    if kind is PriorityQueue:
        assert left == sorted(left)
    if kind is Queue and not maxsize:  # a putter that waits comes in later than it entered
        assert left == [item for item in entered if item in set(left)]


# ---- channels --------------------------------------------------------------------------------------


@races
@hypothesis.given(schedule("send", "receive", "send soon", "receive soon"), st.booleans())
def test_channels(hub, steps, close):
    race = Race(hub, (ChannelClosed,))
    channel = Channel()
    tried, sent, received, refused = [], [], [], []

    def send(number):
        tried.append(number)
        try:
            channel.send(number)
            sent.append(number)
        except ChannelClosed:
            refused.append(number)
            raise

    def receive(number):
        received.append(channel.receive())

    for place, (op, number, seconds) in enumerate(steps):
        if close and place == len(steps) * 2 // 3:
            channel.close()
        if not race.step(op, number):
            race.spawn(send if op.startswith("send") else receive, scope=seconds)
            if op.endswith("soon"):
                settle()
    settle()
    for number, task in enumerate(race.tasks):  # the receivers that are left would take what is left
        race.killed.add(number)
        task.kill()
    race.finish()
    left = spawn(lambda: [received.append(value) for value in channel])
    settle()
    assert left.is_alive() != channel.closed  # iteration ends with the channel
    left.kill()
    left.join()
    assert max(collections.Counter(received).values(), default=1) == 1, "doubled"
    assert set(sent) <= set(received) <= set(tried)
    assert not set(refused) & set(received)


# ---- conditions and barriers -----------------------------------------------------------------------


class Foreign:
    """A lock of somebody else's."""

    def __init__(self):
        self._lock = Lock()

    def acquire(self, *args):
        return self._lock.acquire(*args)

    def release(self):
        self._lock.release()


@races
@hypothesis.given(
    st.sampled_from([Lock, RLock, Foreign]),
    schedule("wait", "wait", "wait with a deadline", "notify", "notify all", "hold", "kill hard"),
)
def test_conditions(hub, kind, steps):
    race = Race(hub, (RuntimeError,))
    lock = kind()
    condition = Condition(lock)
    inside, notified, woken = [0], [0], []

    def enter():
        assert inside[0] == 0, "two have the lock"
        inside[0] += 1

    def do_wait(number, timeout):
        lock.acquire()
        try:
            enter()
            inside[0] -= 1
            try:
                if condition.wait(timeout):
                    woken.append(number)
            finally:
                condition.notify(0)  # a RuntimeError if it is not held
                enter()
                inside[0] -= 1
        finally:
            lock.release()

    def hold(number, turns):
        lock.acquire()
        try:
            enter()
            for _ in range(turns):
                sleep(0)
        finally:
            inside[0] -= 1
            lock.release()

    def notify(number, n):
        lock.acquire()
        try:
            notified[0] += 1000 if n is None else n
            condition.notify_all() if n is None else condition.notify(n)
        finally:
            lock.release()

    for op, number, seconds in steps:
        if race.step(op, number):
            continue
        if op == "wait":
            race.spawn(do_wait, seconds)
        elif op == "wait with a deadline":
            race.spawn(do_wait, None, scope=seconds)
        elif op == "hold":
            race.spawn(hold, number)
        elif op == "kill hard":
            if race.tasks:
                race.killed.add(number % len(race.tasks))
                race.tasks[number % len(race.tasks)].kill(RuntimeError)
        else:
            race.spawn(notify, number % 4 if op == "notify" else None)
    race.finish()
    assert len(woken) <= notified[0]
    assert race.those(RuntimeError) <= race.killed
    assert spawn(lock.acquire, False).result() is True, "the lock was lost"


@races
@hypothesis.given(
    st.integers(min_value=1, max_value=4),
    st.sampled_from([None, 0, 1, 2]),
    schedule("wait", "wait", "wait with a deadline", "wait", "reset", "abort"),
)
def test_barriers(hub, parties, turns, steps):
    race = Race(hub, (BrokenBarrierError,))
    opened, places = [0], []

    def action():
        for _ in range(turns):
            sleep(0)

    barrier = Barrier(parties, None if turns is None else action)

    def come(number, timeout):
        place = barrier.wait(timeout)
        places.append(place)
        if place == parties - 1:
            opened[0] += 1

    for op, number, seconds in steps:
        if race.step(op, number):
            continue
        if op.startswith("wait"):
            deadline = op != "wait"
            race.spawn(come, None if deadline else seconds, scope=seconds if deadline else None)
        elif number < 4:
            getattr(barrier, op)()
    settle()
    alive = sum(task.is_alive() for task in race.tasks)
    assert barrier.n_waiting == alive, "places that nobody has, or nobody's place"
    assert alive < parties
    race.finish()
    counts = collections.Counter(places)
    assert all(0 <= place < parties for place in places)
    for place in range(parties - 1):
        # Those who were killed, or ran out of time, with their place in hand said nothing of it.
        assert opened[0] - len(race.killed) - len(race.those("late")) <= counts[place] <= opened[0]
    assert barrier.n_waiting == 0
    barrier.reset()
    fresh = [spawn(barrier.wait) for _ in range(parties)]
    assert sorted(task.result() for task in fresh) == list(range(parties))


# ---- waiting for several things ----------------------------------------------------------------------


@races
@hypothesis.given(
    schedule("wait", "wait", "set", "put", "release", "send", "end", "take"),
    st.lists(st.integers(min_value=0, max_value=4), min_size=1, max_size=8),
)
def test_waiting_for_several_things(hub, steps, kinds):
    race = Race(hub)
    gates = []

    def make(kind):
        gate = Event()
        gates.append(gate)
        return [Event, Queue, lambda: Semaphore(0), Channel, lambda: spawn(gate.wait)][kind]()

    things = [make(kind) for kind in kinds]

    def do_wait(number, count, timeout):
        ready = wait(things, count, timeout)
        assert len(ready) <= (len(things) if count is None else count)
        assert len({id(thing) for thing in ready}) == len(ready)
        if timeout is None and count is None:
            assert len(ready) == len(things)

    for op, number, seconds in steps:
        if race.step(op, number):
            continue
        thing = things[number % len(things)]
        if op == "wait":
            if number % 2:
                race.spawn(do_wait, number if number < 9 else None, seconds)
            else:
                race.spawn(do_wait, None, None, scope=seconds)
        elif op == "set" and isinstance(thing, Event):
            thing.set()
        elif op == "put" and isinstance(thing, Queue):
            thing.put(number)
        elif op == "release" and isinstance(thing, Semaphore):
            thing.release()
        elif op == "send" and isinstance(thing, Channel):
            race.spawn(lambda _, thing=thing, number=number: thing.send(number))
        elif op == "end":
            gates[number % len(things)].set()
        elif op == "take" and isinstance(thing, Queue) and not thing.empty():
            thing.get_nowait()
    for thing, gate in zip(things, gates, strict=True):
        gate.set()
        if isinstance(thing, Event):
            thing.set()
        elif isinstance(thing, Queue):
            thing.put(1)
        elif isinstance(thing, Semaphore):
            thing.release()
        elif isinstance(thing, Channel):
            thing.close()
    race.expected = (ChannelClosed,)
    settle()
    assert not any(task.is_alive() for task in race.tasks), "all is ready, and somebody waits"
    race.finish()


# ---- scopes and groups -------------------------------------------------------------------------------


BLOCKS = st.recursive(
    st.tuples(st.sampled_from(["sleep", "compute", "yield"]), st.sampled_from([0, 0.0003, 0.0012, 30])),
    lambda inner: st.tuples(
        st.sampled_from(["move on", "fail", "shield", "group", "catch", "twice"]),
        st.sampled_from([None, 0, 0.0004, 0.001, 30]),
        inner,
    ),
    max_leaves=4,
)


class Failure(Exception):
    pass


class Walker:
    """Runs a tree of blocks, and notes what each promises."""

    def __init__(self):
        self.children = []

    def run(self, block, shielded=False):
        what, seconds, *inner = block
        inner = inner[0] if inner else None
        if what == "sleep":
            sleep(min(seconds, 0.002 if shielded else 30))
        elif what == "compute":
            pass_time(min(seconds, 0.0012))
        elif what == "yield":
            sleep(0)
        elif what == "move on":
            with move_on_after(seconds):
                self.run(inner, shielded)
        elif what == "fail":
            try:
                with fail_after(seconds) as scope:
                    self.run(inner, shielded)
            except TimeoutError:
                assert scope.expired
        elif what == "shield":
            with shield():
                self.run(inner, True)
        elif what == "twice":
            self.run(inner, shielded)
            self.run(inner, shielded)
        elif what == "catch":
            try:
                self.run(inner, shielded)
            except BaseException:
                self.run(inner, True)
                raise
        else:
            self.group(seconds, inner, shielded)

    def group(self, seconds, inner, shielded):
        failed = []

        def child(exc):
            try:
                sleep(0.003 if seconds is None else min(seconds, 0.003))
            finally:
                if exc:
                    failed.append(exc)
                    raise exc

        spawned = []
        try:
            with TaskGroup() as group:
                spawned += [group.spawn(child, Failure() if n and seconds != 30 else None) for n in range(2)]
                self.children += spawned
                self.run(inner, shielded)
        except* Failure as caught:
            assert set(caught.exceptions) == set(failed)
            failed.clear()
        finally:
            assert not any(task.is_alive() for task in spawned), "a task outlives its group"
        assert not failed, "a failure was lost"


@races
@hypothesis.given(BLOCKS, st.lists(st.sampled_from(["yield", "settle", "pass", "poll", "kill"]), max_size=12))
def test_scopes_groups_and_shields(hub, block, steps):
    """Nothing hits the code behind a block, no kill is lost, no task outlives its group."""
    race = Race(hub)
    walker, behind = Walker(), []

    def work(number):
        try:
            walker.run(block)
        finally:
            behind.append("blocks ended")
        sleep(0)  # the last place where a kill can be met
        sleep(0)
        behind.append("went on")

    number = race.spawn(work)
    task = race.tasks[number]
    killed_in_time = False
    for step in steps:
        if step == "kill":
            killed_in_time |= not behind and bool(task.waiting)
        race.step(step, 0)
    while task.is_alive():
        if not race.killed and task.join(0.02):
            break
        task.join(0.01)
        if not behind:
            killed_in_time |= bool(task.waiting)
        race.killed.add(number)
        task.kill()
    race.finish()
    if killed_in_time:
        assert "went on" not in behind, "the kill was lost"
    if not race.killed:
        assert behind == ["blocks ended", "went on"], "something hit the code behind the blocks"
    assert not any(child.is_alive() for child in walker.children)


@races
@hypothesis.given(
    st.lists(
        st.tuples(
            st.sampled_from(["done", "fail", "clean up", "refuse", "fail late", "spawn", "exit"]),
            st.sampled_from([0, 0, 0.0004, 0.001, 30]),
        ),
        max_size=6,
    ),
    st.sampled_from([None, 0, 0.0005, 0.002]),
    st.sampled_from(["wait", "end", "fail"]),
    st.lists(
        st.sampled_from(["yield", "settle", "pass", "poll", "kill", "kill child", "kill all"]), max_size=10
    ),
    st.integers(min_value=0, max_value=9),
)
def test_groups(hub, children, deadline, body, steps, victim):
    """All tasks end with the group; what failed comes out, and nothing else; nobody's kill is lost."""
    race = Race(hub)
    raised, out, groups, tasks = [], [], [], []

    def child(what, seconds):
        try:
            sleep(seconds)
            if what == "fail":
                note(Failure(what))
            if what == "exit":
                raise TaskExit
            if what == "spawn" and seconds < 1:
                tasks.append(groups[0].spawn(child, "done", 0.0004))
        except TaskExit:
            if what == "clean up":
                sleep(0.0005)
            if what == "refuse":
                sleep(0.0005)
                return
            if what == "fail late":
                note(Failure(what))
            raise
        except RuntimeError:
            pass  # the group takes no more

    def note(exc):
        raised.append(exc)
        raise exc

    def work(number):
        with move_on_after(deadline) as scope:
            try:
                with TaskGroup() as group:
                    groups.append(group)
                    for what, seconds in children:
                        tasks.append(group.spawn(child, what, seconds))
                    if body == "wait":
                        sleep(0.001)
                    if body == "fail":
                        note(Failure("body"))
            except BaseExceptionGroup as exc:
                out.extend(exc.exceptions)
            finally:
                assert not any(task.is_alive() for task in tasks)
                ended.append(1)
            sleep(0)
            late.append("inside")
        late.append(scope.expired)
        sleep(0)
        late.append("behind")

    ended, late = [], []
    number = race.spawn(work)
    killed_in_time = False
    for step in steps:
        if step == "kill":
            killed_in_time |= not ended and bool(race.tasks[0].waiting)
            race.step("kill", 0)
        elif step == "kill child" and tasks:
            tasks[victim % len(tasks)].kill()
        elif step == "kill all" and groups:
            groups[0].kill()
        else:
            race.step(step, 0)
    if not race.tasks[0].join(0.004):
        killed_in_time |= not ended
        race.killed.add(number)
        race.tasks[0].kill()
        race.tasks[0].join()
    race.finish()
    assert sorted(map(id, out)) == sorted(map(id, raised)), "failures were lost or doubled"
    if killed_in_time:
        assert "behind" not in late, "the kill was lost"
    if not race.killed:
        assert late[-1] == "behind"


# ---- pools -------------------------------------------------------------------------------------------


@races
@hypothesis.given(
    st.integers(min_value=1, max_value=3),
    st.lists(st.sampled_from([0, 0, 0.0003, 0.001, 30, "fail"]), max_size=8),
    st.sampled_from(["map", "imap", "imap_unordered"]),
    st.lists(st.sampled_from(["yield", "settle", "pass", "poll", "kill"]), max_size=8),
    st.sampled_from(SOON),
)
def test_pools(hub, size, calls, method, steps, deadline):
    race = Race(hub, (Failure,))
    pool, now, results = Pool(size), [0], []

    def call(place):
        now[0] += 1
        assert now[0] <= size
        try:
            if calls[place] == "fail":
                raise Failure
            sleep(calls[place])
            return place
        finally:
            now[0] -= 1

    def work(number):
        try:
            for result in getattr(pool, method)(call, range(len(calls))):
                results.append(result)
        finally:
            assert now[0] == 0, "its tasks outlive it"

    number = race.spawn(work, scope=deadline)
    for step in steps:
        race.step(step, 0)
    race.tasks[number].join(0.005)
    race.finish()
    assert len(set(results)) == len(results)
    if method != "imap_unordered":
        assert results == sorted(results)
    if race.ends[number] == "done" and number not in race.killed:
        assert sorted(results) == list(range(len(calls)))
        assert "fail" not in calls
    assert pool.join(1)
    assert pool.map(abs, [-1] * 4) == [1] * 4


# ---- everything at once --------------------------------------------------------------------------------


@races
@hypothesis.given(
    schedule("lock", "queue", "channel", "condition", "barrier", "event", "wait", "group", size=30)
)
def test_a_mixture(hub, steps):
    """Tasks that hold one thing while they wait for another, killed anywhere."""
    race = Race(hub, (BrokenBarrierError, ChannelClosed, ShutDown))
    lock, queue, channel, event = Lock(), Queue(1), Channel(), Event()
    condition, barrier = Condition(lock), Barrier(3)
    done = collections.Counter()

    def work(number, what):
        if what == "lock":
            with lock:
                sleep(0)
        elif what == "queue":
            queue.put(number) if number % 2 else queue.get()
        elif what == "channel":
            channel.send(number) if number % 2 else channel.receive()
        elif what == "condition":
            with condition:
                condition.notify() if number % 2 else condition.wait()
        elif what == "barrier":
            with lock:
                barrier.wait()
        elif what == "event":
            event.wait()
        elif what == "wait":
            wait([lock, queue, channel, event], 1)
        else:
            with contextlib.suppress(BaseExceptionGroup), TaskGroup() as group:
                group.spawn(work, number, "lock")
                group.spawn(work, number + 1, "condition")
        done[what] += 1

    for op, number, seconds in steps:
        if not race.step(op, number):
            race.spawn(work, op, scope=seconds)
    settle()
    event.set()
    barrier.abort()
    queue.shutdown()
    channel.close()
    settle()
    race.finish()
    assert lock.acquire(False), "the lock was lost"
    assert barrier.n_waiting == 0


# ---- threads and loops -----------------------------------------------------------------------------------


def in_threads(plain, with_loop):
    """Run each of *plain* in a native thread, each list of *with_loop* as tasks of a loop in another."""

    def loop_thread(functions):
        loop = EventLoop()
        try:
            for task in [spawn(function) for function in functions]:
                task.result(60)
        except BaseException as exc:
            errors.append(exc)
        loop.destroy()

    def plain_thread(function):
        try:
            function()
        except BaseException as exc:
            errors.append(exc)

    errors = []
    threads = [threading.Thread(target=plain_thread, args=(function,)) for function in plain]
    threads += [threading.Thread(target=loop_thread, args=(functions,)) for functions in with_loop]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            sleep(0.0005)
    finally:
        sys.setswitchinterval(interval)
    assert not errors


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [Lock, RLock, Semaphore, Queue, PriorityQueue, Mine, Channel])
def test_kills_across_threads_lose_nothing(hub, kind, seed):
    """Tasks of three loops and plain threads use one thing, and a thread kills tasks wherever they are."""
    rng = random.Random(seed)
    thing = kind()
    victims, done, put, got, stop = [], [], [], [], []

    def use(number):
        if kind in (Queue, PriorityQueue, Mine, Channel):
            send, receive = (thing.send, thing.receive) if kind is Channel else (thing.put, thing.get)
            if number % 2:
                send(number)
                put.append(number)
            else:
                got.append(receive())
        else:
            with thing:
                put.append(number)
                got.append(number)
        done.append(number)

    def many(start):
        def work():
            tasks = []
            for number in range(start, start + 100):
                tasks.append(spawn(use, number))
                victims.append(tasks[-1])
                if rng.random() < 0.3:
                    sleep(0)
            while any(task.is_alive() for task in tasks):
                sleep(0.0005)
                if len(stop) >= 2:
                    for task in tasks:
                        task.kill()
            for task in tasks:
                with contextlib.suppress(TaskExit):
                    task.result()

        return work

    def kill():
        for _ in range(150):
            if victims:
                rng.choice(victims).kill()
            pass_time(0.00005)
        stop.append(1)

    def plain():
        if kind in (Lock, RLock, Semaphore):
            for number in range(100):
                use(1000 + number)
        else:
            for _ in range(50):
                with contextlib.suppress(Exception):
                    got.append(thing.get(timeout=0.002))  # a Channel has no get(): nothing
        stop.append(1)

    in_threads([kill, plain], [[many(0)], [many(200)], [many(400)]])
    if kind in (Lock, RLock, Semaphore):
        assert thing.acquire(False), "it was lost"
        assert got == put
        return
    left = []
    if kind is Channel:
        thing.close()
        left = list(thing)
    else:
        while not thing.empty():
            left.append(thing.get())
    counts = collections.Counter(got + left)
    assert max(counts.values(), default=1) == 1, "doubled"
    assert set(put) <= set(counts), "lost"


def test_an_event_reaches_waiters_of_all_threads_and_loops_each_time(hub):
    event, rounds, seen = Event(), 30, collections.Counter()

    def wait_often():
        for _ in range(rounds):
            arrived.release()
            assert event.wait(60)
            arrived.release()
            assert cleared.acquire(timeout=60)
            seen["rounds"] += 1

    def lead():
        for _ in range(rounds):
            for _ in range(waiters):
                assert arrived.acquire(timeout=60)
            event.set()
            for _ in range(waiters):
                assert arrived.acquire(timeout=60)
            event.clear()
            cleared.release(waiters)

    waiters = 2 + 2 * 5
    arrived, cleared = Semaphore(0), Semaphore(0)
    in_threads([wait_often, wait_often, lead], [[wait_often] * 5, [wait_often] * 5])
    assert (arrived.value, cleared.value) == (0, 0)
    assert seen["rounds"] <= rounds * waiters
