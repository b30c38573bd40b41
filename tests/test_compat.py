"""The interface of Evergreen 0.2: programs written for it run unchanged."""

import os
import queue
import signal
import threading
import time

import pytest
from helpers import native_sleep

import evergreen
from evergreen.event import Event
from evergreen.timeout import Timeout

# ---- tasks ---------------------------------------------------------------------------------------


def test_a_task_object_runs_its_target_when_the_loop_runs(hub):
    called = []
    task = evergreen.Task(target=called.append, args=(1,))
    task.start()
    assert called == []
    hub.run()
    assert called == [1]


def test_spawned_tasks_run_in_order_when_the_loop_runs(hub):
    called = []
    for number in range(5):
        evergreen.spawn(called.append, number)
    hub.run()
    assert called == [0, 1, 2, 3, 4]


def test_yielding_tasks_take_turns(hub):
    called = []

    def turn(number):
        called.append(number)
        evergreen.sleep(0)
        called.append(number)

    for number in (1, 2, 3):
        evergreen.spawn(turn, number)
    hub.run()
    assert called == [1, 2, 3, 1, 2, 3]


def test_a_killed_task_does_not_run_and_can_be_joined(hub):
    called, joined = [], []
    task = evergreen.spawn(called.append, 1)
    task.kill()
    evergreen.spawn(lambda: joined.append(task.join()))
    hub.run()
    assert called == []
    assert joined == [True]


def test_a_running_task_is_killed_where_it_yields(hub):
    called = []

    def victim():
        evergreen.sleep(0)
        called.append(1)
        evergreen.sleep(0)
        called.append(2)

    task = evergreen.spawn(victim)
    evergreen.spawn(task.kill)
    hub.run()
    assert called in ([], [1])
    assert not task.is_alive()


def test_the_decorator_spawns(hub):
    called = []

    @evergreen.task
    def work(value):
        called.append(value)

    work("x")
    hub.run()
    assert called == ["x"]


def test_a_subclass_overrides_run(hub):
    class MyTask(evergreen.Task):
        called = False

        def run(self):
            self.called = True

    task = MyTask()
    task.start()
    hub.run()
    assert task.called


def test_join_says_whether_the_task_has_ended(hub):
    joined = []
    sleeper = evergreen.spawn(evergreen.sleep, 0.005)
    long = evergreen.spawn(evergreen.sleep, 100)
    evergreen.spawn(lambda: joined.append(sleeper.join()))

    def impatient():
        joined.append(long.join(0.001))
        long.kill()

    evergreen.spawn(impatient)
    hub.run()
    assert sorted(joined) == [False, True]


def test_switch_and_throw_of_another_task_are_runtime_errors(hub):
    seen = []
    victim = evergreen.spawn(lambda: (evergreen.sleep(0), evergreen.sleep(0)))

    def attacker():
        for attack in (victim.switch, victim.throw):
            with pytest.raises(RuntimeError):
                attack()
            seen.append(attack)

    evergreen.spawn(attacker)
    hub.run()
    assert len(seen) == 2


def test_join_before_start_is_a_runtime_error(hub):
    task = evergreen.Task()
    with pytest.raises(RuntimeError):
        task.join()
    hub.run()


def test_sleep_sleeps(hub):
    before = time.monotonic()
    evergreen.spawn(evergreen.sleep, 0.01)
    hub.run()
    assert 0.01 <= time.monotonic() - before < 5


def test_an_exception_of_a_task_does_not_stop_the_loop(hub, capsys):
    hook, hub.excepthook = hub.excepthook, None
    called = []
    evergreen.spawn(int, "x")
    evergreen.spawn(called.append, 1)
    hub.run()
    hub.excepthook = hook
    assert called == [1]
    assert "ValueError" in capsys.readouterr().err


