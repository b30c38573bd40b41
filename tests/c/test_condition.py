"""condition.c: conditions and barriers."""

import gc
import inspect
import math
import sys
import threading
import weakref
from functools import partial

import pytest
from helpers import Boom, in_thread, pass_time, settle, without_memory

from evergreen import Deadlock, EventLoop, TaskExit, patcher, sleep, spawn
from evergreen.event import Event
from evergreen.locks import Barrier, BrokenBarrierError, Condition, Lock, RLock
from evergreen.timeout import move_on_after

PATIENCE = 30


class Foreign:
    """A lock of somebody else's, made of what a lock needs at least."""

    def __init__(self):
        self._lock = Lock()

    def acquire(self, *args):
        return self._lock.acquire(*args)

    def release(self):
        self._lock.release()

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *exc):
        self.release()


class Sub(Lock):
    pass


KINDS = {
    "default": lambda: None,
    "Lock": Lock,
    "RLock": RLock,
    "subclass": Sub,
    "foreign": Foreign,
    "threading.Lock": threading.Lock,
    "threading.RLock": threading.RLock,
    "threading._PyRLock": threading._PyRLock,
}


@pytest.fixture(params=KINDS)
def condition(request, hub):
    """With any lock; it must be free at the end."""
    patched = "threading" in request.param
    with patcher.patched() if patched else move_on_after(None):
        condition = Condition(KINDS[request.param]())
        yield condition
        settle()
        assert condition.acquire(False), "the lock was lost"
        condition.release()


def holds(condition):
    """Whether the caller holds the lock: notify() says so."""
    try:
        condition.notify(0)
        return True
    except RuntimeError:
        return False


def waiter(condition, order, name, timeout=None):
    def wait():
        with condition:
            try:
                order.append((name, condition.wait(timeout)))
            except BaseException:
                assert holds(condition)
                raise
            assert holds(condition)

    return spawn(wait)


# ---- notifications -------------------------------------------------------------------------------


def test_notify_wakes_the_longest_waiters(condition):
    order = []
    tasks = [waiter(condition, order, name) for name in range(6)]
    settle()
    with condition:
        condition.notify()
        assert order == []
    settle()
    assert order == [(0, True)]
    with condition:
        condition.notify(n=3)
    settle()
    assert order == [(name, True) for name in range(4)]
    with condition:
        condition.notify_all()
        condition.notify(10)
    for task in tasks:
        task.result()
    assert order == [(name, True) for name in range(6)]


def test_a_notification_that_nobody_waits_for_is_lost(condition):
    with condition:
        condition.notify()
        condition.notify_all()
        assert condition.wait(0.001) is False


@pytest.mark.parametrize("n", [0, -1])
def test_notifying_nobody_wakes_nobody(condition, n):
    order = []
    task = waiter(condition, order, "a")
    settle()
    with condition:
        condition.notify(n)
    settle()
    assert order == []
    task.kill()
    task.join()


def test_without_the_lock_everything_is_a_runtime_error(condition):
    for call in (condition.wait, lambda: condition.wait(0), condition.notify, condition.notify_all):
        with pytest.raises(RuntimeError, match="un-acquired"):
            call()
        with pytest.raises(RuntimeError):
            spawn(call).result()


def test_one_who_waits_has_given_up_the_lock(condition):
    with condition:
        task = waiter(condition, [], "a")
        settle()
        assert task.waiting[0] != "condition"
    settle()
    assert task.waiting[0] == "condition"
    with condition:
        condition.notify()
    task.result()


def test_wait_takes_a_timeout(condition):
    with condition:
        assert condition.wait(0) is False
        assert condition.wait(timeout=0.001) is False
        assert condition.wait(-1) is False
        assert holds(condition)
        for bad, error in (("1", TypeError), (math.nan, ValueError)):
            with pytest.raises(error):
                condition.wait(bad)
        assert holds(condition)


