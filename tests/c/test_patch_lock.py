"""patch_lock.c: a lock or RLock that is taken lets other tasks run, and belongs to a task."""

import gc
import threading
import time

import pytest
from helpers import native, output_of, parked, pass_time, refusal, run_python, settle
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from evergreen import Deadlock, EventLoop, patcher, sleep, spawn
from evergreen.event import Event
from evergreen.timeout import Timeout

LOCKS = [pytest.param(threading.Lock, id="lock"), pytest.param(threading.RLock, id="rlock")]


@pytest.fixture
def patched(hub):
    with patcher.patched(thread=True):
        yield hub


def end(*tasks):
    for task in tasks:
        task.kill()
    for task in tasks:
        task.join()


def is_free(lock):
    """Whether somebody else could take the lock: a task of its own tries."""
    taken = spawn(lambda: lock.acquire(False) and (lock.release(), True)[1]).result()
    return bool(taken)


# ---- locks and RLocks alike -----------------------------------------------------------------


@pytest.mark.parametrize("make", LOCKS)
def test_a_task_waits_for_a_lock_while_others_run(patched, make):
    lock, ran = make(), []
    lock.acquire()
    task = parked(lock.acquire)
    spawn(ran.append, 1).join()
    assert ran == [1]
    lock.release()
    assert task.result() is True


@pytest.mark.parametrize("make", LOCKS)
def test_tasks_get_a_lock_in_the_order_in_which_they_came(patched, make):
    lock, order = make(), []

    def work(name):
        with lock:
            order.append(name)
            sleep(0)

    lock.acquire()
    tasks = [spawn(work, name) for name in range(20)]
    settle()
    lock.release()
    for task in tasks:
        task.join()
    assert order == list(range(20))


@pytest.mark.parametrize("make", LOCKS)
def test_a_released_lock_belongs_to_the_longest_waiter_at_once(patched, make):
    lock, order = make(), []
    lock.acquire()
    first = parked(lambda: (lock.acquire(), order.append("first"), lock.release()))
    lock.release()
    assert not lock.acquire(False)
    lock.acquire()
    order.append("second")
    assert order == ["first", "second"]
    lock.release()
    first.join()


@pytest.mark.parametrize("make", LOCKS)
def test_a_free_lock_is_taken_without_letting_others_run(patched, make):
    lock, ran = make(), []
    task = spawn(ran.append, 1)
    with lock:
        assert not ran
    assert not ran
    task.join()


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize("args", [(False,), (0,), (True, 0)])
def test_a_try_neither_waits_nor_lets_others_run(patched, make, args):
    lock, ran = make(), []
    holder = parked(lambda: (lock.acquire(), sleep(30)))
    task = spawn(ran.append, 1)
    assert lock.acquire(*args) is False
    assert not ran
    task.join()
    end(holder)


def try_and_release(lock):
    lock.acquire(False)
    lock.release()


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize("poll", [try_and_release, lambda lock: lock.__enter__() and lock.__exit__()])
def test_who_polls_a_free_lock_lets_others_run_in_time(patched, make, poll):
    lock, done, end = make(), [], time.monotonic() + 10
    task = spawn(lambda: (sleep(0.001), done.append(1)))
    while not done:
        poll(lock)
        assert time.monotonic() < end
    task.join()


def test_who_polls_a_taken_lock_lets_its_owner_run(patched):
    lock, end = threading.Lock(), time.monotonic() + 10
    lock.acquire()
    task = spawn(lock.release)
    while not lock.acquire(False):
        assert time.monotonic() < end
    task.join()


def test_a_kill_meets_who_polls_a_lock_at_its_next_wait(patched):
    lock, others, polled = threading.Lock(), [], []

    def poll():
        while not others:
            try_and_release(lock)
        try_and_release(lock)
        polled.append(1)
        sleep(0)
        polled.append(2)

    task = spawn(poll)
    spawn(lambda: (task.kill(), others.append(1)))
    task.join()
    assert polled == [1]