def test_the_current_task_is_known(hub):
    seen = []
    task = evergreen.spawn(lambda: seen.append((evergreen.current.task, evergreen.Task.current())))
    hub.run()
    assert seen == [(task, task)]


# ---- the loop ------------------------------------------------------------------------------------


def test_current_makes_a_loop_and_destroy_ends_it(hub):
    hub.destroy()
    first = evergreen.current.loop
    first.destroy()
    with pytest.raises(RuntimeError):
        first.destroy()
    second = evergreen.EventLoop()
    assert evergreen.current.loop is second is not first
    second.destroy()


def test_a_loop_is_destroyed_by_its_own_thread_only(hub):
    loops = queue.Queue()

    def thread():
        loop = evergreen.EventLoop()
        loops.put(loop)
        loop.run_forever()
        loop.destroy()

    native = threading.Thread(target=thread)
    native.start()
    loop = loops.get()
    with pytest.raises(RuntimeError):
        loop.destroy()
    loop.call_from_thread(loop.stop)
    native.join()
    assert loop.destroyed


def test_the_loops_task_is_dead_when_run_has_ended(hub):
    hub.run()
    assert not hub.task.is_alive()


def test_callbacks_now_later_and_at_a_time(hub):
    called = []
    hub.call_soon(called.append, "soon")
    hub.call_later(0.002, called.append, "later")
    hub.call_at(hub.time() + 0.004, called.append, "at")
    for call in (hub.call_soon, lambda *args: hub.call_later(0.001, *args)):
        call(called.append, "cancelled").cancel()
    hub.run()
    assert called == ["soon", "later", "at"]


def test_a_callback_cancels_another_that_is_due_with_it(hub):
    called = []
    hub.call_later(0.001, lambda: second.cancel())
    second = hub.call_later(0.001, called.append, "cancelled")
    hub.run()
    assert called == []


def test_a_handler_is_no_callback(hub):
    handler = hub.call_later(100, print)
    with pytest.raises(AssertionError):
        hub.call_later(1, handler)
    handler.cancel()


def test_stop_needs_a_running_loop_and_ends_run(hub):
    with pytest.raises(RuntimeError):
        hub.stop()
    late = hub.call_later(100, print)
    hub.call_later(0.001, hub.stop)
    before = hub.time()
    hub.run()
    assert hub.time() - before < 5
    late.cancel()


def test_run_forever_ends_when_another_thread_stops_it(hub):
    called = []

    def stop():
        called.append(True)
        hub.stop()

    native = threading.Thread(target=lambda: (native_sleep(0.01), hub.call_from_thread(stop)))
    native.start()
    hub.run_forever()
    native.join()
    assert called == [True]


def test_destroying_a_running_loop_is_a_runtime_error(hub):
    seen = []

    def destroy():
        evergreen.sleep(0.001)
        with pytest.raises(RuntimeError):
            hub.destroy()
        seen.append(True)

    evergreen.spawn(destroy)
    hub.run()
    assert seen == [True]


def test_the_loops_thread_pool_runs_calls_in_native_threads(hub):
    idents = []
    evergreen.spawn(lambda: idents.append(hub._threadpool.spawn(threading.get_ident).get()))
    hub.run()
    assert idents and idents[0] != threading.get_ident()


def test_a_signal_has_many_handlers_that_can_be_cancelled_or_removed(hub):
    called = []
    hub.add_signal_handler(signal.SIGALRM, called.append, "removed")
    assert hub.remove_signal_handler(signal.SIGALRM)
    hub.add_signal_handler(signal.SIGALRM, called.append, 1)
    hub.add_signal_handler(signal.SIGALRM, called.append, "cancelled").cancel()
    hub.add_signal_handler(signal.SIGALRM, called.append, 2)
    hub.add_signal_handler(signal.SIGALRM, hub.stop)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    hub.run_forever()
    assert called == [1, 2]
    hub.remove_signal_handler(signal.SIGALRM)


