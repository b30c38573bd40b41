"""loop.c: EventLoop as Python sees it."""

import gc
import math
import os
import select
import threading
import time
import weakref

import pytest
from helpers import Boom, in_thread, native_sleep, output_of, pass_time, settle

import evergreen
from evergreen import Channel, Deadlock, EventLoop, Task, TaskExit, sleep, spawn
from evergreen.event import Event


def fail():
    raise Boom


# ---- one loop per thread -------------------------------------------------------------------------


def test_a_second_loop_in_a_thread_is_a_runtime_error(hub):
    with pytest.raises(RuntimeError, match="more than one"):
        EventLoop()
    assert EventLoop.current() is hub is evergreen.current.loop


def test_the_main_threads_loop_is_made_on_demand():
    output_of(
        """
        import evergreen
        from evergreen import _evergreen_c as core
        assert core.loop_here() is None
        loop = evergreen.current.loop
        assert core.loop_here() is loop
        loop.destroy()
        assert core.loop_here() is None
        assert evergreen.EventLoop.current() is not loop
        """
    )


def test_other_threads_make_their_loop_themselves(hub):
    def thread():
        with pytest.raises(RuntimeError, match="no event loop"):
            EventLoop.current()
        loop = EventLoop()
        assert EventLoop.current() is loop is not hub
        with pytest.raises(RuntimeError):
            EventLoop()
        loop.destroy()
        with pytest.raises(RuntimeError):
            EventLoop.current()
        EventLoop().destroy()

    in_thread(thread)


def test_event_loop_takes_no_arguments(hub):
    with pytest.raises(TypeError):
        in_thread(EventLoop, 1)


def test_event_loop_can_be_subclassed():
    class MyLoop(EventLoop):
        extra = 1

    def thread():
        loop = MyLoop()
        loop.attribute = 2
        assert evergreen.current.loop is loop
        assert spawn(lambda: evergreen.current.loop.attribute).result() == 2
        loop.destroy()

    in_thread(thread)


def test_a_loop_that_its_thread_leaves_is_destroyed_with_a_warning(hub):
    loops, ended = [], []

    def task():
        try:
            sleep(100)
        finally:
            ended.append(1)

    def thread():
        for _ in range(2):  # the first one is destroyed by hand
            loops.append(EventLoop())
            spawn(task)
            sleep(0)
            if len(loops) == 1:
                loops[0].destroy()
                ended.clear()

    before = len(os.listdir("/proc/self/fd"))
    with pytest.warns(ResourceWarning, match="not destroyed before its thread ended") as warned:
        in_thread(thread)
    assert len(warned) == 1
    assert ended == [1]
    assert [loop.destroyed for loop in loops] == [True, True]
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(RuntimeError, match="destroyed"):
        loops[1].call_from_thread(print)