def test_ctrl_c_ends_a_main_program_that_polls_a_lock():
    child = run_python(
        """
        import os, signal, threading
        from evergreen import patcher, spawn
        patcher.patch()
        lock = threading.Lock()
        spawn(os.kill, os.getpid(), signal.SIGINT)
        while True:
            with lock:
                pass
        """
    )
    assert child.returncode == -2 and "KeyboardInterrupt" in child.stderr, child.stderr


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize(
    ("args", "kwargs"), [((True, 0.003), {}), ((), {"timeout": 0.003}), ((1,), {"timeout": 0.003})]
)
def test_a_wait_with_a_timeout_ends_and_leaves_nothing(patched, make, args, kwargs):
    lock = make()
    holder = parked(lambda: (lock.acquire(), sleep(30)))
    before = time.monotonic()
    assert lock.acquire(*args, **kwargs) is False
    assert time.monotonic() - before >= 0.003
    end(holder)


@pytest.mark.parametrize("make", LOCKS)
def test_a_lock_that_is_released_after_a_timeout_is_free(patched, make):
    lock = make()
    lock.acquire()
    assert spawn(lock.acquire, True, 0.001).result() is False
    lock.release()
    assert is_free(lock)


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize("args", [(), (True,), (True, -1), (True, 30), (True, 0.5 + 29)])
def test_a_wait_that_is_woken_says_true(patched, make, args):
    lock = make()
    lock.acquire()
    task = parked(lock.acquire, *args)
    lock.release()
    assert task.result() is True


BAD = [
    ((False, 1), {}),
    ((False,), {"timeout": 0.5}),
    ((True, -2), {}),
    ((True, -0.5), {}),
    ((True, 1e20), {}),
    ((True, float("inf")), {}),
    ((True, float("nan")), {}),
    ((True, 10**400), {}),
    ((True, "x"), {}),
    ((True, None), {}),
    (("x", "y"), {}),
    ((True, 1, 2), {}),
    ((), {"unknown": 1}),
    ((True,), {"blocking": True}),
]


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize(("args", "kwargs"), BAD)
def test_what_acquire_refuses_is_refused_in_its_own_words(hub, make, args, kwargs):
    lock = make()
    natively = refusal(lock.acquire, *args, **kwargs)
    with patcher.patched(thread=True):
        assert refusal(lock.acquire, *args, **kwargs) == natively
        assert is_free(lock)


@pytest.mark.parametrize("make", LOCKS)
def test_truth_is_asked_of_any_blocking_argument_that_the_original_takes(patched, make):
    lock = make()
    assert lock.acquire(2) is True
    assert is_free(lock) is False
    lock.release()


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize("method", ["release", "__exit__"])
def test_releasing_what_nobody_has_raises_as_the_original(hub, make, method):
    lock = make()
    args = (None, None, None) if method == "__exit__" else ()
    natively = refusal(getattr(lock, method), *args)
    with patcher.patched(thread=True):
        assert refusal(getattr(lock, method), *args) == natively


@pytest.mark.parametrize("make", LOCKS)
def test_with_releases_the_lock_when_its_block_fails(patched, make):
    lock = make()
    lock.acquire()

    def work():
        with lock:
            raise KeyError

    tasks = [parked(work), parked(work)]
    lock.release()
    for task in tasks:
        with pytest.raises(KeyError):
            task.result()
    assert is_free(lock)


@pytest.mark.parametrize("make", LOCKS)
def test_a_killed_waiter_leaves_the_queue(patched, make):
    lock = make()
    lock.acquire()
    first, second = parked(lock.acquire), parked(lock.acquire)
    end(first)
    lock.release()
    assert second.result() is True


@pytest.mark.parametrize("make", LOCKS)
def test_a_task_that_is_killed_with_the_lock_on_its_way_hands_it_on(patched, make):
    lock = make()
    lock.acquire()
    first, second = parked(lock.acquire), parked(lock.acquire)
    lock.release()
    first.kill()
    assert second.result() is True
    first.join()


@pytest.mark.parametrize("make", LOCKS)
def test_a_lock_on_its_way_to_a_task_that_is_killed_is_free(patched, make):
    lock = make()
    lock.acquire()
    task = parked(lock.acquire)
    lock.release()
    end(task)
    assert is_free(lock)


