"""future.c: states, outcomes, and who is told of them."""

import concurrent.futures
import gc
import logging
import pickle
import random
import sys
import threading
import weakref

import pytest
from helpers import Boom, in_thread, output_of, settle

import evergreen
from evergreen import Deadlock, EventLoop, TaskExit, patcher, sleep, spawn
from evergreen.futures import CancelledError, Future, InvalidStateError, TimeoutError
from evergreen.timeout import Timeout


@pytest.fixture
def future(hub):
    return Future()


def failed(exc):
    future = Future()
    future.set_exception(exc)
    return future


# ---- what it is ----------------------------------------------------------------------------------


def test_it_is_a_future_of_the_standard_library(future):
    assert isinstance(future, concurrent.futures.Future)
    assert Future[int]


def test_it_takes_no_arguments():
    with pytest.raises(TypeError, match=r"Future\(\) takes no arguments"):
        Future(1)


def test_its_repr_tells_the_state(future):
    assert repr(future) == f"<Future at {id(future):#x} state=pending>"
    assert future.set_running_or_notify_cancel() is True
    assert repr(future).endswith(" state=running>")
    future.set_result(4)
    assert repr(future).endswith(" state=finished returned int>")
    assert repr(failed(Boom())).endswith(" state=finished raised Boom>")
    other = Future()
    other.cancel()
    assert repr(other).endswith(" state=cancelled>")


def test_done_and_cancelled_are_answers_and_functions(future):
    assert not future.done and not future.cancelled
    assert future.done() is False and future.cancelled() is False
    future.set_result(None)
    assert future.done and future.done() is True
    assert not future.cancelled
    other = Future()
    other.cancel()
    assert other.done and other.cancelled and other.cancelled() is True


def test_an_answer_behaves_like_a_bool(future):
    assert (future.done, repr(future.done), str(future.done)) == (False, "False", "False")
    assert pickle.loads(pickle.dumps(future.done)) is False
    with pytest.raises(TypeError, match="take no arguments"):
        future.done(1)


def test_it_cannot_be_pickled(future):
    with pytest.raises(TypeError):
        pickle.dumps(future)


# ---- outcomes ------------------------------------------------------------------------------------


def test_a_result_is_got_again_and_again(future):
    future.set_result([1])
    assert future.result() == future.get() == future.result(timeout=0) == [1]
    assert future.exception() is None


def test_an_exception_is_raised_with_its_traceback():
    def fail():
        raise Boom("there")

    try:
        fail()
    except Boom as exc:
        future = failed(exc)
    with pytest.raises(Boom, match="there") as caught:
        future.result()
    assert "fail" in [entry.name for entry in caught.traceback]
    assert future.exception() is caught.value
    with pytest.raises(Boom):
        future.get()


def test_get_can_return_the_exception(hub):
    exc = Boom()
    assert failed(exc).get(return_exception=True) is exc
    assert failed(exc).get(None, True) is exc
    with pytest.raises(CancelledError):
        future = Future()
        future.cancel()
        future.get(return_exception=True)


def test_set_exception_wants_an_exception(future):
    with pytest.raises(TypeError, match="takes an exception, not 5"):
        future.set_exception(5)
    assert not future.done
    future.set_exception(None)  # as in the standard library: a result of None
    assert future.result() is None


def test_it_is_completed_once(future):
    future.set_result(1)
    with pytest.raises(InvalidStateError, match="FINISHED: <Future at .* state=finished returned int>"):
        future.set_result(2)
    with pytest.raises(InvalidStateError):
        future.set_exception(Boom())
    assert future.result() == 1


def test_a_cancelled_one_cannot_be_completed(future):
    assert future.cancel() is True
    with pytest.raises(InvalidStateError, match="CANCELLED"):
        future.set_result(1)
    with pytest.raises(CancelledError):
        future.result()
    with pytest.raises(CancelledError):
        future.exception()


def test_the_states_of_a_call(future):
    assert future.set_running_or_notify_cancel() is True
    assert future.running() is True
    assert future.cancel() is False
    with pytest.raises(RuntimeError, match="unexpected state: RUNNING"):
        future.set_running_or_notify_cancel()
    future.set_result(1)
    assert future.running() is False
    assert future.cancel() is False


