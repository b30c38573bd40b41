"""futures: executors, wait, as_completed, map and adapt."""

import concurrent.futures
import contextvars
import gc
import os
import random
import subprocess
import sys
import threading
import time
import weakref

import pytest
from helpers import Boom, in_thread, output_of, settle

import evergreen
from evergreen import Channel, Deadlock, EventLoop, TaskExit, current, futures, patcher, sleep, spawn
from evergreen.event import Event
from evergreen.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    Future,
    ProcessPoolExecutor,
    TaskPoolExecutor,
    ThreadPoolExecutor,
    TimeoutError,
    adapt,
    as_completed,
    wait,
)

POOLS = [TaskPoolExecutor, ThreadPoolExecutor]


def boom(*args):
    raise Boom(*args)


def pid_of(_):
    return os.getpid()


def in_worker(loop, call):
    """Have another task run while a call is made, and return what it returns."""
    ticks = []
    ticker = spawn(lambda: [(ticks.append(n), sleep(0.001)) for n in range(1000)])
    result = call()
    ticker.kill()
    assert ticks, "the loop was blocked"
    return result


@pytest.fixture(params=POOLS)
def pool(request, hub):
    """A pool of each kind with two workers; afterwards it is empty."""
    with request.param(2) as pool:
        yield pool


@pytest.fixture
def tasks(hub):
    with TaskPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def threads(hub):
    with ThreadPoolExecutor(2) as pool:
        yield pool


# ---- what is there -------------------------------------------------------------------------------


def test_the_names_of_02_and_of_the_standard_library_are_there():
    for name in (*concurrent.futures.__all__, "TaskPoolExecutor", "adapt"):
        if name not in ("InterpreterPoolExecutor",):
            assert hasattr(futures, name), name
    assert futures.CancelledError is concurrent.futures.CancelledError
    assert futures.TimeoutError is concurrent.futures.TimeoutError
    assert set(futures.__all__) <= set(dir(futures))
    with pytest.raises(AttributeError, match="no attribute 'Promise'"):
        futures.Promise  # noqa: B018


@pytest.mark.parametrize("kind", [*POOLS, ProcessPoolExecutor])
def test_executors_are_those_of_the_standard_library(kind):
    assert issubclass(kind, concurrent.futures.Executor)
    assert issubclass(kind, futures.Executor)


def test_importing_futures_does_not_import_multiprocessing():
    assert output_of("import sys, evergreen.futures; print('multiprocessing' in sys.modules)") == "False\n"


@pytest.mark.parametrize("kind", [*POOLS, ProcessPoolExecutor])
def test_a_pool_needs_a_positive_number_of_workers(hub, kind):
    for bad in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            kind(bad)
    with pytest.raises(TypeError):
        kind("many")


# ---- calls, in pools of tasks and of threads -----------------------------------------------------


def test_a_call_and_its_result(pool):
    future = pool.submit(lambda *args, **kwargs: (args, kwargs), 1, 2, fn=3, self=4)
    assert isinstance(future, Future)
    assert future.get() == ((1, 2), {"fn": 3, "self": 4})
    assert future.done


def test_a_call_and_its_exception_with_its_traceback(pool):
    future = pool.submit(boom, "there")
    with pytest.raises(Boom, match="there") as caught:
        future.result()
    assert "boom" in [entry.name for entry in caught.traceback]
    assert future.get(return_exception=True) is caught.value


def test_other_tasks_run_while_one_waits_for_a_call(hub, pool):
    work = (lambda: sleep(0.01)) if isinstance(pool, TaskPoolExecutor) else (lambda: time.sleep(0.01))
    in_worker(hub, lambda: pool.submit(work).result())


def test_no_more_calls_run_than_there_are_workers(pool):
    running, most = [], []
    pause = sleep if isinstance(pool, TaskPoolExecutor) else time.sleep

    def call(n):
        running.append(n)
        most.append(len(running))
        pause(0.002)
        running.remove(n)
        return n

    assert list(pool.map(call, range(10))) == list(range(10))
    assert max(most) == 2