@pytest.mark.parametrize("make", LOCKS)
def test_a_timeout_that_passes_with_the_lock_on_its_way_loses_nothing(patched, make):
    lock, outcomes = make(), []
    lock.acquire()

    def work():
        try:
            with Timeout(0.002):
                outcomes.append(lock.acquire())
        except Timeout:
            outcomes.append("timeout")
        else:
            lock.release()

    task = parked(work)
    lock.release()
    pass_time()
    task.join()
    assert outcomes[0] in (True, "timeout")
    assert is_free(lock)


@pytest.mark.parametrize("make", LOCKS)
def test_a_deadline_that_passes_with_the_lock_on_its_way_comes_too_late(patched, make):
    lock = make()
    lock.acquire()
    task = parked(lock.acquire, timeout=0.002)
    lock.release()
    pass_time()
    assert task.result() is True


@pytest.mark.parametrize("make", LOCKS)
def test_a_callback_may_try_a_lock_but_not_wait_for_it(patched, make):
    lock, outcome = make(), []
    holder = parked(lambda: (lock.acquire(), sleep(30)))

    def callback():
        outcome.append(lock.acquire(False))
        outcome.append(refusal(lock.acquire))
        outcome.append(refusal(lock.acquire, timeout=1))

    patched.call_soon(callback)
    settle()
    assert outcome[0] is False
    assert [kind for kind, _ in outcome[1:]] == [RuntimeError] * 2
    assert "spawn a task" in outcome[1][1]
    end(holder)


@pytest.mark.parametrize(("name", "make"), [("lock", threading.Lock), ("rlock", threading.RLock)])
def test_a_task_tells_which_lock_it_waits_for(patched, name, make):
    lock = make()
    lock.acquire()
    task = parked(lock.acquire)
    kind, source, _, _ = task.waiting
    assert kind == name
    assert source is lock
    lock.release()
    task.join()


@pytest.mark.parametrize("make", LOCKS)
def test_waiting_for_a_lock_that_nobody_can_release_is_a_deadlock(patched, make):
    lock = make()
    holder = spawn(lock.acquire)
    holder.join()  # it has ended, and nobody else may release an RLock
    task = spawn(lock.acquire)
    with pytest.raises(Deadlock, match="lock"):
        task.join()
    end(task)


@pytest.mark.parametrize("make", LOCKS)
def test_a_waiter_keeps_its_lock_alive(patched, make):
    lock = make()
    lock.acquire()
    task = parked(lambda lock: lock.acquire(), lock)
    del lock
    gc.collect()
    others = [make() for _ in range(100)]
    assert all(other.acquire(False) for other in others)
    for other in others:
        other.release()
    assert task.is_alive()
    end(task)


@pytest.mark.parametrize("make", LOCKS)
def test_a_method_that_was_bound_before_the_patch_cooperates(hub, make):
    lock = make()
    acquire, release = lock.acquire, lock.release
    with patcher.patched(thread=True):
        acquire()
        task = parked(acquire)
        release()
        assert task.result() is True


@pytest.mark.parametrize("make", LOCKS)
def test_a_call_site_that_ran_hot_before_the_patch_cooperates(hub, make):
    def enter(lock):
        with lock:
            pass
        lock.acquire()
        lock.release()

    for _ in range(1000):
        enter(make())
    lock = make()
    lock.acquire()
    with patcher.patched(thread=True):
        task = parked(enter, lock)
        lock.release()
        task.join()
    enter(lock)


@pytest.mark.parametrize("make", LOCKS)
def test_a_lock_that_main_holds_stays_its_own_through_patch_and_unpatch(hub, make):
    lock = make()
    lock.acquire()
    with patcher.patched(thread=True):
        task = parked(lock.acquire, timeout=30)
        lock.release()
        assert task.result() is True
    lock = make()
    with patcher.patched(thread=True):
        lock.acquire()
    assert native(lock.acquire, False).get() is False
    lock.release()
    assert native(lock.acquire, False).get() is True


# ---- native threads and other hubs ----------------------------------------------------------


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize("thread", [False, True])
def test_what_is_released_after_unpatching_wakes_who_waited_before(hub, make, thread):
    lock, taken = make(), Event()
    patcher.patch(thread=True)
    try:
        if thread:
            free = Event()
            holder = native(lambda: (lock.acquire(), taken.set(), free.wait(), lock.release()))
            taken.wait()
        else:
            lock.acquire()
        first, second = parked(lock.acquire), parked(lambda: (lock.acquire(), lock.release()))
    finally:
        patcher.unpatch(thread=True)
    if thread:
        free.set()
        holder.get()
    else:
        lock.release()
    assert first.result(10) is True
    second.kill()
    second.join()


