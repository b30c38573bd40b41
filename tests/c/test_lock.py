"""lock.c: semaphores and locks."""

import gc
import inspect
import math
import sys
import threading
import weakref

import pytest
from helpers import in_thread, output_of, pass_time, settle

import evergreen
from evergreen import EventLoop, TaskExit, sleep, spawn
from evergreen.locks import BoundedSemaphore, Lock, RLock, Semaphore
from evergreen.timeout import move_on_after

EVERY = [Semaphore, BoundedSemaphore, Lock, RLock]
LOCKS = [Lock, RLock]
SEMAPHORES = [Semaphore, BoundedSemaphore]
PATIENCE = 30


@pytest.fixture(params=EVERY, ids=lambda kind: kind.__name__)
def lock(request, hub):
    """Any of them; it must be free at the end."""
    lock = request.param()
    yield lock
    settle()
    assert lock.acquire(False), "the lock was lost"
    lock.release()


def in_task(function, *args):
    return spawn(function, *args).result(PATIENCE)


def waiters(lock, names, order, *, hold=lambda: None):
    """A task for each name that takes the lock, notes its name, and gives the lock back."""

    def take(name):
        with lock:
            order.append(name)
            hold()

    return [spawn(take, name) for name in names]


# ---- what it does --------------------------------------------------------------------------------


def test_a_lock_that_is_taken_is_not_taken_again(lock):
    assert lock.acquire() is True
    assert in_task(lock.acquire, False) is False
    assert in_task(lock.acquire, True, 0) is False
    assert in_task(lock.acquire, True, 0.002) is False
    lock.release()
    assert in_task(lambda: (lock.acquire(False), lock.release())) == (True, None)


def test_a_lock_is_a_context_manager(lock):
    with lock as value:
        assert value is True
        assert in_task(lock.acquire, False) is False
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert in_task(lambda: (lock.acquire(False), lock.release())) == (True, None)


def test_locked_says_whether_acquire_would_wait(lock):
    assert lock.locked() is False
    with lock:
        assert lock.locked() is True
    assert lock.locked() is False


def test_acquire_takes_keywords_none_for_ever(lock):
    assert lock.acquire(blocking=True, timeout=None)
    lock.release()
    assert lock.acquire(timeout=5)
    lock.release()
    assert lock.acquire(blocking=False)
    lock.release()


def test_the_longest_waiter_is_served_first(lock):
    order = []
    with lock:
        tasks = waiters(lock, range(20), order)
        settle()
        assert order == []
    for task in tasks:
        task.result()
    assert order == list(range(20))


def test_nobody_overtakes_one_to_whom_the_lock_was_passed(lock):
    order = []
    lock.acquire()
    [waiter] = waiters(lock, ["waiter"], order)
    settle()
    lock.release()
    assert lock.acquire(False) is False  # it is the waiter's already
    lock.acquire()
    order.append("main")
    lock.release()
    waiter.result()
    assert order == ["waiter", "main"]


def test_release_does_not_switch(lock):
    order = []
    lock.acquire()
    tasks = waiters(lock, "ab", order)
    settle()
    lock.release()
    assert order == []
    for task in tasks:
        task.result()


@pytest.mark.parametrize("kind", LOCKS)
def test_release_of_a_lock_that_is_not_held_is_a_runtime_error(hub, kind):
    lock = kind()
    with pytest.raises(RuntimeError):
        lock.release()
    with lock:
        pass
    with pytest.raises(RuntimeError):
        lock.release()
    with pytest.raises(RuntimeError):
        lock.__exit__(None, None, None)


@pytest.mark.parametrize("kind", LOCKS)
@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((False, 1), ValueError),
        ((False, 0), ValueError),
        ((True, -2), ValueError),
        ((True, math.nan), ValueError),
        ((True, math.inf), OverflowError),
        ((True, 1e100), OverflowError),
        ((True, "1"), TypeError),
        ((True, 1, 1), TypeError),
    ],
)
def test_bad_arguments_of_acquire_are_those_of_threading(hub, kind, args, error):
    with pytest.raises(error):
        threading.Lock().acquire(*args)
    lock = kind()
    with pytest.raises(error):
        lock.acquire(*args)
    assert not lock.locked()
    with pytest.raises(TypeError):
        lock.acquire(block=True)