def test_bad_arguments(hub):
    with pytest.raises(TypeError):
        Condition(1, 2)
    for bad in ("x", 1, object()):
        with pytest.raises(AttributeError):
            Condition(bad)
    condition = Condition()
    with condition:
        for bad in ("1", 1.5, None):
            with pytest.raises(TypeError):
                condition.notify(bad)
        with pytest.raises(TypeError):
            condition.wait_for()
        with pytest.raises(TypeError):
            condition.wait_for(1)
        with pytest.raises(OverflowError):
            condition.notify(1 << 70)


def test_wait_for_waits_until_the_predicate_is_true(condition):
    state, calls = [], []

    def ready():
        calls.append(1)
        return state[-1:]

    def wait():
        with condition:
            return condition.wait_for(ready)

    task = spawn(wait)
    settle()
    with condition:
        condition.notify()
    settle()
    assert task.is_alive()
    with condition:
        state.append("yes")
        condition.notify()
    assert task.result() == ["yes"]
    assert len(calls) == 3


def test_wait_for_returns_the_last_answer_when_time_is_up(condition):
    with condition:
        assert condition.wait_for(lambda: [], 0.002) == []
        assert condition.wait_for(lambda: "yes", timeout=0) == "yes"
        assert condition.wait_for(lambda: 0, timeout=-1) == 0


def test_the_time_of_wait_for_is_that_of_all_its_waits(hub):
    condition = Condition()

    def poke():
        while True:
            with condition:
                condition.notify_all()
            sleep(0.001)

    poker = spawn(poke)
    with condition:
        assert condition.wait_for(lambda: False, 0.02) is False
    poker.kill()
    poker.join()


def test_a_predicate_that_fails_leaves_the_lock_held(condition):
    with condition:
        with pytest.raises(Boom):
            condition.wait_for(lambda: (_ for _ in ()).throw(Boom()))
        assert holds(condition)


def test_an_rlock_held_more_than_once_is_given_up_wholly_and_taken_back_so(hub):
    for lock in (None, RLock(), threading._PyRLock()):
        condition = Condition(lock)
        seen = []

        def wait(condition=condition, seen=seen):
            with condition, condition, condition:
                condition.wait()
                seen.append(condition._is_owned())
            with pytest.raises(RuntimeError):
                condition.release()

        with patcher.patched():
            task = spawn(wait)
            settle()
            with condition:
                condition.notify()
            task.result()
        assert seen == [True]


def test_the_lock_is_the_conditions_interface(hub):
    lock = Lock()
    condition = Condition(lock)
    assert condition.acquire() is True
    assert lock.locked()
    assert condition.locked() is True
    condition.release()
    with pytest.raises(AttributeError):
        Condition(Foreign())._release_save()
    with pytest.raises(AttributeError):
        condition.nothing()
    with condition as entered:
        assert entered is True


# ---- kills -----------------------------------------------------------------------------------------


def test_a_killed_waiter_has_the_lock_again(condition):
    task = waiter(condition, [], "a")
    settle()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()


@pytest.mark.parametrize("exception", [TaskExit, RuntimeError, MemoryError, Boom, KeyboardInterrupt])
def test_a_waiter_killed_while_the_lock_is_taken_waits_for_it(condition, exception):
    def wait():
        with condition:
            try:
                condition.wait()
            finally:
                held.append(holds(condition))

    held = []
    task = spawn(wait)
    settle()
    with condition:
        task.kill(exception)
        settle()
        assert task.is_alive()
        task.kill(exception)
        settle()
        assert task.is_alive()
        assert held == []
    try:
        task.join()
    except KeyboardInterrupt:
        assert exception is KeyboardInterrupt
    assert held == [True]
    with pytest.raises(exception):
        task.result()


@pytest.mark.parametrize("exception", [TaskExit, RuntimeError, MemoryError, Boom])
def test_one_killed_while_it_takes_the_lock_again_has_it_nevertheless(condition, exception):
    def wait():
        with condition:
            try:
                condition.wait()
                sleep(100)  # where a lock of somebody else's lets it be raised
            finally:
                held.append(holds(condition))

    held = []
    task = spawn(wait)
    settle()
    with condition:
        condition.notify()
        settle()  # it was notified, and waits for the lock
        for _ in range(3):
            task.kill(exception)
            settle()
        assert held == []
    with pytest.raises(exception):
        task.result()
    assert held == [True]