def test_calls_begin_in_the_order_of_their_submission(pool):
    gate, order = Event(), []
    blockers = [pool.submit(gate.wait, 30) for _ in range(2)]
    calls = [pool.submit(order.append, n) for n in range(20)]
    gate.set()
    wait([*blockers, *calls])
    assert order == sorted(order) if isinstance(pool, TaskPoolExecutor) else sorted(order) == list(range(20))


def test_a_queued_call_that_is_cancelled_is_not_made(pool):
    gate, made = Event(), []
    blockers = [pool.submit(gate.wait, 30) for _ in range(2)]
    victim, other = pool.submit(made.append, "victim"), pool.submit(made.append, "other")
    settle()
    assert victim.cancel() is True
    assert victim.cancelled and victim.done()
    with pytest.raises(CancelledError):
        victim.result()
    gate.set()
    assert [future.result() for future in (*blockers, other)] == [True, True, None]
    assert made == ["other"]


def test_a_call_that_runs_is_not_cancelled(pool):
    gate, begun = Event(), Event()
    future = pool.submit(lambda: (begun.set(), gate.wait(30))[1])
    assert begun.wait(30)
    assert future.running()
    assert future.cancel() is False
    gate.set()
    assert future.result() is True


def test_killing_who_waits_leaves_the_call_and_its_future(pool):
    gate = Event()
    future = pool.submit(gate.wait, 30)
    waiter = spawn(future.result)
    settle()
    waiter.kill()
    with pytest.raises(TaskExit):
        waiter.result()
    gate.set()
    assert future.result() is True


@pytest.mark.parametrize("depth", [1, 5, 50])
def test_calls_wait_for_calls_of_their_own_full_pool(hub, pool, depth):
    def nest(depth):
        return 0 if depth == 0 else 1 + pool.submit(nest, depth - 1).result(30)

    assert [future.result() for future in [pool.submit(nest, depth) for _ in range(4)]] == [depth] * 4


@pytest.mark.parametrize(
    "await_them",
    [
        lambda pool, calls: sum(pool.map(int, calls)),
        lambda pool, calls: sum(f.result() for f in as_completed([pool.submit(int, n) for n in calls])),
        lambda pool, calls: sum(f.result() for f in wait([pool.submit(int, n) for n in calls]).done),
        lambda pool, calls: sum(pool.submit(int, n).exception() is None and n for n in calls),
    ],
    ids=["map", "as_completed", "wait", "exception"],
)
def test_every_way_of_waiting_gives_up_the_place(hub, pool, await_them):
    calls = [pool.submit(await_them, pool, range(5)) for _ in range(6)]
    assert [call.result(30) for call in calls] == [10] * 6


def test_a_pool_whose_calls_waited_is_bounded_as_before(pool):
    def nest(depth):
        return 0 if depth == 0 else 1 + pool.submit(nest, depth - 1).result()

    assert pool.submit(nest, 20).result() == 20
    running, most = [], []
    pause = sleep if isinstance(pool, TaskPoolExecutor) else time.sleep

    def call():
        running.append(1)
        most.append(len(running))
        pause(0.002)
        running.pop()

    wait([pool.submit(call) for _ in range(30)])
    most.clear()
    wait([pool.submit(call) for _ in range(10)])
    assert max(most) == 2


def test_after_shutdown_no_call_is_taken(pool):
    future = pool.submit(int, "3")
    pool.shutdown()
    assert future.done
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(int)
    pool.shutdown()
    assert "shut down" in repr(pool)


def test_shutdown_waits_while_other_tasks_run(hub, pool):
    gate = Event()
    calls = [pool.submit(gate.wait, 30) for _ in range(5)]
    hub.call_later(0.01, gate.set)
    in_worker(hub, pool.shutdown)
    assert [call.result(0) for call in calls] == [True] * 5


def test_shutdown_need_not_wait(hub, pool):
    gate = Event()
    calls = [pool.submit(gate.wait, 30) for _ in range(5)]
    pool.shutdown(wait=False)
    assert not any(call.done for call in calls)
    gate.set()
    assert [call.result() for call in calls] == [True] * 5