@pytest.mark.parametrize("kind", LOCKS)
def test_a_timeout_of_minus_one_is_for_ever(hub, kind):
    lock = kind()
    spawn(lambda: (lock.acquire(), sleep(0.003), lock.release()))
    settle()
    assert lock.acquire(True, -1) is True
    lock.release()
    assert lock.acquire(False, -1) is True
    lock.release()


@pytest.mark.parametrize("kind", SEMAPHORES)
def test_bad_arguments_of_a_semaphore(hub, kind):
    semaphore = kind(0)
    with pytest.raises(ValueError, match="timeout"):
        semaphore.acquire(False, 1)
    with pytest.raises(ValueError):
        semaphore.acquire(timeout=math.nan)
    with pytest.raises(TypeError):
        semaphore.acquire(timeout="1")
    assert semaphore.acquire(timeout=-1) is False
    assert semaphore.acquire(False, None) is False
    with pytest.raises(ValueError):
        kind(-1)
    with pytest.raises(TypeError):
        kind("1")
    with pytest.raises(TypeError):
        kind(1, 2)
    assert kind(value=3).value == 3


@pytest.mark.parametrize("n", [0, -1])
def test_release_of_no_permits_is_a_value_error(hub, n):
    with pytest.raises(ValueError):
        Semaphore().release(n)


def test_release_of_what_is_no_number_is_a_type_error(hub):
    for bad in ("1", 1.0, None):
        with pytest.raises(TypeError):
            Semaphore().release(bad)


def test_a_semaphore_has_as_many_permits_as_were_given(hub):
    semaphore = Semaphore(3)
    assert [semaphore.acquire(False) for _ in range(4)] == [True, True, True, False]
    semaphore.release(2)
    semaphore.release(n=3)
    assert semaphore.value == 5


def test_releasing_many_permits_serves_as_many_waiters_in_order(hub):
    semaphore, order = Semaphore(0), []
    tasks = [spawn(lambda n=n: (semaphore.acquire(), order.append(n))) for n in range(5)]
    settle()
    semaphore.release(3)
    assert semaphore.value == 0
    settle()
    assert order == [0, 1, 2]
    semaphore.release(10)
    settle()
    assert order == [0, 1, 2, 3, 4]
    assert semaphore.value == 8
    assert not any(task.is_alive() for task in tasks)


def test_a_huge_release_is_one_step_and_an_overflow_is_refused(hub):
    semaphore = Semaphore(0)
    semaphore.release(sys.maxsize)
    assert semaphore.value == sys.maxsize
    with pytest.raises(ValueError):
        semaphore.release()
    with pytest.raises(OverflowError):
        semaphore.release(1 << 80)


def test_a_bounded_semaphore_refuses_one_release_too_many(hub):
    semaphore = BoundedSemaphore(2)
    with pytest.raises(ValueError):
        semaphore.release()
    semaphore.acquire()
    with pytest.raises(ValueError):
        semaphore.release(2)
    semaphore.release()
    assert semaphore.value == 2


def test_a_bounded_semaphore_counts_permits_that_waiters_were_handed(hub):
    semaphore = BoundedSemaphore(1)
    semaphore.acquire()
    task = spawn(semaphore.acquire)
    settle()
    semaphore.release()  # the waiter has it now
    semaphore.release()  # on its behalf
    with pytest.raises(ValueError):
        semaphore.release()
    assert task.result() is True
    assert semaphore.value == 1


def test_a_lock_may_be_released_by_another_task(hub):
    lock = Lock()
    lock.acquire()
    in_task(lock.release)
    assert not lock.locked()


# ---- RLock ---------------------------------------------------------------------------------------


def test_the_owner_may_take_it_again(hub):
    lock = RLock()
    for _ in range(3):
        assert lock.acquire()
    assert lock.acquire(False)
    assert in_task(lock.acquire, False) is False
    for _ in range(3):
        lock.release()
        assert lock.locked()
    lock.release()
    assert not lock.locked()


def test_only_the_owner_may_release_it(hub):
    lock = RLock()
    lock.acquire()
    with pytest.raises(RuntimeError):
        in_task(lock.release)
    with pytest.raises(RuntimeError):
        in_thread(lock.release)
    lock.release()


def test_one_who_was_handed_it_and_has_not_run_yet_owns_it_alone(hub):
    lock, order = RLock(), []
    lock.acquire()
    tasks = waiters(lock, "ab", order)
    settle()
    lock.release()
    assert not lock._is_owned()
    with pytest.raises(RuntimeError):
        lock.release()
    assert lock.acquire(False) is False
    for task in tasks:
        task.result()
    assert order == ["a", "b"]