def test_an_rlock_of_now_is_native_while_somebody_waits_for_one_of_before(hub):
    before, now = threading.RLock(), threading.RLock()
    with patcher.patched(thread=True):
        before.acquire()
        waiter = parked(before.acquire)

    def natively():
        with now, now:
            pass
        now.acquire()

    spawn(natively).join()
    now.release()  # natively it is the thread's, whichever task it is in
    before.release()
    assert waiter.result(10) is True


def test_a_condition_is_notified_after_unpatching(hub):
    condition = threading.Condition(threading.Lock())

    def wait():
        with condition:
            return condition.wait()

    with patcher.patched(thread=True):
        waiter = parked(wait)
    with condition:
        condition.notify()
    assert waiter.result(10) is True


@pytest.mark.parametrize("make", LOCKS)
def test_what_a_native_thread_releases_wakes_a_task_at_once(patched, make):
    lock, taken, go = make(), threading.Event(), patcher.original("threading").Event()

    def hold():
        with lock:
            taken.set()
            go.wait()
            pass_time(0.01)  # the hub sleeps by now, without a deadline

    call = native(hold)
    taken.wait()
    task = spawn(lock.acquire)
    go.set()
    assert task.result() is True
    call.get()


def test_any_thread_may_release_a_lock(patched):
    lock = threading.Lock()
    lock.acquire()
    task = parked(lock.acquire)
    native(lock.release).get()
    assert task.result() is True
    native(lock.release).get()
    assert not lock.locked()


@pytest.mark.parametrize("make", LOCKS)
def test_a_native_thread_waits_natively_for_what_a_task_holds(patched, make):
    lock = make()
    lock.acquire()

    def take():
        with lock:
            return True

    call = native(take)
    sleep(0.003)
    lock.release()
    assert call.get() is True


@pytest.mark.parametrize("make", LOCKS)
def test_native_threads_and_tasks_exclude_each_other(patched, make):
    lock, inside, total = make(), [], [0]

    def work(pause, turns):
        for _ in range(turns):
            with lock:
                assert not inside
                inside.append(1)
                before = total[0]
                pause()
                total[0] = before + 1
                inside.pop()

    calls = [native(work, lambda: pass_time(0), 200) for _ in range(3)]
    tasks = [spawn(work, lambda: sleep(0), 200) for _ in range(3)]
    for task in tasks:
        task.result()
    for call in calls:
        call.get()
    assert total == [1200]
    assert is_free(lock)


@pytest.mark.parametrize("make", LOCKS)
def test_a_native_thread_gets_what_tasks_contend_for(patched, make):
    lock, got, end = make(), [], time.monotonic() + 10

    def contend():
        while not got:
            with lock:
                assert time.monotonic() < end
                sleep(0)

    def take():
        for _ in range(20):
            with lock:
                pass
        got.append(1)

    tasks = [spawn(contend) for _ in range(2)]
    call = native(take)
    for task in tasks:
        task.result()
    call.get()
    assert is_free(lock)


@pytest.mark.parametrize("make", LOCKS)
def test_a_native_thread_waits_for_a_time(patched, make):
    lock = make()
    with lock:
        assert native(lock.acquire, True, 0.003).get() is False
    assert native(lambda: lock.acquire(True, 30) and (lock.release(), True)[1]).get() is True
    assert is_free(lock)


def test_a_native_thread_that_was_notified_gets_a_lock_that_tasks_contend_for(patched):
    condition, waiting, got, end = threading.Condition(), Event(), [], time.monotonic() + 10

    def contend():
        while not got:
            with condition:
                assert time.monotonic() < end
                condition.notify_all()
                sleep(0)

    def wait():
        with condition:
            waiting.set()
            condition.wait()
        got.append(1)

    call = native(wait)
    waiting.wait()
    tasks = [spawn(contend) for _ in range(2)]
    for task in tasks:
        task.result()
    call.get()