def test_readers_and_writers(hub):
    read, write = os.pipe()
    called = []

    def on_writable():
        os.write(write, b"x")
        hub.remove_writer(write)

    def on_readable():
        called.append(os.read(read, 10))
        hub.remove_reader(read)

    hub.add_writer(write, on_writable)
    hub.add_reader(read, on_readable)
    hub.run()
    assert called == [b"x"]
    os.close(read)
    os.close(write)


def test_a_task_waits_in_switch_for_a_callback(hub):
    seen = []

    def wait():
        me = evergreen.current.task
        hub.call_later(0.001, me.switch, "value")
        seen.append(hub.switch())

    evergreen.spawn(wait)
    hub.run()
    assert seen == ["value"]


# ---- channels ------------------------------------------------------------------------------------


def test_a_channel_carries_values_and_exceptions(hub):
    channel, seen = evergreen.Channel(), []

    def send():
        channel.send("test")
        channel.send_exception(RuntimeError)

    def receive():
        seen.append(channel.receive())
        with pytest.raises(RuntimeError):
            channel.receive()
        seen.append("raised")

    evergreen.spawn(send)
    evergreen.spawn(receive)
    hub.run()
    assert seen == ["test", "raised"]


def test_a_channel_is_iterated_until_stop_iteration(hub):
    channel, seen = evergreen.Channel(), []

    def first():
        channel.send("hello")

    def second():
        channel.send("world")
        channel.send_exception(StopIteration)

    evergreen.spawn(first)
    evergreen.spawn(second)
    evergreen.spawn(lambda: seen.extend(channel))
    hub.run()
    assert seen == ["hello", "world"]


def test_waiting_receivers_are_served_in_order(hub):
    channel, seen = evergreen.Channel(), []

    def send():
        channel.send("hello")
        channel.send("world")

    evergreen.spawn(send)
    for number in (1, 2):
        evergreen.spawn(lambda number=number: seen.append((number, channel.receive())))
    hub.run()
    assert seen == [(1, "hello"), (2, "world")]


# ---- events and timeouts -------------------------------------------------------------------------


def test_an_event_wakes_its_waiters(hub):
    event, seen = Event(), []

    def wait():
        seen.append(event.wait())
        event.clear()

    evergreen.spawn(wait)
    evergreen.spawn(event.set)
    hub.run()
    assert seen == [True]
    assert not event.is_set()


def test_an_event_that_comes_too_late(hub):
    event, seen = Event(), []
    evergreen.spawn(lambda: seen.append(event.wait(0.001)))
    hub.call_later(0.02, event.set)
    hub.run()
    assert seen == [False]
    assert event.is_set()


def test_a_killed_waiter_does_not_hold_up_an_event(hub):
    event = Event()
    task = evergreen.spawn(event.wait)
    evergreen.spawn(task.kill)
    evergreen.spawn(event.set)
    hub.run()
    assert event.is_set()


@pytest.mark.parametrize("seconds", [None, -1])
def test_a_timeout_that_never_expires(hub, seconds):
    done = []

    def work():
        with Timeout(seconds):
            evergreen.sleep(0.002)
        done.append(True)

    evergreen.spawn(work)
    hub.run()
    assert done == [True]


def test_a_timeout_raises_itself_or_another_exception(hub):
    raised = []

    def work(*args):
        try:
            with Timeout(0.001, *args):
                evergreen.sleep(100)
        except BaseException as exc:
            raised.append(type(exc))

    evergreen.spawn(work)
    evergreen.spawn(work, LookupError)
    hub.run()
    assert raised == [Timeout, LookupError]


def test_a_timeout_is_started_by_hand(hub):
    raised = []

    def work():
        timeout = Timeout(0.001)
        timeout.start()
        try:
            evergreen.sleep(100)
        except Timeout as exc:
            raised.append(exc is timeout)

    evergreen.spawn(work)
    hub.run()
    assert raised == [True]