def test_ctrl_c_while_main_takes_the_lock_again(condition):
    def taker():
        with condition:
            condition.notify()
            taken.set()
            gate.wait()

    def interrupt():
        raise KeyboardInterrupt

    taken, gate = Event(), Event()
    task = None
    with pytest.raises(KeyboardInterrupt):
        with condition:
            task = spawn(taker)
            spawn(lambda: (taken.wait(), sleep(0), interrupt()))
            spawn(lambda: (taken.wait(), sleep(0.005), gate.set()))
            try:
                condition.wait()
                sleep(1)
            finally:
                assert holds(condition)
    task.result()


def test_a_kill_from_a_native_thread_before_the_lock_is_taken_again(condition):
    def wait():
        with condition:
            try:
                while True:
                    condition.wait(0)
                    in_thread(own[0].kill)  # it meets this inside of the next wait()
            finally:
                held.append(holds(condition))

    held, own = [], []
    own.append(spawn(wait))
    with pytest.raises(TaskExit):
        own[0].result()
    assert held == [True]


def test_a_notification_to_one_who_is_killed_goes_to_the_next(condition):
    order = []
    tasks = [waiter(condition, order, name) for name in "abc"]
    settle()
    with condition:
        condition.notify()
        tasks[0].kill()
    settle()
    assert order == [("b", True)]
    tasks[2].kill()
    tasks[2].join()


def test_a_timeout_leaves_the_queue(condition):
    order = []
    hasty = waiter(condition, order, "hasty", 0.001)
    other = waiter(condition, order, "other")
    hasty.result()
    with condition:
        condition.notify()
    other.result()
    assert order == [("hasty", False), ("other", True)]


def test_a_deadline_around_it_leaves_it_with_the_lock(condition):
    with condition:
        with move_on_after(0.002) as scope:
            condition.wait()
        assert scope.expired
        assert holds(condition)


def test_a_deadline_that_passes_while_the_lock_is_taken(condition):
    def wait():
        with condition:
            with move_on_after(0.002) as scope:
                condition.wait()
                sleep(100)
            assert holds(condition)
            return scope.expired

    task = spawn(wait)
    settle()
    with condition:
        condition.notify()
        sleep(0.006)
    assert task.result() is True


def test_an_exception_of_the_lock_comes_out(hub):
    class Broken(Foreign):
        broken = False

        def acquire(self, *args):
            if self.broken and not args:
                raise Boom
            return super().acquire(*args)

    lock = Broken()
    condition = Condition(lock)
    condition.acquire()
    lock.broken = True
    with pytest.raises(Boom):
        condition.wait(0)
    with pytest.raises(Boom) as info:
        lock.broken = False
        condition.acquire()
        lock.broken = True
        with move_on_after(0.001):
            condition.wait()
    assert type(info.value.__context__) is move_on_after


# ---- threads and loops -------------------------------------------------------------------------------


def test_waiters_in_threads_and_loops_are_notified(hub):
    condition, order, threads = Condition(), [], []

    def wait(name):
        with condition:
            ready.append(name)
            if condition.wait(PATIENCE):
                order.append(name)

    def with_loop(name):
        loop = EventLoop()
        spawn(wait, name).result()
        loop.destroy()

    ready = []
    for number in range(6):
        target = (wait, with_loop, spawn)[number % 3]
        if target is spawn:
            threads.append(spawn(wait, number))
        else:
            threads.append(threading.Thread(target=target, args=(number,)))
            threads[-1].start()
        while len(ready) < number + 1:
            sleep(0.001)
        with condition:
            pass  # whoever is ready waits by now
    for _ in range(6):
        with condition:
            condition.notify()
    while len(order) < 6:
        sleep(0.001)
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(order) == list(range(6))