@pytest.mark.parametrize("make", ["Lock", "RLock"])
def test_a_forked_child_hands_no_lock_to_a_native_thread_that_is_not_there(make):
    out = output_of(
        """
        import os, sys, threading
        from evergreen import patcher, _threads
        native_sleep = patcher.original("time").sleep
        patcher.patch()
        lock = getattr(threading, sys.argv[1])()
        lock.acquire()
        ids = []
        take = lambda: (ids.append(threading.get_native_id()), lock.acquire(), lock.release())
        call = _threads.Call(take, (), {})
        _threads.start_native_thread(call.run, ())

        def switches():
            with open(f"/proc/self/task/{ids[0]}/status") as status:
                return [line for line in status if "ctxt" in line or "State:\\tS" in line]

        while not ids or len(before) < 3 or before != switches():
            native_sleep(0.01)  # nobody has the GIL: who does not run meanwhile waits for the lock
            before = switches() if ids else []
            native_sleep(0.01)
        pid = os.fork()
        if pid == 0:
            lock.release()
            print(lock.acquire(True, 5), flush=True)
            os._exit(0)
        lock.release()
        os.waitpid(pid, 0)
        call.get()
        """,
        make,
        options=("-W", "ignore::DeprecationWarning"),  # of fork() beside threads
    )
    assert out == "True\n"


@pytest.mark.parametrize("make", LOCKS)
def test_tasks_of_two_loops_exclude_each_other(patched, make):
    lock, inside, total = make(), [], [0]

    def work():
        for _ in range(100):
            with lock:
                assert not inside
                inside.append(1)
                before = total[0]
                sleep(0)
                total[0] = before + 1
                inside.pop()

    def other():
        loop = EventLoop()
        try:
            for task in [spawn(work) for _ in range(3)]:
                task.result()
        finally:
            loop.destroy()

    call = native(other)
    for task in [spawn(work) for _ in range(3)]:
        task.result()
    call.get()
    assert total == [600]
    assert is_free(lock)


def test_a_loop_that_is_destroyed_gives_back_the_locks_that_were_on_their_way(patched):
    lock, waits, release = threading.Lock(), threading.Event(), patcher.original("threading").Event()
    lock.acquire()

    def other():
        loop = EventLoop()
        task = spawn(lock.acquire)
        sleep(0)
        waits.set()
        release.wait()
        assert task.is_alive()
        loop.destroy()

    call = native(other)
    waits.wait()
    lock.release()
    assert lock.locked()
    release.set()
    call.get()
    assert not lock.locked()


# ---- RLocks ---------------------------------------------------------------------------------


def test_the_task_that_holds_an_rlock_may_take_it_again(patched):
    lock = threading.RLock()

    def work():
        return [lock.acquire(), lock.acquire(False), lock.acquire(timeout=1), lock.acquire(True, -1)]

    lock.acquire()
    task = parked(work)
    lock.release()
    assert task.result() == [True] * 4


def test_an_rlock_is_free_when_it_was_released_as_often_as_it_was_taken(patched):
    lock = threading.RLock()
    for _ in range(3):
        lock.acquire()
    for _ in range(3):
        assert not is_free(lock)
        lock.release()
    assert is_free(lock)


def test_an_rlock_belongs_to_one_task_not_to_all_of_the_thread(patched):
    lock = threading.RLock()
    lock.acquire()

    def other():
        return lock._is_owned(), lock.acquire(False), refusal(lock.release)

    owned, taken, refused = spawn(other).result()
    assert (owned, taken) == (False, False)
    assert refused == (RuntimeError, "cannot release un-acquired lock")
    assert lock._is_owned()
    lock.release()


def test_an_rlock_that_is_on_its_way_has_no_owner(patched):
    lock = threading.RLock()
    lock.acquire()
    task = parked(lock.acquire)
    lock.release()
    assert not lock._is_owned()
    assert refusal(lock.release)[0] is RuntimeError
    assert refusal(lock._release_save)[0] is RuntimeError
    assert task.result() is True