def test_shutdown_can_cancel_what_has_not_begun(pool):
    gate, begun = Event(), threading.Semaphore(0)
    running = [pool.submit(lambda: (begun.release(), gate.wait(30))[1]) for _ in range(2)]
    settle()
    for _ in range(2):
        while not begun.acquire(blocking=False):
            sleep(0.001)
    queued = [pool.submit(int) for _ in range(5)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled for future in queued)
    assert wait(queued).not_done == set()  # which is told of it
    gate.set()
    assert [future.result() for future in running] == [True, True]


def test_a_call_cannot_shut_its_own_pool_down_and_wait(pool):
    with pytest.raises(RuntimeError, match="cannot wait for the shutdown"):
        pool.submit(pool.shutdown).result()


def test_a_failing_callback_does_not_end_a_worker(pool, caplog):
    for _ in range(5):
        future = pool.submit(sleep if isinstance(pool, TaskPoolExecutor) else time.sleep, 0.001)
        future.add_done_callback(boom)
        future.result()
    while len(caplog.records) < 5:
        sleep(0.001)
    assert pool.submit(int, "6").result() == 6


def test_a_dropped_pool_makes_the_calls_that_it_took(hub, pool):
    own = type(pool)(1)
    calls = [own.submit(lambda n: n, n) for n in range(10)]
    ref = weakref.ref(own)
    del own
    gc.collect()
    assert ref() is None
    assert [call.result() for call in calls] == list(range(10))


def test_arguments_and_results_are_freed(pool):
    class Thing:
        pass

    thing = Thing()
    ref = weakref.ref(thing)
    assert pool.submit(lambda thing: thing, thing).result() is thing
    del thing
    pool.submit(int).result()
    pool.submit(int).result()
    gc.collect()
    assert ref() is None


def test_a_native_thread_submits_and_waits(hub, pool):
    outcome = []
    thread = threading.Thread(
        target=lambda: outcome.append([pool.submit(abs, -n).result(30) for n in range(20)])
    )
    thread.start()
    while thread.is_alive():
        sleep(0.001)
    assert outcome == [list(range(20))]


def test_a_pending_call_keeps_run_running(hub, pool):
    done = []
    pause = sleep if isinstance(pool, TaskPoolExecutor) else time.sleep
    pool.submit(pause, 0.01).add_done_callback(done.append)
    hub.run()
    assert len(done) == 1


# ---- map -----------------------------------------------------------------------------------------


def test_map_takes_several_iterables_and_keeps_their_order(pool):
    assert list(pool.map(pow, range(5), [2] * 5)) == [0, 1, 4, 9, 16]
    assert list(pool.map(pow, range(5), range(3))) == [1, 1, 4]
    assert list(pool.map(int, [])) == []