def test_a_bounded_buffer_between_threads_loops_and_tasks(hub):
    condition, buffer, got, total = Condition(Lock()), [], [], 600

    def produce(values):
        for value in values:
            with condition:
                condition.wait_for(lambda: len(buffer) < 3)
                buffer.append(value)
                condition.notify_all()

    def consume():
        while True:
            with condition:
                condition.wait_for(lambda: buffer or len(got) == total)
                if len(got) == total:
                    return
                got.append(buffer.pop(0))
                condition.notify_all()

    def with_loop(function, *args):
        loop = EventLoop()
        spawn(function, *args).result(PATIENCE)
        loop.destroy()

    work = [(produce, range(0, 200)), (consume,), (produce, range(200, 400)), (consume,)]
    threads = [threading.Thread(target=work[0][0], args=work[0][1:])]
    threads += [threading.Thread(target=with_loop, args=call) for call in work[1:]]
    for thread in threads:
        thread.start()
    tasks = [spawn(produce, range(400, 600)), spawn(consume)]
    for task in tasks:
        task.result(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(got) == list(range(total))


# ---- the object ----------------------------------------------------------------------------------------


def test_a_condition_is_freed_and_collected(hub):
    condition = Condition()
    ref = weakref.ref(condition)
    with condition:
        condition.wait(0)
    del condition
    assert ref() is None

    class Holder(Lock):
        pass

    lock = Holder()
    lock.condition = condition = Condition(lock)
    ref = weakref.ref(condition)
    del lock, condition
    gc.collect()
    assert ref() is None


def test_repr_says_the_lock_and_how_many_wait(hub):
    condition = Condition(Lock())
    assert "unlocked evergreen.Lock" in repr(condition)
    assert repr(condition).endswith(", 0)>")
    task = waiter(condition, [], "a")
    settle()
    assert repr(condition).endswith(", 1)>")
    task.kill()
    task.join()


def test_a_subclass(hub):
    class Mine(Condition):
        def __init__(self, name):
            super().__init__(Lock())
            self.name = name

    mine = Mine("name")
    with mine:
        assert mine.wait(0) is False
    assert mine.name == "name"

    class NoInit(Condition):
        def __init__(self):
            pass

    with NoInit() as entered:
        assert entered


def test_at_fork_reinit_forgets_the_waiters(hub):
    condition, order = Condition(Lock()), []
    task = waiter(condition, order, "a")
    settle()
    condition._at_fork_reinit()
    with condition:
        condition.notify_all()
    settle()
    assert order == []
    task.kill()
    with pytest.raises(TaskExit):
        task.result()


def test_signatures():
    signatures = {
        Condition: "(lock=None)",
        Condition.wait: "(self, /, timeout=None)",
        Condition.wait_for: "(self, /, predicate, timeout=None)",
        Condition.notify: "(self, /, n=1)",
        Condition.notify_all: "(self, /)",
        Barrier: "(parties, action=None, timeout=None)",
        Barrier.wait: "(self, /, timeout=None)",
        Barrier.reset: "(self, /)",
        Barrier.abort: "(self, /)",
    }
    assert {method: str(inspect.signature(method)) for method in signatures} == signatures


def test_no_reference_is_lost_or_kept(hub):
    for lock in (Lock(), RLock(), Foreign()):
        condition = Condition(lock)
        before = sys.getrefcount(condition), sys.getrefcount(lock)
        for _ in range(20):
            tasks = [waiter(condition, [], name) for name in "abc"]
            settle()
            tasks[0].kill()
            with condition:
                condition.notify()
                tasks[1].kill()
                condition.wait(0)
            settle()
            tasks[2].kill()
            settle()
        del tasks
        gc.collect()
        assert (sys.getrefcount(condition), sys.getrefcount(lock)) == before


# ---- barriers --------------------------------------------------------------------------------------------


def test_a_barrier_opens_when_all_have_come_and_gives_each_a_place(hub):
    barrier = Barrier(4)
    tasks = [spawn(barrier.wait) for _ in range(3)]
    settle()
    assert (barrier.n_waiting, barrier.parties, barrier.broken) == (3, 4, False)
    assert barrier.wait() == 3
    assert [task.result() for task in tasks] == [0, 1, 2]
    assert barrier.n_waiting == 0


def test_a_barrier_of_one_never_waits(hub):
    ran = []
    barrier = Barrier(1, lambda: ran.append(1))
    assert [barrier.wait(), barrier.wait(0)] == [0, 0]
    assert ran == [1, 1]


def test_a_barrier_serves_round_after_round(hub):
    barrier, order = Barrier(3), []

    def work(name):
        for turn in range(5):
            order.append((turn, name))
            barrier.wait()

    tasks = [spawn(work, name) for name in "abc"]
    for task in tasks:
        task.result()
    assert [turn for turn, _ in order] == sorted(turn for turn, _ in order)


def test_many_more_than_the_parties_come_in_rounds(hub):
    barrier = Barrier(5)
    places = [task.result() for task in [spawn(barrier.wait) for _ in range(50)]]
    assert sorted(places) == sorted(list(range(5)) * 10)


def test_the_action_runs_once_a_round_before_anybody_goes_on(hub):
    order = []
    barrier = Barrier(3, lambda: order.append("action"))
    tasks = [spawn(lambda: (barrier.wait(), order.append("on"))) for _ in range(6)]
    for task in tasks:
        task.result()
    assert order[0] == "action"
    assert sorted(order) == ["action"] * 2 + ["on"] * 6


def test_an_action_that_fails_breaks_the_barrier(hub):
    def fail():
        raise Boom

    barrier = Barrier(3, fail)
    tasks = [spawn(barrier.wait) for _ in range(2)]
    settle()
    with pytest.raises(Boom):
        barrier.wait()
    for task in tasks:
        with pytest.raises(BrokenBarrierError):
            task.result()
    assert barrier.broken
    with pytest.raises(BrokenBarrierError):
        barrier.wait()


@pytest.fixture
def acting(hub):
    """A barrier of two whose action waits: its two parties, and the event that ends it."""
    gate = Event()
    barrier = Barrier(2, gate.wait)
    parties = [spawn(barrier.wait), spawn(barrier.wait)]
    settle()
    assert barrier.n_waiting == 2
    return barrier, parties, gate


def test_who_comes_while_the_action_runs_belongs_to_the_next_round(acting):
    barrier, parties, gate = acting
    late = [spawn(barrier.wait) for _ in range(3)]
    settle()
    gate.set()
    assert [task.result() for task in parties] == [0, 1]
    assert sorted(task.result() for task in late[:2]) == [0, 1]
    assert barrier.n_waiting == 1
    assert barrier.wait() == 1
    assert late[2].result() == 0


def test_a_party_killed_while_the_action_runs_hurts_nobody(acting):
    barrier, parties, gate = acting
    parties[0].kill()
    gate.set()
    assert parties[1].result() == 1
    assert (barrier.n_waiting, barrier.broken) == (0, False)


def test_the_one_who_runs_the_action_is_killed(acting):
    barrier, parties, gate = acting
    parties[1].kill()
    with pytest.raises(TaskExit):
        parties[1].result()
    with pytest.raises(BrokenBarrierError):
        parties[0].result()
    assert barrier.broken
    barrier.reset()
    gate.set()
    assert [task.result() for task in [spawn(barrier.wait) for _ in range(2)]] == [0, 1]


@pytest.mark.parametrize("what", ["abort", "reset"])
def test_a_barrier_that_is_ended_while_the_action_runs_is_broken_for_all_parties(acting, what):
    barrier, parties, gate = acting
    late = spawn(barrier.wait)
    settle()
    getattr(barrier, what)()
    assert barrier.broken == (what == "abort")
    gate.set()
    for task in parties:
        with pytest.raises(BrokenBarrierError):
            task.result()
    if what == "abort":
        with pytest.raises(BrokenBarrierError):
            late.result()
    else:
        settle()
        assert barrier.wait() == 1
        assert late.result() == 0
    assert barrier.n_waiting == 0


def test_one_who_will_not_wait_for_the_action_breaks_the_next_round_alone(acting):
    barrier, parties, gate = acting
    other = spawn(barrier.wait)
    hasty = spawn(barrier.wait, 0.001)
    with pytest.raises(BrokenBarrierError):
        hasty.result()
    gate.set()
    assert [task.result() for task in parties] == [0, 1]
    with pytest.raises(BrokenBarrierError):
        other.result()
    assert barrier.broken


def test_a_latecomer_that_is_killed_hurts_nobody(acting):
    barrier, parties, gate = acting
    late = spawn(barrier.wait)
    settle()
    late.kill()
    gate.set()
    assert [task.result() for task in parties] == [0, 1]
    assert barrier.n_waiting == 0


def test_an_action_that_waits_for_its_own_barrier_is_a_deadlock_and_no_crash(hub):
    barrier = Barrier(1, lambda: barrier.wait())
    with pytest.raises(Deadlock):
        barrier.wait()
    assert barrier.broken


def test_a_timeout_breaks_it_for_all(hub):
    barrier = Barrier(3)
    patient = spawn(barrier.wait)
    settle()
    with pytest.raises(BrokenBarrierError):
        barrier.wait(0.001)
    with pytest.raises(BrokenBarrierError):
        patient.result()
    assert barrier.broken
    with pytest.raises(BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken


def test_the_timeout_of_the_constructor_is_the_default(hub):
    barrier = Barrier(2, timeout=0.001)
    with pytest.raises(BrokenBarrierError):
        barrier.wait()
    barrier = Barrier(2, None, 0.001)
    task = spawn(barrier.wait, 100)
    settle()
    pass_time()
    sleep(0.002)
    assert barrier.wait(None) == 1
    assert task.result() == 0


def test_reset_and_abort_wake_all_who_wait(hub):
    for what in ("reset", "abort"):
        barrier = Barrier(4)
        tasks = [spawn(barrier.wait) for _ in range(3)]
        settle()
        getattr(barrier, what)()
        assert barrier.n_waiting == 0
        for task in tasks:
            with pytest.raises(BrokenBarrierError):
                task.result()
        assert barrier.broken == (what == "abort")


def test_who_comes_after_reset_and_before_the_others_run_is_in_the_next_round(hub):
    barrier = Barrier(2)
    old = spawn(barrier.wait)
    settle()
    barrier.reset()
    new = spawn(barrier.wait)
    settle()
    assert barrier.wait() == 1
    assert new.result() == 0
    with pytest.raises(BrokenBarrierError):
        old.result()


def test_a_killed_waiter_leaves_its_place(hub):
    barrier = Barrier(3)
    tasks = [spawn(barrier.wait) for _ in range(2)]
    settle()
    tasks[0].kill()
    tasks[0].join()
    assert (barrier.n_waiting, barrier.broken) == (1, False)
    other = spawn(barrier.wait)
    settle()
    assert barrier.wait() == 2
    assert [tasks[1].result(), other.result()] == [0, 1]


def test_one_killed_after_the_barrier_opened_takes_no_place_of_the_next_round(hub):
    barrier = Barrier(2)
    victim = spawn(barrier.wait)
    settle()
    assert barrier.wait() == 1  # the victim is free, and has not run
    early = spawn(barrier.wait)
    while barrier.n_waiting < 1:
        victim.kill()
        sleep(0)
    settle()
    assert barrier.n_waiting == 1
    assert barrier.wait(1) == 1
    assert early.result() == 0


def test_the_same_when_it_comes_before_the_victim_runs(hub):
    barrier, order = Barrier(2), []

    def twice():
        barrier.wait()
        order.append(barrier.n_waiting)
        victim.kill()
        barrier.wait()

    victim = spawn(barrier.wait)
    settle()
    runner = spawn(twice)
    settle()
    assert victim.join(0.01) and barrier.n_waiting == 1
    assert barrier.wait(1) == 1
    runner.result()


def test_one_who_has_left_and_not_run_yet_is_not_counted(hub):
    for how in ("kill", "expire"):
        barrier = Barrier(2)
        leaver = spawn(barrier.wait, 0.001 if how == "expire" else None)
        settle()
        if how == "kill":
            leaver.kill()
        else:
            pass_time()
            hub.run(EventLoop.RUN_NOWAIT)
            assert barrier.n_waiting == 0
        comers = [spawn(barrier.wait) for _ in range(2)]
        leaver.join()
        if how == "kill":
            assert [task.result() for task in comers] == [0, 1]
        else:
            with pytest.raises(BrokenBarrierError):
                leaver.result()
            for task in comers:
                with pytest.raises(BrokenBarrierError):
                    task.result()


def test_bad_arguments_of_a_barrier(hub):
    for bad in (0, -1):
        with pytest.raises(ValueError):
            Barrier(bad)
    for args in ((), ("1",), (1.5,), (1, None, "1"), (1, None, None, 4)):
        with pytest.raises(TypeError):
            Barrier(*args)
    with pytest.raises(ValueError):
        Barrier(1, None, math.nan)
    with pytest.raises(TypeError):
        Barrier(2).wait("1")


def test_an_action_that_cannot_be_called_breaks_it(hub):
    barrier = Barrier(1, "action")
    with pytest.raises(TypeError):
        barrier.wait()
    assert barrier.broken


def test_a_barrier_of_threads_loops_and_tasks(hub):
    barrier, places = Barrier(3), []

    def work():
        for _ in range(100):
            places.append(barrier.wait(PATIENCE))

    def with_loop():
        loop = EventLoop()
        spawn(work).result()
        loop.destroy()

    threads = [threading.Thread(target=target) for target in (work, with_loop)]
    for thread in threads:
        thread.start()
    spawn(work).result()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(places) == sorted(list(range(3)) * 100)


def test_repr_and_collection_of_a_barrier(hub):
    barrier = Barrier(2)
    assert repr(barrier).endswith(": waiters=0/2>")
    barrier.abort()
    assert repr(barrier).endswith(": broken>")

    class Action:
        def __call__(self):
            pass

    action = Action()
    action.barrier = barrier = Barrier(2, action)
    ref = weakref.ref(barrier)
    del action, barrier
    gc.collect()
    assert ref() is None


def test_exceptions_are_those_of_threading(hub):
    assert BrokenBarrierError is threading.BrokenBarrierError


def test_a_barrier_made_anew_is_reset_with_its_new_number_of_parties(hub):
    barrier = Barrier(3)
    waiting = spawn(barrier.wait)
    settle()
    barrier.__init__(2)
    with pytest.raises(BrokenBarrierError):
        waiting.result()
    other = spawn(barrier.wait)
    assert sorted([barrier.wait(), other.result()]) == [0, 1]


def test_a_barrier_without_init_refuses_to_be_waited_at(hub):
    with pytest.raises(RuntimeError, match="not been initialized"):
        Barrier.__new__(Barrier).wait()


def test_an_action_and_a_timeout_that_make_their_barrier_anew_live_until_they_return(hub):
    class Fresh:
        alive = weakref.WeakSet()

        def __init__(self):
            self.alive.add(self)

        def __call__(self):
            barrier.__init__(1)
            assert len(self.alive) == 1

        def __float__(self):
            self()
            return 1.0

    barrier = Barrier(1, partial(Fresh()))
    with pytest.raises(BrokenBarrierError):
        barrier.wait()
    barrier = Barrier(1, None, Fresh())
    assert barrier.wait() == 0


@pytest.mark.parametrize("lock", [Lock, RLock])
def test_a_block_that_ends_without_memory_gives_the_lock_back(hub, lock):
    condition = Condition(lock())
    condition.__enter__()
    leave = condition.__exit__
    without_memory(leave, None, None, None)
    assert spawn(condition.acquire, timeout=5).result()
