"""evergreen.lib.threading and queue: threads that are tasks, unpatched."""

import os
import queue as standard_queue
import threading as standard

import pytest
from helpers import output_of, settle

import evergreen
from evergreen import spawn
from evergreen.lib import queue, threading, time


def test_threads_are_tasks_and_run_beside_each_other(either, ticks):
    started, native = [], []

    def work():
        started.append(1)
        time.sleep(0.02)
        native.append((len(started), threading.get_native_id()))

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
        assert thread.is_alive()
    for thread in threads:
        thread.join()
        assert not thread.is_alive()
    assert native == [(5, standard.get_native_id())] * 5
    assert ticks[0]


def test_a_thread_knows_itself(either):
    seen = []

    def work():
        me = threading.current_thread()
        seen.append((me, me.ident == threading.get_ident(), me in threading.enumerate()))

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    thread.join()
    assert seen == [(thread, True, True)]
    assert thread not in threading.enumerate()
    assert threading.main_thread().ident == standard.main_thread().ident
    assert threading.current_thread() is threading.main_thread()
    assert thread.ident != threading.get_ident()


def test_a_join_may_time_out(either, ticks):
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    thread.join(0.01)
    assert thread.is_alive()
    assert ticks[0]
    event.set()
    joins = [spawn(thread.join) for _ in range(3)]
    for join in joins:
        join.join()
    assert not thread.is_alive()