def test_a_native_thread_owns_it_as_a_task_does(hub):
    lock = RLock()

    def thread():
        lock.acquire()
        lock.acquire()
        return lock

    in_thread(thread)  # a thread that ends keeps it, as with threading
    assert lock.acquire(False) is False
    with pytest.raises(RuntimeError):
        lock.release()


def test_what_conditions_of_the_standard_library_ask_of_it(hub):
    lock = RLock()
    with pytest.raises(RuntimeError):
        lock._release_save()
    lock.acquire()
    lock.acquire()
    assert (lock._is_owned(), lock._recursion_count()) == (True, 2)
    state = lock._release_save()
    assert (lock._is_owned(), lock._recursion_count(), lock.locked()) == (False, 0, False)
    lock._acquire_restore(state)
    assert lock._recursion_count() == 2
    with pytest.raises(RuntimeError):
        lock._acquire_restore(state)
    lock.release()
    lock.release()
    condition = threading.Condition(lock)
    with condition:
        assert condition.wait(0.001) is False


# ---- kills and timeouts --------------------------------------------------------------------------


def test_a_waiter_that_is_killed_takes_nothing(lock):
    order = []
    with lock:
        tasks = waiters(lock, "abc", order)
        settle()
        tasks[1].kill()
        settle()
    settle()
    assert order == ["a", "c"]


def test_a_waiter_that_is_killed_with_the_lock_in_hand_passes_it_on(lock):
    order = []
    lock.acquire()
    tasks = waiters(lock, "abc", order)
    settle()
    lock.release()
    tasks[0].kill()
    settle()
    assert order == ["b", "c"]


def test_the_last_waiter_killed_with_the_lock_in_hand_frees_it(lock):
    lock.acquire()
    [task] = waiters(lock, "a", [])
    settle()
    lock.release()
    task.kill()
    assert not lock.locked()
    with pytest.raises(TaskExit):
        task.result()


def test_all_who_are_handed_it_one_after_the_other_are_killed(lock):
    order = []
    lock.acquire()
    tasks = waiters(lock, range(10), order)
    settle()
    lock.release()
    for task in tasks:
        task.kill()
    settle()
    assert order == []
    assert not lock.locked()


def test_a_kill_with_any_exception_passes_it_on(lock):
    lock.acquire()
    task = spawn(lock.acquire)
    settle()
    lock.release()
    task.kill(RuntimeError("no"))
    with pytest.raises(RuntimeError, match="no"):
        task.result()


def test_a_deadline_around_it_that_passes_with_the_lock_in_hand_passes_it_on(lock):
    def take():
        with move_on_after(0.002) as scope:
            with lock:
                sleep(100)
        return scope.expired

    lock.acquire()
    task = spawn(take)
    settle()
    pass_time()
    lock.release()
    assert task.result() is True


def test_one_whose_time_is_up_has_left_the_queue(lock):
    order = []
    lock.acquire()
    hasty = spawn(lock.acquire, True, 0.001)
    tasks = waiters(lock, "ab", order)
    assert hasty.result() is False
    lock.release()
    for task in tasks:
        task.result()
    assert order == ["a", "b"]


def test_a_killed_waiter_leaves_no_timer(lock, hub):
    lock.acquire()
    task = spawn(lock.acquire, True, 100)
    settle()
    task.kill()
    task.join()
    assert hub.stats()["timers"] == 0
    lock.release()


# ---- threads and loops -----------------------------------------------------------------------------


def test_waiters_of_other_threads_and_loops_are_served_in_the_order_they_came(hub):
    for kind in EVERY:
        lock, order, threads = kind(), [], []
        here = threading.Lock()  # only one starts to wait at a time

        def take(name, lock=lock, order=order):
            with lock:
                order.append(name)

        def with_loop(name, come, take=take):
            loop = EventLoop()
            task = spawn(take, name)
            sleep(0)
            come.set()
            task.join(PATIENCE)
            loop.destroy()

        def plain(name, come, take=take):
            come.set()
            take(name)

        lock.acquire()
        tasks = []
        for number in range(9):
            with here:
                if number % 3 == 0:
                    tasks.append(spawn(take, number))
                    settle()
                    continue
                come = threading.Event()
                thread = threading.Thread(target=(with_loop, plain)[number % 3 - 1], args=(number, come))
                thread.start()
                threads.append(thread)
                come.wait(PATIENCE)
                if number % 3 == 2:
                    sleep(0.02)  # a plain thread cannot say that it waits
        lock.release()
        while len(order) < 9:
            sleep(0.001)
        for thread in threads:
            thread.join(PATIENCE)
        for task in tasks:
            task.result()
        assert order == list(range(9)), kind