def test_the_states_of_a_cancelled_call(future):
    assert future.cancel() is True
    assert future.cancel() is True
    assert future.set_running_or_notify_cancel() is False
    assert future._state == "CANCELLED_AND_NOTIFIED"
    assert future.cancel() is True


@pytest.mark.parametrize("method", ["result", "exception", "get"])
def test_bad_arguments_of_a_wait(future, method):
    with pytest.raises(TypeError):
        getattr(future, method)(1, False, 3)
    with pytest.raises(TypeError):
        getattr(future, method)(patience=3)
    with pytest.raises(TypeError):
        getattr(future, method)("soon")
    with pytest.raises(ValueError):
        getattr(future, method)(float("nan"))


# ---- waiting -------------------------------------------------------------------------------------


def test_a_task_waits_while_others_run(future):
    order = []
    task = spawn(lambda: order.append(future.result()))
    spawn(order.append, "other")
    settle()
    assert order == ["other"]
    assert task.waiting[:2] == ("future", future)
    future.set_result("result")
    task.join()
    assert order == ["other", "result"]


def test_every_waiter_is_woken_in_order(future):
    order = []
    tasks = [spawn(lambda n=n: order.append((n, future.get()))) for n in range(5)]
    settle()
    future.set_result("x")
    for task in tasks:
        task.join()
    assert order == [(n, "x") for n in range(5)]


def test_a_wait_can_end_in_time(future):
    for wait in (future.result, future.exception, future.get):
        for timeout in (0.002, 0, -1):
            with pytest.raises(TimeoutError):
                wait(timeout=timeout)
    assert not future.done
    future.set_result(1)
    assert future.result(0) == 1


def test_a_cancel_wakes_the_waiters(future):
    task = spawn(future.result)
    settle()
    future.cancel()
    with pytest.raises(CancelledError):
        task.result()


@pytest.mark.parametrize("make", [lambda: TaskExit, lambda: Boom("killed")], ids=["type", "instance"])
def test_a_killed_waiter_leaves_the_future_usable(future, make):
    exc = make()
    victim, other = spawn(future.result), spawn(future.result)
    settle()
    victim.kill(exc)
    with pytest.raises(type(exc) if isinstance(exc, Exception) else exc):
        victim.result()
    assert not future.done
    future.set_result(5)
    assert other.result() == future.result() == 5


def test_a_timeout_around_a_wait(future):
    with pytest.raises(Timeout):
        with Timeout(0.002):
            future.result()
    future.set_result(1)
    assert future.result() == 1


def test_waiting_for_what_nobody_completes_is_a_deadlock(future):
    with pytest.raises(Deadlock, match="waits for future"):
        future.result()


def test_a_native_thread_completes_it(future):
    thread = threading.Thread(target=lambda: future.set_result("from a thread"))
    task = spawn(future.result)
    settle()
    thread.start()
    assert task.result() == "from a thread"
    thread.join()


def test_a_native_thread_waits_for_it(future):
    got, waits = [], threading.Event()

    def wait():
        waits.set()
        got.append(future.result(30))

    thread = threading.Thread(target=wait)
    thread.start()
    waits.wait(30)
    assert got == []
    future.set_result(7)
    thread.join(30)
    assert got == [7]


def test_a_wait_in_a_native_thread_can_end_in_time(future):
    def wait():
        with pytest.raises(TimeoutError):
            future.result(0.002)

    in_thread(wait)


def test_a_loop_of_another_thread_waits_for_it(future):
    started, got = threading.Event(), []

    def wait():
        loop = EventLoop()
        spawn(lambda: (started.set(), got.append(future.result())))
        loop.run()
        loop.destroy()

    thread = threading.Thread(target=wait)
    thread.start()
    started.wait(30)
    sleep(0.002)
    future.set_result("over there")
    thread.join(30)
    assert got == ["over there"]


def test_a_callback_of_the_loop_may_not_wait(hub, future):
    failed = []

    def callback():
        try:
            future.result()
        except RuntimeError as exc:
            failed.append(str(exc))

    hub.call_soon(callback)
    sleep(0)
    assert "would block the event loop" in failed[0]
    hub.call_soon(future.set_result, 1)
    assert future.result() == 1