def test_map_raises_where_the_failed_call_stands(pool):
    results = pool.map(lambda n: 6 // n, [3, 2, 0, 1])
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_map_can_run_out_of_time(tasks):
    results = tasks.map(lambda s: sleep(s) or s, [0, 0, 30], timeout=0.01)
    assert [next(results), next(results)] == [0, 0]
    with pytest.raises(TimeoutError):
        next(results)
    for task in current.loop.tasks():
        task.kill()


@pytest.mark.parametrize("end", ["close", "drop", "raise"])
def test_the_rest_of_a_map_is_cancelled(tasks, end):
    gates, begun = [Event() for _ in range(10)], []
    results = tasks.map(lambda n: (begun.append(n), gates[n].wait())[0], range(10))
    gates[0].set()
    next(results)
    settle()
    if end == "close":
        results.close()
    elif end == "drop":
        del results
    else:
        with pytest.raises(Boom):
            results.throw(Boom)
    for gate in gates:
        gate.set()
    tasks.shutdown()
    assert begun == [0, 1, 2]


def test_a_map_with_a_buffer_submits_no_further_ahead(tasks):
    asked = []
    results = tasks.map(abs, (asked.append(n) or n for n in range(100)), buffersize=3)
    assert asked == [0, 1, 2]
    assert next(results) == 0
    assert asked == [0, 1, 2, 3]
    assert list(results) == list(range(1, 100))
    for bad, exc in ((0, ValueError), (-1, ValueError), ("2", TypeError)):
        with pytest.raises(exc, match="buffersize"):
            tasks.map(abs, [], buffersize=bad)


# ---- wait and as_completed -----------------------------------------------------------------------


def finish(future, outcome):
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    elif outcome == "cancel":
        future.cancel()
        future.set_running_or_notify_cancel()
    else:
        future.set_result(outcome)


@pytest.fixture(params=[Future, concurrent.futures.Future], ids=["ours", "theirs"])
def some(request, hub):
    """Five futures, of Evergreen or of the standard library."""
    return [request.param() for _ in range(5)]


def test_wait_for_all(some):
    task = spawn(wait, some)
    for future, outcome in zip(some, [1, Boom(), "cancel", 2, 3], strict=True):
        settle()
        assert task.is_alive()
        finish(future, outcome)
    assert task.result() == (set(some), set())
    assert [future._waiters for future in some] == [[]] * 5


@pytest.mark.parametrize("outcome", [1, Boom(), "cancel"])
def test_wait_for_the_first(some, outcome):
    task = spawn(wait, some, return_when=FIRST_COMPLETED)
    settle()
    finish(some[2], outcome)
    done, not_done = task.result()
    assert (done, len(not_done)) == ({some[2]}, 4)
    assert wait(some, 30, FIRST_COMPLETED).done == {some[2]}


def test_wait_for_the_first_exception(some):
    task = spawn(wait, some, return_when=FIRST_EXCEPTION)
    for future, outcome in zip(some, [1, "cancel", 3], strict=False):
        finish(future, outcome)
        settle()
        assert task.is_alive()
    finish(some[3], Boom())
    assert task.result().not_done == {some[4]}
    assert wait(some, 30, FIRST_EXCEPTION).done == set(some[:4])


def test_wait_can_end_in_time(some):
    finish(some[0], 1)
    for timeout in (0.002, 0):
        assert wait(some, timeout).done == {some[0]}
    assert [future._waiters for future in some] == [[]] * 5


def test_a_killed_wait_leaves_nothing_behind(some):
    tasks = [spawn(wait, some), spawn(list, as_completed(some))]
    settle()
    for task in tasks:
        task.kill()
        task.join()
    gc.collect()
    assert [future._waiters for future in some] == [[]] * 5


def test_wait_wants_a_known_condition(some):
    with pytest.raises(ValueError, match="Invalid return condition: 'SOMETIME'"):
        wait(some, return_when="SOMETIME")
    assert wait([]) == (set(), set())
    assert wait([], return_when=ALL_COMPLETED).done == set()


def test_as_completed_gives_them_in_the_order_of_completion(some):
    seen = []
    task = spawn(lambda: seen.extend(as_completed([*some, *some])))
    for n, outcome in [(3, 1), (0, Boom()), (4, "cancel"), (1, 2), (2, 3)]:
        settle()
        finish(some[n], outcome)
    task.result()
    assert seen == [some[n] for n in (3, 0, 4, 1, 2)]


def test_as_completed_can_run_out_of_time(some):
    finish(some[1], 1)
    completed = as_completed(some, timeout=0.002)
    assert next(completed) is some[1]
    with pytest.raises(TimeoutError, match=r"4 \(of 5\) futures unfinished"):
        next(completed)
    assert [future._waiters for future in some] == [[]] * 5


def test_the_time_of_as_completed_counts_from_its_call(some):
    completed = as_completed(some, timeout=0.005)
    time.sleep(0.01)
    with pytest.raises(TimeoutError):
        next(completed)


def test_futures_of_every_kind_can_be_waited_for_together(hub, tasks, threads):
    gate = Event()
    with concurrent.futures.ThreadPoolExecutor(1) as theirs:
        several = [pool.submit(gate.wait, 30) for pool in (tasks, threads, theirs)]
        hub.call_later(0.002, gate.set)
        assert wait(several).done == set(several)
        assert set(as_completed(several)) == set(several)


# ---- tasks ---------------------------------------------------------------------------------------


def test_the_standard_librarys_wait_takes_calls_in_tasks(tasks):
    several = [tasks.submit(sleep, 0.002) for _ in range(5)]
    with patcher.patched():
        assert concurrent.futures.wait(several, 30).done == set(several)


def test_a_task_pool_starts_no_task_before_it_is_needed(hub):
    pool = TaskPoolExecutor(10**9)
    assert hub.tasks() == []
    pool.submit(int)
    assert len(hub.tasks()) == 1
    pool.shutdown()


def test_each_call_has_a_copy_of_the_submitters_context(tasks):
    var = contextvars.ContextVar("var", default=0)

    def call():
        seen = var.get()
        var.set(-1)
        sleep(0.001)
        return seen

    calls, before = [], var.set(0)
    for n in range(6):
        var.set(n)
        calls.append(tasks.submit(call))
    var.set(7)
    assert [call.result() for call in calls] == list(range(6))
    var.reset(before)


def test_each_call_has_greenlet_local_data_of_its_own(tasks):
    with patcher.patched():
        local = threading.local()

        def call():
            clean = not hasattr(local, "mark")
            local.mark = True
            return clean

        assert all(tasks.submit(call).result() for _ in range(5))


def test_a_task_that_is_killed_in_its_call_ends_it(tasks):
    future = tasks.submit(Event().wait)
    settle()
    [task] = current.loop.tasks()
    task.kill()
    with pytest.raises(TaskExit):
        future.result()
    assert tasks.submit(int, "5").result() == 5


def test_a_task_that_is_killed_before_its_call_cancels_it(tasks):
    calls = [tasks.submit(int, n) for n in range(6)]
    for task in current.loop.tasks():
        task.kill()
    assert [call.get(return_exception=True) for call in calls[2:]] == [2, 3, 4, 5]
    assert [call.cancelled() for call in calls[:2]] == [True, True]
    assert wait(calls, 30).not_done == set()


def test_a_call_that_waits_for_itself_is_a_deadlock(tasks):
    futures = []
    futures.append(tasks.submit(lambda: futures[0].result()))
    with pytest.raises(Deadlock):
        futures[0].result()
    for task in current.loop.tasks():
        task.kill()


def test_a_pool_needs_a_loop():
    with pytest.raises(RuntimeError):
        in_thread(TaskPoolExecutor, 1)


def test_calls_run_in_the_loop_of_who_made_the_pool(hub, tasks):
    outcome = []

    def elsewhere():
        loop = EventLoop()
        outcome.append(
            [spawn(lambda: tasks.submit(lambda: current.loop).result()).result() for _ in range(3)]
        )
        loop.destroy()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    while thread.is_alive():
        sleep(0.001)
    assert outcome == [[hub] * 3]


def test_a_loop_that_is_destroyed_takes_its_pools_along():
    out = output_of(
        """
        import evergreen, threading
        from evergreen import futures
        loop = evergreen.EventLoop()
        pool = futures.TaskPoolExecutor(2)
        calls = [pool.submit(evergreen.sleep, 1000) for _ in range(500)]
        evergreen.sleep(0)
        loop.destroy()
        print([type(call.exception(0)).__name__ for call in calls[:2]])
        print(all(call.cancelled for call in calls[2:]))
        try:
            pool.submit(int)
        except RuntimeError as exc:
            print(exc)
        """
    )
    assert out == "['TaskExit', 'TaskExit']\nTrue\ncannot schedule new futures after shutdown\n"


def test_a_forked_child_begins_with_an_empty_pool():
    out = output_of(
        """
        import evergreen, os, time
        from evergreen import futures
        tasks, threads = futures.TaskPoolExecutor(1), futures.ThreadPoolExecutor(1)
        calls = [pool.submit(evergreen.sleep if pool is tasks else time.sleep, 0.05)
                 for pool in (tasks, threads) for _ in range(2)]
        evergreen.sleep(0)
        if os.fork() == 0:
            print([pool.submit(int, "4").result(10) for pool in (tasks, threads)], flush=True)
            tasks.shutdown(), threads.shutdown()
            os._exit(0)
        os.wait()
        print(futures.wait(calls, 10).not_done)
        """,
        options=["-W", "ignore::DeprecationWarning"],  # 3.12: there are threads
    )
    assert out == "[4, 4]\nset()\n"


# ---- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("patched", [False, True])
def test_the_threads_are_native_and_named(hub, patched):
    ident = patcher.original("_thread").get_ident
    with patcher.patched() if patched else ThreadPoolExecutor(1):
        with ThreadPoolExecutor(2, thread_name_prefix="digger") as pool:
            idents, names = zip(
                *pool.map(lambda _: (ident(), threading.current_thread().name), range(20)), strict=True
            )
    assert ident() not in idents
    assert set(names) <= {"digger_0", "digger_1"}


def test_an_idle_thread_is_used_again(threads):
    for _ in range(20):
        threads.submit(int).result()
        sleep(0.001)
    assert len(threads._threads) == 1


def test_an_initializer_runs_first_in_each_thread(hub):
    local = threading.local()

    def initialize(value):
        local.value = value

    with ThreadPoolExecutor(3, initializer=initialize, initargs=("set",)) as pool:
        assert set(pool.map(lambda _: (time.sleep(0.001), local.value)[1], range(10))) == {"set"}
    with pytest.raises(TypeError, match="initializer must be a callable"):
        ThreadPoolExecutor(1, initializer=5)


def test_a_failing_initializer_breaks_the_pool(hub, caplog):
    gate = threading.Event()
    with ThreadPoolExecutor(2, initializer=lambda: (gate.wait(), boom())) as pool:
        calls = [pool.submit(int) for _ in range(5)]
        gate.set()
        for call in calls:
            with pytest.raises(BrokenExecutor, match="initializer failed"):
                call.result()
        with pytest.raises(BrokenExecutor):
            pool.submit(int)
        assert pool._broken
    assert "Exception in initializer" in caplog.text


def test_a_callback_of_the_loop_may_submit(hub):
    with patcher.patched(), ThreadPoolExecutor(1) as pool:
        got = []
        hub.call_soon(lambda: got.append(pool.submit(int, "8")))
        sleep(0)
        assert got[0].result() == 8


def test_a_wait_for_a_thread_is_no_deadlock(hub):
    pool = ThreadPoolExecutor(1)
    future = in_thread(pool.submit, time.sleep, 0.3)  # a native thread that has ended meanwhile
    assert future.result() is None
    slow = in_thread(pool.submit, time.sleep, 0.3)
    assert wait([slow]).done == {slow}
    slow = in_thread(pool.submit, time.sleep, 0.3)
    pool.shutdown()
    assert slow.done


def test_waiting_for_what_no_idle_thread_will_complete_is_a_deadlock(threads):
    threads.submit(int).result()
    with pytest.raises(Deadlock):
        Future().result()


def test_a_pool_that_can_start_no_thread_says_so(hub, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    gate, start = Event(), futures._native.start
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(futures._native, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.submit(int)
        monkeypatch.setattr(futures._native, "start", start)
        assert pool.submit(int, "5").result() == 5
        monkeypatch.setattr(futures._native, "start", refuse)
        nested = pool.submit(lambda: pool.submit(gate.wait, 30).result())
        with pytest.raises(RuntimeError, match="can't start new thread"):
            nested.result()
        gate.set()
        assert pool.submit(int, "6").result() == 6


def test_it_can_be_the_default_executor_of_asyncio(threads):
    import asyncio

    async def main():
        asyncio.get_running_loop().set_default_executor(threads)
        return await asyncio.gather(*(asyncio.to_thread(abs, -n) for n in range(10)))

    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(asyncio.run(main())))
    thread.start()
    while thread.is_alive():
        sleep(0.001)
    assert outcome == [list(range(10))]


def test_a_thread_of_a_pool_may_run_a_loop_of_its_own(threads):
    def with_tasks(n):
        return evergreen.run(lambda: sum(spawn(threads.submit(int, n).result).result() for _ in range(3)))

    assert list(threads.map(with_tasks, range(5))) == [0, 3, 6, 9, 12]


def test_threads_that_submit_and_shut_down_at_once_lose_nothing(hub):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for seed in range(30):
            rng = random.Random(seed)
            pool, taken = ThreadPoolExecutor(rng.randint(1, 3)), []

            def submit(pool=pool, taken=taken):
                try:
                    for n in range(20):
                        taken.append(pool.submit(int, n))
                except RuntimeError:
                    pass

            workers = [threading.Thread(target=submit) for _ in range(3)]
            for worker in workers:
                worker.start()
            if rng.random() < 0.5:
                sleep(0)
            pool.shutdown(wait=rng.random() < 0.5, cancel_futures=rng.random() < 0.3)
            for worker in workers:
                worker.join()
            assert wait(taken, 30).not_done == set()
            pool.shutdown()
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("patch", ["", "patcher.patch()"])
def test_the_interpreter_makes_the_calls_that_were_submitted_before_it_ends(patch):
    out = output_of(
        f"""
        import time, evergreen
        from evergreen import futures, patcher
        {patch}
        pool = futures.ThreadPoolExecutor(2)
        for n in range(3):
            pool.submit(lambda n=n: (time.sleep(0.02 * n), print(n, flush=True)))
        if {bool(patch)}:
            evergreen.spawn(evergreen.sleep, 0.001)
        """
    )
    assert sorted(out.split()) == ["0", "1", "2"]


# ---- processes -----------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["plain", "patched"])
def processes(request, hub):
    """A pool of two processes, with nothing and with everything patched."""
    if request.param:
        with patcher.patched(), ProcessPoolExecutor(2) as pool:
            yield pool
    else:
        with ProcessPoolExecutor(2) as pool:
            yield pool


def test_calls_are_made_in_other_processes(processes):
    pids = set(processes.map(pid_of, range(10)))
    assert os.getpid() not in pids and 1 <= len(pids) <= 2
    future = processes.submit(boom, "there")
    with pytest.raises(Boom, match="there") as caught:
        future.result()
    assert "boom" in str(caught.value.__cause__)  # the traceback of over there


def test_tasks_run_while_one_waits_for_a_process(hub, processes):
    in_worker(hub, lambda: processes.submit(time.sleep, 0.05).result())
    in_worker(hub, lambda: list(processes.map(time.sleep, [0.02] * 4, chunksize=2)))
    in_worker(hub, lambda: wait([processes.submit(time.sleep, 0.02)]))
    processes.submit(time.sleep, 0.02)
    in_worker(hub, processes.shutdown)


def test_many_tasks_share_a_pool_of_processes(processes):
    tasks = [spawn(lambda n=n: processes.submit(pow, n, 2).result()) for n in range(200)]
    assert [task.result() for task in tasks] == [n * n for n in range(200)]


def test_a_call_for_a_process_can_be_cancelled_until_it_is_sent(processes):
    running = processes.submit(time.sleep, 0.05)
    calls = [processes.submit(int) for _ in range(20)]
    while not running.running():
        sleep(0.001)
    assert running.cancel() is False
    assert calls[-1].cancel() is True
    assert wait(calls).not_done == set()
    assert [call.cancelled() for call in calls][-1] is True


def test_a_process_that_dies_breaks_the_pool(processes):
    future = processes.submit(os._exit, 3)
    with pytest.raises(BrokenExecutor):
        future.result()
    with pytest.raises(BrokenExecutor):
        processes.submit(int).result()


def test_after_shutdown_a_pool_of_processes_takes_no_call(processes):
    assert processes.submit(int, "3").result() == 3
    processes.shutdown(cancel_futures=True)
    with pytest.raises(RuntimeError, match="after shutdown"):
        processes.submit(int)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("patch", ["", "patcher.patch()"])
def test_a_program_with_a_pool_of_processes_ends(method, patch, tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(
        f"""
import multiprocessing, os, time
import evergreen
from evergreen import futures, patcher
{patch}

def initialize(value):
    global given
    given = value

def square(n):
    time.sleep(0.001)
    return given, n * n

def main():
    context = multiprocessing.get_context({method!r})
    pool = futures.ProcessPoolExecutor(2, context, initializer=initialize, initargs=("given",))
    tasks = [evergreen.spawn(pool.submit, square, n) for n in range(4)]
    print([task.result().result() for task in tasks])
    return pool  # which is not shut down

if __name__ == "__main__":
    pool = evergreen.run(main)
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[('given', 0), ('given', 1), ('given', 4), ('given', 9)]\n"


def test_a_forked_child_does_not_wait_for_the_processes_of_its_parent():
    out = output_of(
        """
        import os, time
        from evergreen import futures
        pool = futures.ProcessPoolExecutor(1)
        future = pool.submit(time.sleep, 0.05)
        if os.fork() == 0:
            futures._process._at_exit()
            pool.shutdown()
            print("child", flush=True)
            os._exit(0)  # multiprocessing would try to join them
        else:
            os.wait()
            print(future.result())
        """,
        options=["-W", "ignore::DeprecationWarning"],  # 3.12: there are threads
    )
    assert out == "child\nNone\n"


# ---- executors of others -------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["plain", "patched"])
def adapted(request, hub):
    if request.param:
        with patcher.patched(), adapt(concurrent.futures.ThreadPoolExecutor(2)) as executor:
            yield executor
    else:
        with adapt(concurrent.futures.ThreadPoolExecutor(2)) as executor:
            yield executor


def test_an_adapted_executor_lets_other_tasks_run(hub, adapted):
    native_sleep = patcher.original("time").sleep
    future = adapted.submit(native_sleep, 0.01)
    assert isinstance(future, Future)
    in_worker(hub, future.result)
    assert in_worker(hub, lambda: list(adapted.map(lambda n: (native_sleep(0.005), n)[1], range(3)))) == [
        0,
        1,
        2,
    ]
    adapted.submit(native_sleep, 0.01)
    in_worker(hub, adapted.shutdown)


def test_an_adapted_executor_tells_what_its_calls_did(adapted):
    assert adapted.submit(pow, 2, 3).result() == 8
    with pytest.raises(Boom):
        adapted.submit(boom).result()
    assert adapted._max_workers == 2
    assert "adapt(<concurrent.futures.thread.ThreadPoolExecutor" in repr(adapted)


def test_a_cancel_reaches_the_adapted_executor(adapted):
    gate, made = threading.Event(), []
    wait_natively = patcher.original("time").sleep

    def hold():
        while not gate.is_set():
            wait_natively(0.001)

    running = [adapted.submit(hold) for _ in range(2)]
    while not all(future.running() for future in running):
        sleep(0.001)
    assert "running" in repr(running[0])
    victim = adapted.submit(made.append, 1)
    assert running[0].cancel() is False
    assert victim.cancel() is True
    with pytest.raises(CancelledError):
        victim.result()
    gate.set()
    wait(running)
    adapted.shutdown()
    assert made == []


def test_what_the_adapted_executor_cancels_is_cancelled(hub):
    theirs = concurrent.futures.ThreadPoolExecutor(1)
    executor, gate = adapt(theirs), threading.Event()
    running, queued = executor.submit(gate.wait, 30), executor.submit(int)
    waiter = spawn(wait, [queued])
    settle()
    executor.shutdown(wait=False, cancel_futures=True)
    assert waiter.result().done == {queued}
    assert queued.cancelled()
    gate.set()
    assert running.result() is True


def test_an_adapted_map_makes_chunks(hub):
    class Counting(concurrent.futures.Executor):
        def __init__(self):
            self.calls = []

        def submit(self, fn, /, *args, **kwargs):
            self.calls.append(args)
            future = concurrent.futures.Future()
            future.set_result(fn(*args, **kwargs))
            return future

    theirs = Counting()
    assert list(adapt(theirs).map(pow, range(7), [2] * 7, chunksize=3)) == [n * n for n in range(7)]
    assert len(theirs.calls) == 3
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        adapt(theirs).map(abs, [], chunksize=0)


def test_adapt_leaves_evergreens_own_as_they_are(tasks, threads):
    assert adapt(tasks) is tasks
    assert adapt(threads) is threads


@pytest.mark.parametrize("bad", [None, 5, Channel])
def test_adapt_wants_an_executor(bad):
    with pytest.raises(TypeError, match=r"takes an executor, which has a submit\(\) method"):
        adapt(bad)


def test_a_call_that_finds_no_memory_for_its_task_leaves_its_place(hub, monkeypatch):
    def refuse(*args):
        raise MemoryError

    with TaskPoolExecutor(1) as executor:
        with monkeypatch.context() as patch:
            patch.setattr("evergreen._evergreen_c.spawn", refuse)
            with pytest.raises(MemoryError):
                executor.submit(abs, -1)
        assert executor.submit(abs, -2).result(5) == 2