def test_a_fork_in_another_thread_leaves_the_loop_of_the_child_alone(hub):
    """The dictionaries of the threads that are not in the child go: the guards of their loops, too."""
    made, leave = threading.Event(), threading.Event()

    def thread():
        evergreen.run(lambda: (made.set(), evergreen.offload(leave.wait)))

    other = threading.Thread(target=thread)
    other.start()
    made.wait()
    pid = os.fork()
    if not pid:
        task = spawn(sleep, 0)
        task.join()
        os._exit(7 if not hub.destroyed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    leave.set()
    other.join()


# ---- callbacks -----------------------------------------------------------------------------------


def test_call_soon_calls_in_order_with_arguments(hub):
    seen = []
    hub.call_soon(lambda *args, **kwargs: seen.append((args, kwargs)), 1, 2, key=3)
    hub.call_soon(seen.append, "second")
    assert seen == []
    settle()
    assert seen == [((1, 2), {"key": 3}), "second"]


def test_callbacks_and_tasks_share_one_queue(hub):
    order = []
    for number in range(3):
        spawn(order.append, ("task", number))
        hub.call_soon(order.append, ("callback", number))
    settle()
    assert order == [(kind, number) for number in range(3) for kind in ("task", "callback")]


def test_a_cancelled_callback_is_not_called(hub):
    seen = []
    handler = hub.call_soon(seen.append, 1)
    assert not handler.cancelled
    handler.cancel()
    handler.cancel()
    assert handler.cancelled
    settle()
    assert seen == []


def test_call_later_calls_in_the_order_of_their_times(hub):
    seen = []
    for milliseconds in (30, 10, 20):
        hub.call_later(milliseconds / 1000, seen.append, milliseconds)
    hub.run()
    assert seen == [10, 20, 30]


def test_call_later_calls_not_too_early(hub):
    before = hub.time()
    times = []
    for delay in (0.001, 0.0151, 0.003):
        hub.call_later(delay, lambda delay=delay: times.append((hub.time() - before) - delay))
    hub.run()
    assert len(times) == 3 and min(times) >= 0


def test_call_later_without_a_delay_is_call_soon(hub):
    seen = []
    for delay in (0, -1, -math.inf):
        hub.call_later(delay, seen.append, delay)
    settle()
    assert seen == [0, -1, -math.inf]


def test_call_later_for_ever_never_calls(hub):
    timer = hub.call_later(math.inf, fail)
    hub.run()
    timer.cancel()


def test_call_at_calls_at_that_time(hub):
    seen = []
    hub.call_at(hub.time() + 0.01, seen.append, "later")
    hub.call_at(hub.time() - 5, seen.append, "past")
    hub.run()
    assert seen == ["past", "later"]


def test_time_is_monotonic_time(hub):
    assert hub.time() == pytest.approx(time.monotonic(), abs=0.5)


def test_a_timer_can_cancel_another_that_is_due_with_it(hub):
    seen = []
    timers = []
    timers.append(hub.call_later(0.001, lambda: timers[1].cancel()))
    timers.append(hub.call_later(0.001, seen.append, "cancelled"))
    pass_time()
    hub.run()
    assert seen == []


def test_a_callback_may_cancel_itself(hub):
    timers = []
    timers.append(hub.call_later(0.001, lambda: timers[0].cancel()))
    hub.run()
    assert timers[0].cancelled


def test_call_from_thread_wakes_a_sleeping_loop(hub):
    event = Event()

    def thread():
        native_sleep(0.01)
        hub.call_from_thread(event.set)

    native = threading.Thread(target=thread)
    native.start()
    assert event.wait(30) is True
    native.join()


def test_call_later_from_another_thread_shortens_a_sleep(hub):
    event = Event()
    spawn(lambda: in_thread_later(lambda: hub.call_later(0.001, event.set)))

    def in_thread_later(function):
        threading.Thread(target=lambda: (native_sleep(0.01), function())).start()

    before = hub.time()
    assert event.wait(30) is True
    assert hub.time() - before < 10


@pytest.mark.parametrize(
    "call",
    [
        lambda hub: hub.call_soon(),
        lambda hub: hub.call_soon(1),
        lambda hub: hub.call_later(1),
        lambda hub: hub.call_later("1", print),
        lambda hub: hub.call_later(None, print),
        lambda hub: hub.call_at(hub.time(), None),
        lambda hub: hub.call_later(1, 1),
        lambda hub: hub.add_reader(0),
        lambda hub: hub.add_reader("x", print),
        lambda hub: hub.add_writer(0, None),
        lambda hub: hub.add_signal_handler(2),
        lambda hub: hub.add_signal_handler("2", print),
        lambda hub: hub.add_signal_handler(2, None),
        lambda hub: hub.remove_signal_handler(None),
        lambda hub: hub.run("x"),
        lambda hub: hub.run(1, 2),
        lambda hub: hub._pin("x"),
    ],
)
def test_bad_arguments_are_type_errors(hub, call):
    with pytest.raises(TypeError):
        call(hub)


def test_bad_values_are_value_errors(hub):
    for call in (
        lambda: hub.call_later(math.nan, print),
        lambda: hub.call_at(math.nan, print),
        lambda: hub.run(0),
        lambda: hub.run(99),
        lambda: hub.run(-1),
        lambda: hub.add_signal_handler(0, print),
        lambda: hub.add_signal_handler(1000, print),
        lambda: hub.remove_signal_handler(1000),
    ):
        with pytest.raises(ValueError):
            call()


def test_an_exception_in_a_callback_is_reported_and_the_loop_goes_on(hub):
    hook, reports, seen = hub.excepthook, [], []
    hub.excepthook = reports.append
    handler = hub.call_soon(fail)
    hub.call_soon(seen.append, 1)
    settle()
    hub.excepthook = hook
    assert seen == [1]
    assert [(report.exc_type, report.object) for report in reports] == [(Boom, handler)]


@pytest.mark.parametrize("make", [lambda: SystemExit(3), KeyboardInterrupt], ids=["exit", "interrupt"])
def test_exceptions_that_end_a_program_reach_main_from_a_callback(hub, make):
    exception = make()

    def leave():
        raise exception

    hub.call_soon(leave)
    with pytest.raises(type(exception)) as info:
        sleep(100)
    assert info.value is exception


def test_blocking_in_a_callback_is_a_runtime_error_and_the_loop_goes_on(hub):
    task = spawn(sleep, 100)
    channel, event = Channel(), Event()
    blocking = [
        lambda: sleep(0),
        lambda: sleep(1),
        event.wait,
        lambda: event.wait(1),
        channel.receive,
        lambda: channel.send(1),
        task.join,
        task.result,
        hub.switch,
        hub.run,
        hub.run_forever,
        lambda: hub.run(EventLoop.RUN_NOWAIT),
        hub.destroy,
    ]
    messages = []

    def block():
        for wait in blocking:
            try:
                wait()
            except RuntimeError as exc:
                messages.append(str(exc))

    hub.call_soon(block)
    settle()
    assert len(messages) == len(blocking)
    assert all("spawn a task" in message for message in messages[:8]), messages
    task.kill()
    assert task.join() is True
    assert spawn(lambda: (sleep(0.001), "well")[1]).result() == "well"


def test_what_does_not_block_may_be_called_in_a_callback(hub):
    event, channel, ended = Event(), Channel(), spawn(int)
    receiver = spawn(channel.receive)
    settle()
    seen = []

    def callback():
        event.set()
        seen.append(event.wait())
        seen.append(ended.join())
        seen.append(ended.result())
        channel.send("from a callback")
        seen.append(spawn(lambda: "spawned"))

    hub.call_soon(callback)
    assert receiver.result() == "from a callback"
    assert seen[:3] == [True, True, 0]
    assert seen[3].result() == "spawned"


# ---- run -----------------------------------------------------------------------------------------


def test_run_returns_when_nothing_is_left(hub):
    order = []
    spawn(lambda: (sleep(0.002), order.append("task")))
    hub.call_later(0.001, order.append, "timer")
    hub.run()
    assert order == ["timer", "task"]
    hub.run()


def test_run_waits_for_what_tasks_and_callbacks_start(hub):
    order = []

    def again(left):
        order.append(left)
        if left:
            hub.call_later(0.001, again, left - 1)
        else:
            spawn(lambda: (sleep(0.001), spawn(order.append, "end")))

    hub.call_soon(again, 3)
    hub.run()
    assert order == [3, 2, 1, 0, "end"]


def test_running_says_whether_the_loop_is_in_run(hub):
    seen = []
    assert hub.running is False
    hub.call_soon(lambda: seen.append(hub.running))
    hub.run()
    assert seen == [True]
    assert hub.running is False


def test_run_outside_the_main_greenlet_is_a_runtime_error(hub):
    def inside():
        for run in (hub.run, hub.run_forever):
            with pytest.raises(RuntimeError, match="main greenlet"):
                run()

    spawn(inside).result()
    with pytest.raises(RuntimeError):
        in_thread(hub.run)


def test_run_once_waits_for_one_thing(hub):
    order = []
    hub.call_later(0.001, order.append, 1)
    hub.call_later(0.05, order.append, 2)
    hub.run(EventLoop.RUN_ONCE)
    assert order == [1]
    hub.run(mode=EventLoop.RUN_ONCE)
    assert order == [1, 2]
    hub.run(EventLoop.RUN_ONCE)  # nothing to wait for: it returns


def test_run_once_runs_what_is_ready_without_waiting(hub):
    order = []
    timer = hub.call_later(100, order.append, "late")
    spawn(order.append, "ready")
    hub.run(EventLoop.RUN_ONCE)
    assert order == ["ready"]
    timer.cancel()


def test_run_nowait_waits_for_nothing(hub):
    order = []
    timer = hub.call_later(100, order.append, "late")
    hub.call_soon(order.append, "soon")
    spawn(order.append, "task")
    before = hub.time()
    hub.run(EventLoop.RUN_NOWAIT)
    hub.run(EventLoop.RUN_NOWAIT)
    assert hub.time() - before < 10
    assert order == ["soon", "task"]
    timer.cancel()


def test_run_nowait_sees_what_is_due(hub):
    order = []
    hub.call_later(0.001, order.append, "due")
    pass_time()
    hub.run(EventLoop.RUN_NOWAIT)
    assert order == ["due"]


def test_run_forever_runs_until_stop(hub):
    order = []
    hub.call_later(0.002, order.append, 1)
    hub.call_later(0.004, hub.stop)
    timer = hub.call_later(100, order.append, "late")
    hub.run_forever()
    assert order == [1]
    timer.cancel()


def test_run_forever_goes_on_without_anything_to_do_until_another_thread_stops_it(hub):
    def thread():
        native_sleep(0.02)
        hub.call_from_thread(hub.stop)

    native = threading.Thread(target=thread)
    native.start()
    hub.run_forever()
    native.join()


def test_the_mode_run_forever_is_run_forever(hub):
    hub.call_soon(hub.stop)
    hub.run(EventLoop.RUN_FOREVER)


def test_stop_leaves_what_was_not_done_to_be_done(hub):
    order = []
    task = spawn(lambda: (sleep(0.02), order.append("done")))
    spawn(hub.stop)
    hub.run()
    assert order == [] and task.is_alive()
    hub.run()
    assert order == ["done"]


def test_stop_before_run_is_a_runtime_error(hub):
    with pytest.raises(RuntimeError, match="not been started"):
        hub.stop()
    spawn(int)
    hub.run()
    with pytest.raises(RuntimeError):
        hub.stop()


def test_stop_twice_stops_one_run(hub):
    order = []
    hub.call_soon(hub.stop)
    hub.call_soon(hub.stop)
    hub.run_forever()
    hub.call_later(0.001, order.append, 1)
    hub.run()
    assert order == [1]


def test_an_exception_for_main_ends_run_and_it_can_run_again(hub):
    def leave():
        raise KeyboardInterrupt

    seen = []
    hub.call_later(0.002, seen.append, 1)
    hub.call_soon(leave)
    with pytest.raises(KeyboardInterrupt):
        hub.run()
    assert hub.running is False
    hub.run()
    assert seen == [1]


def test_main_may_block_without_run(hub):
    assert spawn(lambda: (sleep(0.001), 5)[1]).result() == 5
    assert hub.running is False


# ---- switch --------------------------------------------------------------------------------------


def test_switch_parks_until_a_callback_switches_back(hub):
    def waiter():
        me = Task.current()
        hub.call_soon(me.switch, "value")
        first = hub.switch()
        hub.call_later(0.001, me.switch)
        second = hub.switch()
        hub.call_soon(me.switch, 1, 2)
        return first, second, hub.switch()

    assert spawn(waiter).result() == ("value", None, (1, 2))


def test_throw_by_a_callback_raises_in_switch(hub):
    def waiter():
        me = Task.current()
        hub.call_soon(me.throw, Boom, "thrown")
        try:
            hub.switch()
        except Boom as exc:
            return str(exc)

    assert spawn(waiter).result() == "thrown"


def test_switch_and_throw_by_another_task_are_runtime_errors(hub):
    victim = spawn(hub.switch)
    settle()

    def attacker():
        for attack in (victim.switch, victim.throw):
            with pytest.raises(RuntimeError, match="callback"):
                attack()

    spawn(attacker).result()
    attacker()
    in_thread(attacker)
    assert victim.is_alive()
    victim.kill()
    victim.join()


def test_switch_to_a_task_that_waits_for_something_else_is_a_runtime_error(hub):
    seen = []
    tasks = [spawn(sleep, 100), spawn(int)]
    settle()
    tasks.append(spawn(fail))
    tasks[2].kill()

    def callback():
        for task in tasks:
            try:
                task.switch()
            except RuntimeError as exc:
                seen.append(str(exc))

    hub.call_soon(callback)
    settle()
    assert len(seen) == 3
    tasks[0].kill()
    tasks[0].join()


def test_two_switches_in_a_row_wake_once_with_the_first_value(hub):
    values = []
    task = spawn(lambda: values.append(hub.switch()))
    settle()
    hub.call_soon(lambda: (task.switch(1), task.switch(2)))
    settle()
    assert values == [1]
    task.join()


def test_a_task_killed_in_switch_ends(hub):
    task = spawn(hub.switch)
    settle()
    task.kill()
    assert task.join() is True


def test_switch_in_main_is_run(hub):
    seen = []
    hub.call_later(0.001, seen.append, 1)
    hub.switch()
    assert seen == [1]


# ---- destroy -------------------------------------------------------------------------------------


def test_destroy_twice_is_a_runtime_error(hub):
    hub.destroy()
    assert hub.destroyed is True
    with pytest.raises(RuntimeError, match="already"):
        hub.destroy()


def test_destroy_while_running_is_a_runtime_error(hub):
    seen = []

    def destroy():
        try:
            hub.destroy()
        except RuntimeError as exc:
            seen.append(str(exc))

    spawn(destroy)
    hub.call_soon(destroy)
    hub.run()
    assert len(seen) == 2
    assert not hub.destroyed


def test_destroy_from_another_thread_is_a_runtime_error(hub):
    with pytest.raises(RuntimeError, match="thread"):
        in_thread(hub.destroy)
    assert not hub.destroyed


def test_destroy_raises_task_exit_in_every_task_and_lets_it_clean_up(hub):
    cleaned = []

    def worker(name, wait):
        try:
            wait()
        except TaskExit:
            sleep(0)
            cleaned.append(name)
            raise

    channel = Channel()
    waits = {
        "sleep": lambda: sleep(100),
        "event": Event().wait,
        "receive": channel.receive,
        "switch": hub.switch,
        "send": lambda: Channel().send(1),
    }
    tasks = [spawn(worker, name, wait) for name, wait in waits.items()]
    settle()
    never = spawn(cleaned.append, "never")
    hub.destroy()
    assert sorted(cleaned) == sorted(waits)
    assert not any(task.is_alive() for task in [*tasks, never])


def test_destroy_drops_timers_and_callbacks(hub):
    thing = type("Thing", (), {})()
    ref = weakref.ref(thing)
    hub.call_later(100, fail, thing)
    hub.call_later(0.001, fail, thing)
    del thing
    hub.destroy()
    gc.collect()
    assert ref() is None


def test_destroy_warns_of_tasks_that_would_not_end():
    out = output_of(
        """
        import evergreen, warnings
        warnings.simplefilter("error")

        def stubborn():
            while True:
                try:
                    evergreen.sleep(0)
                except BaseException:
                    pass

        evergreen.spawn(stubborn)
        evergreen.sleep(0)
        try:
            evergreen.current.loop.destroy()
        except RuntimeWarning as exc:
            print(exc)
        print(evergreen.current.loop.stats()["tasks"])
        """
    )
    assert out == "1 tasks would not end with their event loop\n0\n"


def test_a_task_that_would_not_end_is_handed_nothing_after_destroy():
    out = output_of(
        """
        import evergreen, warnings
        from evergreen.locks import Lock
        from evergreen.queue import Queue
        warnings.simplefilter("ignore")
        lock, queue = Lock(), Queue()

        def stubborn(wait):
            while True:
                try:
                    wait()
                except BaseException:
                    pass

        lock.acquire()
        for wait in lock.acquire, queue.get:
            evergreen.spawn(stubborn, wait)
        evergreen.sleep(0)
        evergreen.current.loop.destroy()
        lock.release()
        queue.put("item")
        print(lock.acquire(timeout=0), queue.get(timeout=0))
        """
    )
    assert out == "True item\n"


def test_a_destroyed_loop_refuses_to_work(hub):
    hub.destroy()
    for call in (
        lambda: hub.call_soon(print),
        lambda: hub.call_later(0, print),
        lambda: hub.call_later(1, print),
        lambda: hub.call_at(0, print),
        lambda: hub.call_from_thread(print),
        lambda: hub.add_reader(0, print),
        lambda: hub.add_signal_handler(10, print),
        hub.run,
        hub.run_forever,
        hub.stop,
        hub.switch,
        hub.fileno,
        hub.get_timeout,
    ):
        with pytest.raises(RuntimeError):
            call()
    hub.remove_reader(0)
    hub.stats()
    assert hub.tasks() == []


def test_a_destroyed_loop_is_freed():
    output_of(
        """
        import evergreen, gc, weakref
        for _ in range(3):
            loop = evergreen.EventLoop()
            loop.cycle = loop
            loop.excepthook = lambda report, loop=loop: None
            evergreen.spawn(evergreen.sleep, 100)
            loop.call_later(50, print, loop)
            evergreen.sleep(0.001)
            loop.destroy()
            ref = weakref.ref(loop)
            del loop
            gc.collect()
            assert ref() is None
        """
    )


def test_loops_come_and_go_without_leaving_descriptors_open():
    output_of(
        """
        import evergreen, os
        def descriptors():
            return sorted(os.listdir("/proc/self/fd"))
        read, write = os.pipe()
        evergreen.sleep(0.001)
        evergreen.current.loop.destroy()
        before = descriptors()
        for _ in range(20):
            loop = evergreen.EventLoop()
            loop.add_reader(read, print)
            loop.add_signal_handler(10, print)
            evergreen.sleep(0.001)
            loop.destroy()
        assert descriptors() == before, (before, descriptors())
        """
    )


def test_a_loop_can_be_destroyed_before_it_did_anything():
    in_thread(lambda: EventLoop().destroy())


# ---- embedding -----------------------------------------------------------------------------------


def test_get_timeout_says_when_there_is_something_to_do(hub):
    assert hub.get_timeout() is None
    timer = hub.call_later(100, print)
    assert 90 < hub.get_timeout() <= 100.1
    handler = hub.call_soon(print)
    assert hub.get_timeout() == 0
    handler.cancel()
    timer.cancel()
    settle()
    assert hub.get_timeout() is None


def test_another_loop_can_drive_this_one(hub):
    seen = []
    hub.call_later(0.01, seen.append, "timer")
    task = spawn(lambda: (sleep(0.02), seen.append("task")))
    deadline = time.monotonic() + 30
    while task.is_alive() and time.monotonic() < deadline:
        select.select([hub.fileno()], [], [], hub.get_timeout())
        hub.run(EventLoop.RUN_NOWAIT)
    assert seen == ["timer", "task"]


def test_fileno_becomes_readable_when_a_watched_descriptor_does(hub):
    import os

    read, write = os.pipe()
    seen = []
    hub.add_reader(read, lambda: seen.append(os.read(read, 10)))
    hub.run(EventLoop.RUN_NOWAIT)
    assert select.select([hub.fileno()], [], [], 0)[0] == []
    os.write(write, b"x")
    assert select.select([hub.fileno()], [], [], 10)[0] == [hub.fileno()]
    hub.run(EventLoop.RUN_NOWAIT)
    assert seen == [b"x"]
    hub.remove_reader(read)
    os.close(read)
    os.close(write)


def test_fileno_becomes_readable_when_another_thread_wakes_the_loop(hub):
    seen = []
    hub.run(EventLoop.RUN_NOWAIT)
    threading.Thread(target=lambda: (native_sleep(0.01), hub.call_from_thread(seen.append, 1))).start()
    assert select.select([hub.fileno()], [], [], 10)[0] == [hub.fileno()]
    hub.run(EventLoop.RUN_NOWAIT)
    assert seen == [1]


# ---- looking in ----------------------------------------------------------------------------------


def test_tasks_lists_those_that_live_oldest_first(hub):
    tasks = [spawn(sleep, 100) for _ in range(3)]
    assert hub.tasks() == tasks
    settle()
    assert hub.tasks() == tasks
    tasks[1].kill()
    tasks[1].join()
    assert hub.tasks() == [tasks[0], tasks[2]]
    for task in tasks:
        task.kill()


def test_stats_count_what_is_there(hub):
    before = hub.stats()
    tasks = [spawn(sleep, 100) for _ in range(3)]
    assert hub.stats()["ready"] is True
    settle()
    stats = hub.stats()
    assert (stats["tasks"], stats["timers"], stats["ready"]) == (3, 3, False)
    assert stats["switches"] > before["switches"]
    assert stats["greenlets_started"] >= before["greenlets_started"] + 1
    for task in tasks:
        task.kill()


def test_the_loops_own_greenlet_is_there(hub):
    import greenlet

    assert isinstance(hub.greenlet, greenlet.greenlet)
    assert hub.greenlet.parent is greenlet.getcurrent()


def test_the_methods_have_signatures():
    import inspect

    for name in dir(EventLoop):
        member = getattr(EventLoop, name)
        if callable(member) and not name.startswith("__"):
            assert inspect.signature(member) is not None


# ---- an empty loop -------------------------------------------------------------------------------


def test_a_loop_left_with_blocked_tasks_raises_deadlock_from_run():
    out = output_of(
        """
        import evergreen
        task = evergreen.spawn(evergreen.Channel().receive)
        task.name = "lonely"
        try:
            evergreen.current.loop.run()
        except evergreen.Deadlock as exc:
            assert "lonely" in str(exc)
            print("deadlock")
        """
    )
    assert out == "deadlock\n"
    assert issubclass(Deadlock, RuntimeError)