# ---- callbacks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "complete", [lambda f: f.set_result(1), lambda f: f.set_exception(Boom()), Future.cancel]
)
def test_callbacks_are_called_once_in_order_and_with_the_future(future, complete):
    calls = []
    for name in "abc":
        future.add_done_callback(lambda f, name=name: calls.append((name, f)))
    complete(future)
    assert calls == [("a", future), ("b", future), ("c", future)]
    future._invoke_callbacks()
    assert len(calls) == 3
    future.add_done_callback(lambda f: calls.append("late"))
    assert calls[3:] == ["late"]


def test_callbacks_run_in_the_thread_that_completes(future):
    where = []
    future.add_done_callback(lambda f: where.append(threading.get_ident()))
    ident = in_thread(lambda: (future.set_result(1), threading.get_ident())[1])
    assert where == [ident]


def test_a_failing_callback_is_logged_and_the_others_are_called(future, caplog):
    calls = []

    def fail(future):
        raise Boom("in a callback")

    future.add_done_callback(fail)
    future.add_done_callback(calls.append)
    future.set_result(1)
    future.add_done_callback(fail)
    assert calls == [future]
    assert [record.name for record in caplog.records] == ["concurrent.futures"] * 2
    assert "exception calling callback for <Future" in caplog.text
    assert "Boom: in a callback" in caplog.text


def test_what_is_no_exception_comes_out_of_a_callback_after_the_others(future):
    calls = []

    def leave(future):
        raise SystemExit(3)

    future.add_done_callback(leave)
    future.add_done_callback(calls.append)
    with pytest.raises(SystemExit):
        future.set_result(1)
    assert calls == [future]
    assert future.result() == 1


def test_a_waiter_that_a_callback_keeps_waiting_does_not_wait_for_the_callback(future):
    gate, order = evergreen.Channel(), []
    future.add_done_callback(lambda f: (gate.receive(), order.append("callback")))
    waiter = spawn(lambda: order.append(future.result()))
    settle()
    setter = spawn(future.set_result, "result")
    settle()
    assert order == ["result"]
    gate.send(None)
    setter.join()
    waiter.join()
    assert order == ["result", "callback"]


def test_a_callback_may_complete_or_add_to_futures(future):
    other, calls = Future(), []
    future.add_done_callback(lambda f: (f.add_done_callback(calls.append), other.set_result(f.result() + 1)))
    future.set_result(1)
    assert (other.result(), calls) == (2, [future])


# ---- the standard library's view -----------------------------------------------------------------


def test_the_condition_is_made_when_it_is_asked_for_and_stays(future):
    condition = future._condition
    assert condition is future._condition
    with condition:
        future.set_result(1)  # whoever holds it may
    assert future.result() == 1


def test_a_completion_waits_for_who_holds_the_condition(hub):
    future, held, gate, done = Future(), threading.Event(), threading.Event(), []

    def hold():
        with future._condition:
            held.set()
            gate.wait(30)
            done.append(future.done())

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    completer = threading.Thread(target=future.set_result, args=(1,))
    completer.start()
    sleep(0.005)
    gate.set()
    completer.join(30)
    thread.join(30)
    assert (done, future.result()) == ([False], 1)


def test_the_standard_librarys_wait_takes_it(future):
    other = Future()
    loop = evergreen.current.loop
    loop.call_later(0.002, future.set_result, 1)
    loop.call_later(0.003, other.set_exception, Boom())

    def wait():
        done, not_done = concurrent.futures.wait([future, other, Future()], 30, "FIRST_EXCEPTION")
        return done, len(not_done)

    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(wait()))
    thread.start()
    while not outcome:
        sleep(0.001)
    thread.join()
    assert outcome == [({future, other}, 1)]
    assert future._waiters == []


def test_the_standard_librarys_as_completed_takes_it_in_a_patched_task(hub):
    futures = [Future() for _ in range(5)]
    with patcher.patched():
        seen = []
        task = spawn(lambda: seen.extend(concurrent.futures.as_completed(futures)))
        settle()
        for future in reversed(futures):
            future.set_result(1)
            settle()
        task.result()
    assert seen == futures[::-1]