@pytest.mark.parametrize("kind", EVERY)
def test_threads_loops_and_tasks_exclude_each_other(hub, kind):
    lock, counter = kind(), [0]

    def work(times):
        for _ in range(times):
            with lock:
                before = counter[0]
                for _ in range(3):
                    pass
                counter[0] = before + 1

    def with_loop():
        loop = EventLoop()
        for task in [spawn(work, 100) for _ in range(5)]:
            task.result(PATIENCE)
        loop.destroy()

    threads = [threading.Thread(target=with_loop) for _ in range(2)]
    threads += [threading.Thread(target=work, args=(500,)) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for task in [spawn(work, 100) for _ in range(5)]:
            task.result(PATIENCE)
        while any(thread.is_alive() for thread in threads):
            sleep(0.001)
    finally:
        sys.setswitchinterval(interval)
    assert counter == [2 * 500 + 2 * 500 + 500]


@pytest.mark.parametrize("kind", EVERY)
def test_it_works_in_native_threads_alone(kind):
    lock = kind()

    def thread():
        assert lock.acquire()
        assert in_thread(lock.acquire, True, 0.002) is False
        lock.release()
        return in_thread(lock.acquire)

    assert in_thread(thread) is True


def test_waiting_in_a_callback_is_a_runtime_error_and_not_waiting_is_none(lock, hub):
    seen = []

    def callback():
        try:
            lock.acquire()
        except RuntimeError as exc:
            seen.append(str(exc))
        seen.append(lock.acquire(False))

    with lock:
        hub.call_soon(callback)
        settle()
    assert "block the event loop" in seen[0]
    assert seen[1] is False


# ---- the object --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_is_made_without_arguments(hub, kind):
    with pytest.raises(TypeError):
        kind(1)
    with pytest.raises(TypeError):
        kind(value=1)


@pytest.mark.parametrize("kind", EVERY)
def test_subclasses_have_arguments_attributes_and_methods_of_their_own(hub, kind):
    class Named(kind):
        def __init__(self, name):
            super().__init__()
            self.name = name
            self.taken = 0

        def acquire(self, *args, **kwargs):
            self.taken += 1
            return super().acquire(*args, **kwargs)

    lock = Named("name")
    assert (lock.name, lock.acquire(), lock.taken) == ("name", True, 1)
    assert in_task(lock.acquire, False) is False
    lock.release()
    lock.myself = lock
    ref = weakref.ref(lock)
    del lock
    gc.collect()
    assert ref() is None


@pytest.mark.parametrize("kind", EVERY)
def test_weak_references_and_hashes(hub, kind):
    lock = kind()
    ref = weakref.ref(lock)
    assert {lock: 1}[lock] == 1
    assert ref() is lock
    del lock
    assert ref() is None


@pytest.mark.parametrize("kind", EVERY)
def test_a_lock_that_somebody_waits_for_stays(hub, kind):
    def wait():
        lock = kind()
        lock.acquire()
        return in_task(lock.acquire, True, 0.002)

    assert wait() is False
    gc.collect()


def test_repr_says_how_it_stands(hub):
    semaphore, bounded, lock, rlock = Semaphore(2), BoundedSemaphore(3), Lock(), RLock()
    assert repr(semaphore).startswith("<evergreen.Semaphore at 0x")
    assert repr(semaphore).endswith(": value=2>")
    assert repr(bounded).endswith(": value=3/3>")
    assert repr(lock).startswith("<unlocked evergreen.Lock")
    assert repr(rlock).startswith("<unlocked evergreen.RLock object count=0")
    for taken in (bounded, lock, rlock):
        taken.acquire()
    assert repr(bounded).endswith(": value=2/3>")
    assert repr(lock).startswith("<locked evergreen.Lock")
    assert repr(rlock).startswith("<locked evergreen.RLock object count=1")


def test_the_methods_have_signatures():
    signatures = {
        Semaphore: "(value=1)",
        Semaphore.acquire: "(self, /, blocking=True, timeout=None)",
        Semaphore.release: "(self, /, n=1)",
        Semaphore.locked: "(self, /)",
        BoundedSemaphore: "(value=1)",
        Lock: "()",
        Lock.acquire: "(self, /, blocking=True, timeout=-1)",
        Lock.release: "(self, /)",
        Lock.locked: "(self, /)",
        RLock: "()",
        RLock.acquire: "(self, /, blocking=True, timeout=-1)",
        RLock.release: "(self, /)",
    }
    assert {method: str(inspect.signature(method)) for method in signatures} == signatures


@pytest.mark.parametrize("kind", EVERY)
def test_an_idle_one_is_small(kind):
    assert sys.getsizeof(kind()) <= 120


def test_a_task_says_what_it_waits_for(lock):
    with lock:
        task = spawn(lock.acquire, True, 100)
        settle()
        kind, what, deadline, since = task.waiting
        task.kill()
    assert kind in ("lock", "rlock", "semaphore")
    assert what is lock
    assert deadline > since


def test_no_reference_is_lost_or_kept(hub):
    for kind in EVERY:
        lock = kind()
        before = sys.getrefcount(lock)
        for _ in range(50):
            with lock:
                task, other = spawn(lock.acquire), spawn(lock.acquire, True, 0)
                settle()
                other.join()
            task.kill()
            settle()
            assert lock.acquire(timeout=1)
            lock.release()
        del task, other
        assert sys.getrefcount(lock) == before


def test_ten_thousand_waiters_are_served_once_each(hub):
    semaphore, order = Semaphore(0), []
    tasks = [spawn(lambda n=n: (semaphore.acquire(), order.append(n))) for n in range(10_000)]
    settle()
    for task in tasks[::2]:
        task.kill()
    semaphore.release(10_000)
    settle()
    assert order == list(range(1, 10_000, 2))
    assert semaphore.value == 5_000


# ---- fork ----------------------------------------------------------------------------------------


def test_a_permit_released_in_a_forked_child_goes_to_nobody_of_the_parent():
    out = output_of(
        """
        import os, threading
        import evergreen
        from evergreen import EventLoop, sleep, spawn
        from evergreen.locks import Semaphore

        semaphore = Semaphore(0)
        up = [threading.Event(), threading.Event()]

        def plain():
            up[0].set()
            semaphore.acquire()

        def with_loop():
            EventLoop()
            task = spawn(semaphore.acquire)
            sleep(0)
            up[1].set()
            task.join()

        for function in (plain, with_loop):
            threading.Thread(target=function, daemon=True).start()
        for event in up:
            event.wait()
        spawn(semaphore.acquire)
        sleep(0.05)
        pid = os.fork()
        if not pid:
            semaphore.release(2)
            os._exit(semaphore.value)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        semaphore.release(3)
        evergreen.sleep(0.01)
    """,
        options=("-W", "ignore::DeprecationWarning"),  # Python warns of forks beside threads
    )
    assert out == "2\n"


def test_evergreen_exports_what_it_says():
    from evergreen import locks

    assert all(hasattr(locks, name) for name in locks.__all__)
    assert evergreen.locks is locks


@pytest.mark.parametrize("kind", LOCKS)
def test_empty_keyword_arguments_are_none(hub, kind):
    nothing = {}
    assert kind(*(), **nothing).acquire(False)
    with pytest.raises(TypeError, match="takes no arguments"):
        kind(**{"value": 1})


def test_an_rlock_keeps_its_owner_when_the_thread_gets_a_loop_and_when_it_loses_it():
    def work():
        lock = RLock()
        lock.acquire()
        loop = EventLoop()
        lock.acquire()
        lock.release()
        loop.destroy()
        lock.release()
        return lock.locked()

    assert in_thread(work) is False


def test_an_rlock_of_main_keeps_its_owner_when_main_waits_for_the_first_time():
    out = output_of(
        """
        from evergreen import sleep, spawn
        from evergreen.locks import RLock
        lock = RLock()
        with lock:
            sleep(0)
            print(spawn(lock.acquire, False).result())
        print(lock.locked())
        """
    )
    assert out == "False\nFalse\n"


def test_a_semaphore_made_anew_gives_its_permits_to_those_who_wait(hub):
    gate = Semaphore(0)
    waiting = [spawn(gate.acquire) for _ in range(2)]
    settle()
    gate.__init__(3)
    assert [task.join(0) or task.join(10) for task in waiting] == [True, True]
    assert gate.value == 1