def test_a_thread_that_fails_is_told_to_the_excepthook(either, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    assert seen == [ZeroDivisionError]


def test_starting_twice_and_joining_oneself_are_errors(either):
    errors = []

    def work():
        with pytest.raises(RuntimeError) as info:
            threading.current_thread().join()
        errors.append(str(info.value))

    thread = threading.Thread(target=work)
    with pytest.raises(RuntimeError):
        thread.join()
    thread.start()
    thread.join()
    assert len(errors) == 1
    with pytest.raises(RuntimeError):
        thread.start()


def test_a_task_that_asks_which_thread_it_is_leaves_nothing(either):
    def ask():
        return type(threading.current_thread()).__name__

    before = len(threading._active)
    assert spawn(ask).result() == "_DummyThread"
    settle()
    assert len(threading._active) == before


LOCKS = [threading.Lock, threading.RLock, threading.Semaphore, threading.BoundedSemaphore]
CONDITION = threading.Condition


@pytest.mark.parametrize("make", [*LOCKS, CONDITION])
def test_locks_let_other_tasks_run(either, parked, ticks, make):
    lock, order = make(), []

    def work(name):
        with lock:
            time.sleep(0.001)
            order.append(name)

    lock.acquire()
    tasks = [parked(work, name) for name in "abc"]
    assert spawn(lock.acquire, timeout=0.005).result() is False
    assert spawn(lock.acquire, False).result() is False
    lock.release()
    for task in tasks:
        task.join()
    assert order == ["a", "b", "c"]
    assert ticks[0]


@pytest.mark.parametrize("make", [*LOCKS, CONDITION])
def test_in_a_native_thread_locks_block_natively(either, natively, make):
    lock = make()
    lock.acquire()
    assert natively(lambda: lock.acquire(timeout=0.001)) is False
    lock.release()
    assert natively(lambda: lock.acquire(timeout=10) and lock.release()) is None


def test_conditions_wake_those_who_wait(either, parked):
    condition, items = threading.Condition(), []

    def take():
        with condition:
            condition.wait_for(lambda: items)
            return items.pop()

    tasks = [parked(take) for _ in range(3)]
    with condition:
        items.extend("abc")
        condition.notify_all()
    assert sorted(task.result() for task in tasks) == ["a", "b", "c"]
    with condition:
        assert condition.wait(0.001) is False


def test_events(either, parked, natively):
    event = threading.Event()
    tasks = [parked(event.wait) for _ in range(3)]
    assert event.wait(0.001) is False
    assert natively(event.wait, 0.001) is False
    event.set()
    assert event.isSet()
    assert [task.result() for task in tasks] == [True] * 3


def test_barriers_break_with_the_standard_exception(either, parked):
    barrier = threading.Barrier(3)
    tasks = [parked(barrier.wait), parked(barrier.wait)]
    assert sorted([barrier.wait(), *(task.result() for task in tasks)]) == [0, 1, 2]
    task = parked(barrier.wait)
    barrier.abort()
    with pytest.raises(standard.BrokenBarrierError):
        task.result()
    assert threading.BrokenBarrierError is standard.BrokenBarrierError


def test_timers(either):
    fired = threading.Event()
    timer = threading.Timer(0.005, fired.set)
    timer.start()
    assert fired.wait(5)
    timer.join()
    never = threading.Timer(60, fired.clear)
    never.start()
    never.cancel()
    never.join()
    assert fired.is_set()


def test_locals_are_of_each_thread(either, natively):
    data, seen = threading.local(), []
    data.name = "main"

    def work(name):
        seen.append(hasattr(data, "name"))
        data.name = name
        time.sleep(0.001)
        seen.append(data.name == name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [False, False, True, True]
    assert data.name == "main"
    assert natively(hasattr, data, "name") is False


def test_a_thread_started_in_a_native_thread_is_native(either, natively):
    def start():
        found = []
        thread = threading.Thread(target=lambda: found.append(threading.get_native_id()))
        thread.start()
        thread.join()
        return found[0], threading.get_native_id(), thread.is_alive()

    started, starter, alive = natively(start)
    assert started not in (starter, standard.get_native_id())
    assert not alive


def test_a_native_thread_is_joined_by_a_task(either, natively, ticks):
    release = threading.Event()

    def start():
        thread = threading.Thread(target=release.wait)
        thread.start()
        return thread

    thread = natively(start)
    thread.join(0.01)
    assert thread.is_alive()
    assert ticks[0]
    release.set()
    thread.join()
    assert not thread.is_alive()


def test_a_killed_thread_lets_its_joiners_go(either, parked):
    event = threading.Event()
    tasks = []

    def work():
        tasks.append(evergreen.current.task)
        event.wait()

    thread = threading.Thread(target=work)
    thread.start()
    join = parked(thread.join)
    tasks[0].kill()
    join.join()
    assert not thread.is_alive()


@pytest.mark.parametrize("daemon", [False, True])
def test_the_process_waits_for_threads_that_are_no_daemons(daemon):
    out = output_of(
        f"""
        from evergreen.lib import threading, time

        def work():
            time.sleep(0.02)
            print("done")

        threading.Thread(target=work, daemon={daemon}).start()
        """
    )
    assert out == ("" if daemon else "done\n")


def test_the_main_thread_is_known_whoever_imports_first():
    out = output_of(
        """
        import threading
        found = []
        def load():
            from evergreen.lib import threading as ours
            found.append(ours)
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
        ours, = found
        print(ours.current_thread() is ours.main_thread(), ours.main_thread().ident == threading.get_ident())
        """
    )
    assert out == "True True\n"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_goes_on_with_the_thread_that_forked(either):
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    settle()
    pid = os.fork()
    if not pid:
        ok = threading.enumerate() == [threading.current_thread()] and not thread.is_alive()
        again = threading.Thread(target=int)
        again.start()
        again.join(10)
        os._exit(0 if ok and not again.is_alive() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert thread.is_alive()
    for task in evergreen.current.loop.tasks():
        task.kill()


def test_names_are_those_of_the_standard_library(hub):
    assert set(standard.__all__) <= set(dir(threading))
    assert threading.ExceptHookArgs is standard.ExceptHookArgs
    assert "cooperative" not in threading.Thread.__doc__
    assert threading.__doc__ != standard.__doc__


# ---- queue ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"])
def test_queues_let_other_tasks_run(either, parked, natively, ticks, name):
    items = getattr(queue, name)()
    tasks = [parked(items.get) for _ in range(3)]
    for item in range(3):
        items.put(item)
    assert sorted(task.result() for task in tasks) == [0, 1, 2]
    with pytest.raises(standard_queue.Empty):
        items.get(timeout=0.005)
    assert ticks[0]
    task = parked(items.get)
    natively(items.put, "native")
    assert task.result() == "native"
    items.put("task")
    assert natively(items.get) == "task"


def test_queues_may_be_annotated(hub):
    for name in ("Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"):
        assert getattr(queue, name)[int].__origin__ is getattr(queue, name)


def test_a_full_queue_makes_producers_wait(either, parked):
    items = queue.Queue(1)
    items.put("a")
    task = parked(items.put, "b")
    with pytest.raises(standard_queue.Full):
        items.put_nowait("c")
    assert [items.get(), items.get()] == ["a", "b"]
    task.join()
    for _ in "ab":
        items.task_done()
    items.join()


def test_exceptions_are_those_of_the_standard_library(hub):
    assert queue.Empty is standard_queue.Empty
    assert queue.Full is standard_queue.Full
    assert set(standard_queue.__all__) <= set(dir(queue))
    assert queue.ShutDown is getattr(standard_queue, "ShutDown", queue.ShutDown)


@pytest.mark.parametrize("patch", ["", "patcher.patch()"])
def test_in_a_forked_child_the_task_that_forked_is_the_main_thread(patch):
    out = output_of(
        f"""
        import os, sys
        import evergreen
        from evergreen import patcher
        from evergreen.lib import threading
        {patch}

        def work():
            if child := os.fork():
                return os.waitpid(child, 0)[1]
            me = threading.current_thread()
            alone = threading.enumerate() == [me]
            print(me is threading.main_thread(), alone, me.ident == threading.get_ident())
            sys.stdout.flush()
            os._exit(0)

        print(evergreen.spawn(work).result())
        """
    )
    assert out == "True True True\n0\n"