def test_asyncio_waits_for_it(hub):
    import asyncio

    future = Future()
    hub.call_later(0.002, future.set_result, "there")

    async def main():
        return await asyncio.wrap_future(future)

    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(asyncio.run(main())))
    thread.start()
    while not outcome:
        sleep(0.001)
    thread.join()
    assert outcome == ["there"]


def test_asyncio_can_take_a_snapshot_of_it(future):
    assert future._get_snapshot() == (False, False, None, None)
    exc = Boom()
    assert failed(exc)._get_snapshot() == (True, False, None, exc)
    future.cancel()
    assert future._get_snapshot() == (True, True, None, None)


def test_bad_states_are_refused(future):
    for bad in ("DONE", None, 5):
        with pytest.raises(ValueError, match="_state cannot be"):
            future._state = bad
    with pytest.raises(TypeError, match="_exception cannot be 5"):
        future._exception = 5


# ---- memory --------------------------------------------------------------------------------------


class Thing:
    pass


def test_a_future_lets_go_of_everything():
    future, thing = Future(), Thing()
    refs = [weakref.ref(future), weakref.ref(thing)]
    future.add_done_callback(lambda f, thing=thing: None)
    future.set_result(thing)
    del thing, future
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_the_collector_finds_a_cycle_through_a_future():
    future = Future()
    ref = weakref.ref(future)
    future.add_done_callback(lambda f, own=future: None)
    future._waiters.append(future)
    future._condition.future = future
    del future
    gc.collect()
    assert ref() is None


def test_raising_makes_no_cycle():
    def wait():
        future, thing = failed(Boom()), Thing()
        ref = weakref.ref(thing)
        try:
            future.result()
        except Boom:
            del future, thing
        return ref

    gc.collect()
    gc.disable()
    try:
        assert wait()() is None
    finally:
        gc.enable()


def test_pins_of_a_parent_are_not_those_of_a_forked_child():
    out = output_of(
        """
        import os
        import evergreen
        from evergreen.futures import Future
        future = Future()
        loop = evergreen.EventLoop()
        future._from_outside()
        print(loop.stats()["pins"], flush=True)
        if os.fork() == 0:
            before = loop.stats()["pins"]
            other = Future()
            other._from_outside()
            future.set_result(1)
            print(before, loop.stats()["pins"], flush=True)
            os._exit(0)
        os.wait()
        future.set_result(1)
        print(loop.stats()["pins"])
        """
    )
    assert out == "1\n0 1\n0\n"


# ---- races ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_threads_and_tasks_that_race_for_a_future_agree(hub, seed):
    rng = random.Random(seed)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            race(rng)
    finally:
        sys.setswitchinterval(interval)


def race(rng):
    """Some complete, some cancel, some begin, some wait, some are killed: there is one outcome."""
    future, told, winners, outcomes = Future(), [], [], []
    future.add_done_callback(told.append)
    if rng.random() < 0.5:
        future._condition  # noqa: B018  # from now on completions take hold of it

    def complete(value):
        try:
            future.set_result(value)
            winners.append(value)
        except InvalidStateError:
            pass

    def cancel():
        if future.cancel() and not future._state == "FINISHED":
            outcomes.append("cancelled")

    def begin():
        try:
            future.set_running_or_notify_cancel()
        except RuntimeError:
            pass

    def wait():
        try:
            outcomes.append(future.result(20))
        except CancelledError:
            outcomes.append("cancelled")

    actions = [lambda n=n: complete(n) for n in range(2)] + [cancel, begin, wait, wait]
    rng.shuffle(actions)
    threads, tasks = [], [spawn(wait) for _ in range(2)]
    victim = spawn(wait)
    for action in actions:
        if rng.random() < 0.5:
            threads.append(threading.Thread(target=action))
            threads[-1].start()
        else:
            tasks.append(spawn(action))
        if rng.random() < 0.3:
            sleep(0)
        if rng.random() < 0.3:
            victim.kill()
    for task in tasks:
        task.join()
    for thread in threads:
        while thread.is_alive():
            sleep(0)
    victim.join()
    assert told == [future]
    assert len(winners) <= 1
    expected = winners[0] if winners else "cancelled"
    assert set(outcomes) == {expected}, (winners, outcomes)


def test_logging_is_the_standard_librarys():
    assert logging.getLogger("concurrent.futures") is concurrent.futures._base.LOGGER