@pytest.mark.skipif(not hasattr(threading.RLock(), "_recursion_count"), reason="new in Python 3.12")
def test_the_recursion_count_is_that_of_the_owner(patched):
    lock = threading.RLock()
    lock.acquire()
    lock.acquire()
    assert lock._recursion_count() == 2
    assert spawn(lock._recursion_count).result() == 0
    lock.release()
    lock.release()
    assert lock._recursion_count() == 0


def test_an_rlock_is_given_up_and_taken_back_as_deep_as_it_was(patched):
    lock = threading.RLock()
    for _ in range(3):
        lock.acquire()
    other = parked(lambda: (lock.acquire(), sleep(0), lock.release()))
    saved = lock._release_save()
    assert not lock._is_owned()
    lock._acquire_restore(saved)
    other.join()
    for _ in range(3):
        assert lock._is_owned()
        lock.release()
    assert is_free(lock)


@pytest.mark.parametrize("state", [None, (), (1,), "x", ("x", 1)])
def test_restoring_nonsense_raises_as_the_original(hub, state):
    lock = threading.RLock()
    natively = refusal(lock._acquire_restore, state)
    with patcher.patched(thread=True):
        assert refusal(lock._acquire_restore, state) == natively
        assert is_free(lock)


def test_a_nested_release_by_a_native_thread_disturbs_no_waiter(patched):
    lock, order = threading.RLock(), []
    step, done = threading.Event(), patcher.original("threading").Semaphore(0)

    def hold():
        with lock:
            with lock:
                step.set()
                done.acquire()
            step.set()
            done.acquire()

    call = native(hold)
    step.wait()
    step.clear()
    tasks = [spawn(lambda name=name: (lock.acquire(), order.append(name), lock.release())) for name in "abc"]
    settle()
    done.release()
    step.wait()
    settle()
    assert not order
    done.release()
    call.get()
    for task in tasks:
        task.join()
    assert order == ["a", "b", "c"]


def test_a_subclass_of_rlock_may_take_arguments_of_its_own(patched):
    class Named(type(threading.RLock())):
        def __new__(cls, name):
            return super().__new__(cls)

        def __init__(self, name):
            self.name = name

    lock = Named("a")
    assert lock.acquire(False)
    assert lock.acquire(blocking=False)
    assert not is_free(lock)
    lock.release()
    lock.release()
    assert is_free(lock)


# ---- nothing is lost ------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.just(("come", None)),
        st.just(("come for a while", None)),
        st.just(("come with a timeout", None)),
        st.just(("leave", None)),
        st.just(("run", None)),
        st.just(("time passes", None)),
        st.tuples(st.just("kill"), st.integers(0, 20)),
    ),
    min_size=3,
    max_size=25,
)


@pytest.mark.parametrize("make", LOCKS)
def test_whatever_ends_its_waiters_a_lock_has_one_holder_and_none_in_the_end(make):
    @hypothesis_settings(max_examples=150, deadline=None, database=None)
    @given(STEPS)
    def check(steps):
        lock, inside, came, entered, gates = make(), [], [], [], {}

        def work(name, wait):
            if not wait():
                return
            try:
                inside.append(name)
                entered.append(name)
                assert inside == [name]
                gates[name].wait()
            finally:
                inside.remove(name)
                lock.release()

        def in_time():
            try:
                with Timeout(0.001):
                    return lock.acquire()
            except Timeout:
                return False

        waits = {
            "come": lock.acquire,
            "come for a while": lambda: lock.acquire(timeout=0.001),
            "come with a timeout": in_time,
        }
        for step, number in steps:
            if step in waits:
                name = len(came)
                gates[name] = Event()
                came.append(spawn(work, name, waits[step]))
            elif step == "leave" and inside:
                gates[inside[0]].set()
            elif step == "run":
                settle()
            elif step == "time passes":
                pass_time(0.0015)
                sleep(0)
            elif step == "kill" and number < len(came):
                came[number].kill()
        for gate in gates.values():
            gate.set()
        for task in came:
            task.join()
        assert not inside
        assert entered == sorted(entered)
        assert is_free(lock)

    with patcher.patched(thread=True):
        loop = EventLoop()
        loop.excepthook = None
        try:
            check()
            stats = loop.stats()
            assert not any(stats[name] for name in ("tasks", "timers", "ready"))
        finally:
            loop.destroy()
