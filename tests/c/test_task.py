"""task.c: tasks from their making to their end."""

import contextvars
import gc
import math
import sys
import threading
import traceback
import weakref
from functools import partial

import pytest
from helpers import Boom, in_thread, output_of, pass_time, run_python, settle

import evergreen
from evergreen import Channel, EventLoop, Task, TaskExit, sleep, spawn
from evergreen import _evergreen_c as core
from evergreen.event import Event


def fail(text="bang"):
    raise Boom(text)


# ---- spawning ------------------------------------------------------------------------------------


def test_a_spawned_task_runs_only_when_its_spawner_blocks(hub):
    ran = []
    spawn(ran.append, 1)
    assert ran == []
    sleep(0)
    assert ran == [1]


def test_tasks_run_in_the_order_they_were_spawned(hub):
    order = []
    for number in range(100):
        spawn(order.append, number)
    settle()
    assert order == list(range(100))


def test_tasks_that_tasks_spawn_run_after_those_that_were_there(hub):
    order = []

    def parent(name):
        order.append(name)
        spawn(order.append, name * 2)

    spawn(parent, "a")
    spawn(parent, "b")
    settle()
    assert order == ["a", "b", "aa", "bb"]


def test_spawn_passes_arguments(hub):
    task = spawn(lambda *args, **kwargs: (args, kwargs), 1, 2, three=3, four=4)
    assert task.result() == ((1, 2), {"three": 3, "four": 4})


def test_spawn_passes_keyword_arguments_alone(hub):
    assert spawn(dict, name="x").result() == {"name": "x"}


@pytest.mark.parametrize("args", [(), (1,), (None, 1)])
def test_spawn_needs_a_callable(hub, args):
    with pytest.raises(TypeError, match="callable"):
        spawn(*args)


def test_spawn_in_a_thread_without_a_loop_is_a_runtime_error():
    with pytest.raises(RuntimeError, match="no event loop"):
        in_thread(spawn, print)


def test_a_task_deep_in_recursion_leaves_the_others_alone(hub):
    def dive(depth):
        if depth:
            return dive(depth - 1) + 1
        sleep(0)
        return 0

    tasks = [spawn(dive, depth) for depth in (1, 400, 3, 500, 2)]
    assert [task.result() for task in tasks] == [1, 400, 3, 500, 2]


def test_recursion_without_end_is_a_recursion_error_in_the_task_alone(hub):
    def dive():
        return dive() + 1

    task, other = spawn(dive), spawn(lambda: "fine")
    with pytest.raises(RecursionError):
        task.result()
    assert other.result() == "fine"


# ---- making --------------------------------------------------------------------------------------


def test_task_has_the_shape_of_a_thread(hub):
    task = Task(target=divmod, name="divider", args=[7, 2], kwargs=None)
    task.start()
    assert task.join() is True
    assert task.result() == (3, 1)
    assert task.name == "divider"


def test_task_takes_keyword_arguments_from_a_copy(hub):
    keywords = {"a": 1}
    task = Task(target=dict, kwargs=keywords)
    keywords["b"] = 2
    task.start()
    assert task.result() == {"a": 1}


def test_a_task_without_a_target_returns_none(hub):
    task = Task()
    task.start()
    assert task.result() is None


@pytest.mark.parametrize(
    "kwargs", [{"target": 1}, {"args": 1}, {"kwargs": 1}, {"kwargs": [1]}, {"unknown": 1}]
)
def test_task_refuses_bad_arguments(hub, kwargs):
    with pytest.raises(TypeError):
        Task(**kwargs)


def test_a_name_whose_str_fails_is_that_error(hub):
    class Bad:
        def __str__(self):
            raise Boom

    with pytest.raises(Boom):
        Task(name=Bad())


def test_a_task_starts_only_once(hub):
    task = Task(target=int)
    task.start()
    with pytest.raises(RuntimeError, match="once"):
        task.start()
    task.join()
    with pytest.raises(RuntimeError, match="once"):
        task.start()


def test_a_task_that_was_killed_while_it_ran_does_not_start_again(hub):
    task = spawn(sleep, 100)
    settle()
    task.kill()
    task.join()
    with pytest.raises(RuntimeError, match="once"):
        task.start()


def test_a_task_whose_exception_was_taken_does_not_start_again(hub):
    task = spawn(fail)
    with pytest.raises(Boom):
        task.result()
    with pytest.raises(RuntimeError, match="once"):
        task.start()


def test_a_started_task_cannot_be_initialised_anew(hub):
    task = spawn(int)
    with pytest.raises(RuntimeError):
        task.__init__(target=fail)
    assert task.result() == 0


def test_a_task_can_be_initialised_twice_before_its_start(hub):
    task = Task(target=fail)
    task.__init__(target=int, args=("7",))
    task.start()
    assert task.result() == 7


def test_a_task_without_init_can_run(hub):
    task = Task.__new__(Task)
    task.start()
    assert task.result() is None


def test_run_calls_the_target_in_place(hub):
    assert Task(target=divmod, args=(7, 2)).run() == (3, 1)
    assert Task().run() is None


# ---- subclasses ----------------------------------------------------------------------------------


class Doubler(Task):
    def __init__(self, value):
        super().__init__(name=f"double {value}")
        self.value = value

    def run(self):
        sleep(0)
        return self.value * 2


def test_a_subclass_overrides_run(hub):
    tasks = [Doubler(value) for value in range(5)]
    for task in tasks:
        task.start()
    assert [task.result() for task in tasks] == [0, 2, 4, 6, 8]
    assert tasks[3].name == "double 3"


def test_a_subclass_that_does_not_call_init_still_runs(hub):
    class Careless(Task):
        def __init__(self):
            pass

        def run(self):
            return current_name()

    def current_name():
        return Task.current().name

    task = Careless()
    task.start()
    assert task.result() == task.name


def test_a_subclass_without_run_calls_the_target(hub):
    class Plain(Task):
        pass

    task = Plain(target=int, args=("5",))
    task.start()
    assert task.result() == 5
    assert repr(task).startswith("<Plain(")


def test_a_subclass_has_attributes_and_slots(hub):
    class Slotted(Task):
        __slots__ = ("extra",)

        def run(self):
            return self.extra

    task = Slotted()
    task.extra = 9
    task.start()
    assert task.result() == 9


def test_run_that_calls_super_runs_the_target(hub):
    class Logged(Task):
        def run(self):
            return ["before", super().run(), "after"]

    task = Logged(target=int)
    task.start()
    assert task.result() == ["before", 0, "after"]


# ---- names and looks -----------------------------------------------------------------------------


def test_default_names_differ(hub):
    tasks = [spawn(int) for _ in range(20)]
    assert len({task.name for task in tasks}) == 20
    assert all(task.name.startswith("Task-") for task in tasks)
    settle()


def test_a_name_can_be_set_but_not_deleted(hub):
    task = Task()
    task.name = 42
    assert task.name == "42"
    with pytest.raises(AttributeError):
        del task.name


def test_repr_says_the_name_and_the_state(hub):
    seen = []
    task = Task(target=lambda: (seen.append(repr(task)), sleep(0)), name="n")
    assert repr(task) == "<Task(n, initial)>"
    task.start()
    assert repr(task) == "<Task(n, started)>"
    sleep(0)
    assert seen == ["<Task(n, running)>"]
    assert repr(task) == "<Task(n, waiting)>"
    task.join()
    assert repr(task) == "<Task(n, ended)>"


def test_is_alive_from_start_to_end(hub):
    inside = []
    task = Task(target=lambda: inside.append(task.is_alive()))
    assert not task.is_alive()
    task.start()
    assert task.is_alive()
    task.join()
    assert inside == [True]
    assert not task.is_alive()


def test_waiting_says_what_for_and_since_when(hub):
    channel, event = Channel(), Event()
    before = hub.time()
    tasks = [spawn(sleep, 50), spawn(event.wait, 60), spawn(channel.receive), spawn(Task.join, hub.main_task)]
    tasks[3].kill()
    sleeper = tasks[0]
    tasks[3] = spawn(sleeper.join)
    assert sleeper.waiting is None
    settle()
    waits = [task.waiting for task in tasks]
    assert [wait[0] for wait in waits] == ["sleep", "event", "channel receive", "task"]
    assert [wait[1] for wait in waits] == [None, event, channel, sleeper]
    assert waits[0][2] == pytest.approx(before + 50, abs=5)
    assert waits[2][2] is None
    assert all(before - 0.1 <= wait[3] <= hub.time() + 0.1 for wait in waits)
    for task in tasks:
        task.kill()
        task.join()
        assert task.waiting is None


def test_the_methods_have_signatures():
    import inspect

    for name in ("start", "run", "join", "result", "kill", "is_alive", "switch", "throw"):
        assert inspect.signature(getattr(Task, name)) is not None
    assert str(inspect.signature(Task)) == "(target=None, name=None, args=(), kwargs=None)"
    for function in (spawn, sleep):
        assert inspect.signature(function) is not None


# ---- current -------------------------------------------------------------------------------------


def test_current_is_the_task_that_runs(hub):
    task = spawn(Task.current)
    assert task.result() is task
    other = spawn(lambda: (sleep(0), Task.current())[1])
    third = spawn(lambda: (sleep(0), Task.current())[1])
    assert other.result() is other
    assert third.result() is third


def test_the_main_greenlet_has_a_task_too(hub):
    assert Task.current() is hub.main_task
    assert hub.main_task.name == "main"
    sleep(0)
    assert evergreen.current.task is hub.main_task


def test_there_is_no_current_task_in_a_callback(hub):
    seen = []

    def callback():
        try:
            Task.current()
        except RuntimeError as exc:
            seen.append(str(exc))

    hub.call_soon(callback)
    settle()
    assert seen and "callback" in seen[0]
    assert Task.current() is hub.main_task


def test_current_in_a_thread_without_a_loop_is_a_runtime_error(hub):
    with pytest.raises(RuntimeError, match="no event loop"):
        in_thread(Task.current)


def test_loop_of_a_task_is_its_loop(hub):
    assert spawn(int).loop is hub
    settle()


# ---- joining -------------------------------------------------------------------------------------


def test_join_returns_true_when_the_task_has_ended(hub):
    task = spawn(int)
    assert task.join() is True
    assert task.join() is True
    assert task.join(0) is True


def test_join_returns_false_when_time_is_up(hub):
    task = spawn(sleep, 100)
    assert task.join(0.001) is False
    assert task.join(timeout=0) is False
    assert task.join(-1) is False
    assert task.is_alive()
    task.kill()
    assert task.join() is True


def test_join_does_not_raise_what_the_task_raised(hub):
    task = spawn(fail)
    assert task.join() is True
    with pytest.raises(Boom):
        task.result()


def test_many_join_one_and_all_are_woken_in_order(hub):
    gate, order = Event(), []
    task = spawn(gate.wait)
    joiners = [spawn(lambda n=n: (task.join(), order.append(n))) for n in range(10)]
    settle()
    assert order == []
    gate.set()
    for joiner in joiners:
        joiner.join()
    assert order == list(range(10))


def test_join_before_start_is_a_runtime_error(hub):
    task = Task(target=int)
    for method in (task.join, task.result):
        with pytest.raises(RuntimeError, match="before it is started"):
            method()


def test_a_task_cannot_join_itself(hub):
    def join_myself():
        with pytest.raises(RuntimeError, match="its own end"):
            Task.current().join()
        with pytest.raises(RuntimeError, match="its own end"):
            Task.current().result(0.001)
        sleep(0)
        return "still well"

    assert spawn(join_myself).result() == "still well"


def test_the_main_greenlet_cannot_be_joined(hub):
    with pytest.raises(RuntimeError, match="not a task"):
        spawn(hub.main_task.join).result()


@pytest.mark.parametrize("method", ["join", "result"])
def test_join_and_result_refuse_bad_timeouts(hub, method):
    task = spawn(int)
    call = getattr(task, method)
    with pytest.raises(TypeError):
        call("soon")
    with pytest.raises(ValueError):
        call(math.nan)
    with pytest.raises(TypeError):
        call(1, 2)
    with pytest.raises(TypeError):
        call(time=1)
    with pytest.raises(TypeError):
        call(1, timeout=1)
    assert task.result(math.inf) == 0


def test_two_tasks_that_join_each_other_can_be_killed(hub):
    box = []
    one = spawn(lambda: box[1].join())
    two = spawn(lambda: box[0].join())
    box += [one, two]
    settle()
    one.kill()
    assert one.join() and two.join()


# ---- results -------------------------------------------------------------------------------------


def test_result_is_what_the_function_returned(hub):
    marker = object()
    assert spawn(lambda: marker).result() is marker


def test_result_raises_the_very_exception_each_time(hub):
    task = spawn(fail, "once")
    raised = []
    for _ in range(3):
        with pytest.raises(Boom, match="once") as info:
            task.result()
        raised.append(info.value)
    assert raised[0] is raised[1] is raised[2]


def test_the_traceback_of_a_result_leads_into_the_task(hub):
    with pytest.raises(Boom) as info:
        spawn(fail).result()
    assert "fail" in [frame.name for frame in traceback.extract_tb(info.value.__traceback__)]


def test_result_raises_timeout_error_when_time_is_up(hub):
    task = spawn(sleep, 100)
    task.name = "slow one"
    with pytest.raises(TimeoutError, match="slow one"):
        task.result(0.001)
    task.kill()
    with pytest.raises(TaskExit):
        task.result()


def test_all_who_wait_get_the_result(hub):
    gate = Event()
    task = spawn(lambda: (gate.wait(), "prize")[1])
    waiters = [spawn(task.result) for _ in range(5)]
    settle()
    gate.set()
    assert [waiter.result() for waiter in waiters] == ["prize"] * 5


def test_all_who_wait_get_the_exception(hub):
    gate = Event()
    task = spawn(lambda: (gate.wait(), fail()))
    waiters = [spawn(task.result) for _ in range(3)]
    settle()
    gate.set()
    for waiter in waiters:
        with pytest.raises(Boom):
            waiter.result()


# ---- killing -------------------------------------------------------------------------------------


def test_a_task_killed_before_it_ran_never_runs_and_joins(hub):
    ran = []
    task = spawn(ran.append, 1)
    task.kill()
    assert not task.is_alive()
    assert task.join() is True
    settle()
    assert ran == []
    with pytest.raises(TaskExit):
        task.result()


def test_a_task_killed_before_it_ran_wakes_those_who_join_it(hub):
    victims = []
    joiner = spawn(lambda: victims[0].join())
    spawn(lambda: victims[0].kill())
    victims.append(spawn(fail))
    assert joiner.result() is True


def test_a_task_killed_before_its_start_does_not_run_when_started(hub):
    task = Task(target=fail)
    task.kill()
    task.start()
    assert task.join() is True
    settle()
    assert not task.is_alive()


def test_kill_raises_task_exit_where_the_task_waits(hub):
    seen = []

    def victim():
        try:
            sleep(100)
        except TaskExit as exc:
            seen.append(exc)
            raise

    task = spawn(victim)
    settle()
    task.kill()
    assert seen == []  # it does not wait for it
    task.join()
    with pytest.raises(TaskExit) as info:
        task.result()
    assert info.value is seen[0]


def test_kill_takes_any_exception(hub):
    value = Boom("the very one")
    try:
        raise Boom
    except Boom as exc:
        tb = exc.__traceback__
    for args, kwargs, check in [
        ((Boom,), {}, lambda exc: type(exc) is Boom),
        ((value,), {}, lambda exc: exc is value),
        ((Boom, "text"), {}, lambda exc: exc.args == ("text",)),
        ((Boom, value), {}, lambda exc: exc is value),
        ((), {"typ": Boom, "value": "kw"}, lambda exc: exc.args == ("kw",)),
        ((Boom, None, tb), {}, lambda exc: exc.__traceback__ is not None),
    ]:
        task = spawn(sleep, 100)
        settle()
        task.kill(*args, **kwargs)
        with pytest.raises(Boom) as info:
            task.result()
        assert check(info.value)


@pytest.mark.parametrize("bad", [1, "x", object, int, object()])
def test_kill_refuses_what_is_no_exception(hub, bad):
    task = spawn(sleep, 100)
    settle()
    with pytest.raises(TypeError):
        task.kill(bad)
    settle()
    assert task.is_alive()
    task.kill()
    task.join()


def test_an_exception_class_that_cannot_be_made_is_the_killers_problem(hub):
    class Needy(Exception):
        def __init__(self, needed):
            super().__init__(needed)

    task = spawn(sleep, 100)
    settle()
    with pytest.raises(TypeError):
        task.kill(Needy)
    assert task.is_alive()
    task.kill()
    task.join()


def test_kill_by_the_task_itself_raises_at_once(hub):
    def suicide():
        try:
            Task.current().kill(Boom, "now")
        except Boom as exc:
            return str(exc)

    assert spawn(suicide).result() == "now"


def test_killing_an_ended_task_changes_nothing(hub):
    task = spawn(int)
    task.join()
    task.kill()
    assert task.result() == 0


def test_a_task_may_refuse_to_be_killed(hub):
    def stubborn():
        try:
            sleep(100)
        except TaskExit:
            sleep(0)
        return "survived"

    task = spawn(stubborn)
    settle()
    task.kill()
    assert task.result() == "survived"


def test_the_clean_up_of_a_killed_task_may_block(hub):
    channel = Channel()

    def tidy():
        try:
            sleep(100)
        finally:
            channel.send("tidied")

    task = spawn(tidy)
    settle()
    task.kill()
    assert channel.receive() == "tidied"
    task.join()


def test_a_killed_task_waiting_in_its_clean_up_can_be_killed_again(hub):
    kills = []

    def victim():
        for _ in range(5):
            try:
                sleep(100)
            except TaskExit:
                kills.append(len(kills))

    task = spawn(victim)
    for _ in range(5):
        settle()
        task.kill()
    task.join()
    assert kills == [0, 1, 2, 3, 4]


def test_a_kill_that_comes_while_the_task_is_ready_is_not_lost(hub):
    event = Event()
    task = spawn(event.wait)
    settle()
    event.set()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()


def test_a_kill_from_another_thread_ends_the_wait(hub):
    task = spawn(sleep, 100)
    settle()
    thread = threading.Thread(target=task.kill)
    thread.start()
    assert task.join(30) is True
    thread.join()
    with pytest.raises(TaskExit):
        task.result()


def test_a_kill_from_another_thread_stops_a_task_that_has_not_run(hub):
    ran = []
    task = spawn(ran.append, 1)
    in_thread(task.kill)
    assert task.join() is True
    assert ran == []


def test_a_kill_from_another_thread_reaches_a_computing_task_at_its_next_wait(hub):
    def compute():
        in_thread(lambda: task.kill(Boom))
        try:
            sleep(100)
        except Boom:
            return "at the wait"

    task = spawn(compute)
    assert task.result() == "at the wait"


def test_a_kill_that_comes_too_late_is_forgotten(hub):
    def end_meanwhile():
        in_thread(task.kill)
        return "done"

    task = spawn(end_meanwhile)
    assert task.result() == "done"


# ---- exceptions that nobody observes -------------------------------------------------------------


@pytest.fixture
def reports(hub):
    """What the hub's excepthook was called with; the test empties it."""
    hook, seen = hub.excepthook, []
    hub.excepthook = seen.append
    yield seen
    hub.excepthook = hook


def test_an_unobserved_exception_is_reported_when_the_task_is_freed(reports):
    task = spawn(fail)
    settle()
    assert core.unobserved() == 1
    assert reports == []
    text = repr(task)
    del task
    (report,) = reports
    assert report.exc_type is Boom
    assert report.exc_value.args == ("bang",)
    assert report.exc_traceback is report.exc_value.__traceback__ is not None
    assert repr(report.object) == text
    assert core.unobserved() == 0


def test_a_task_that_nobody_holds_reports_when_it_ends(reports):
    spawn(fail)
    settle()
    assert [report.exc_type for report in reports] == [Boom]


def test_an_exception_that_result_took_is_not_reported(reports):
    task = spawn(fail)
    with pytest.raises(Boom):
        task.result()
    del task
    gc.collect()
    assert reports == []


def test_an_exception_that_only_join_saw_is_reported(reports):
    task = spawn(fail)
    task.join()
    del task
    assert len(reports) == 1


def test_a_task_in_a_cycle_is_reported_when_collected(reports):
    task = spawn(fail)
    task.me = task
    settle()
    del task
    assert reports == []
    gc.collect()
    assert len(reports) == 1


def test_task_exit_is_silent(reports):
    task = spawn(sleep, 100)
    settle()
    task.kill()
    task.join()
    del task

    def leave():
        raise TaskExit

    spawn(leave)
    settle()
    gc.collect()
    assert reports == []


def test_a_task_killed_before_it_ran_with_an_error_reports_it(reports):
    spawn(int).kill(Boom)
    settle()
    assert [report.exc_type for report in reports] == [Boom]


def test_the_excepthook_may_keep_the_task(reports):
    spawn(fail)
    settle()
    task = reports[0].object
    del reports[:]
    with pytest.raises(Boom):
        task.result()
    del task
    assert reports == []


def test_blocking_in_an_excepthook_is_a_runtime_error(hub):
    hook, seen = hub.excepthook, []

    def block(report):
        for wait in (lambda: sleep(0), lambda: sleep(1), Event().wait, Channel().receive):
            with pytest.raises(RuntimeError, match="spawn a task"):
                wait()
        seen.append(report.exc_type)

    hub.excepthook = block
    spawn(fail)
    settle()
    hub.excepthook = hook
    assert seen == [Boom]
    sleep(0.001)


def test_an_excepthook_may_spawn(hub):
    hook, seen = hub.excepthook, []
    hub.excepthook = lambda report: spawn(seen.append, report.exc_type)
    spawn(fail)
    settle()
    hub.excepthook = hook
    assert seen == [Boom]


def test_excepthook_must_be_callable_or_none(hub):
    with pytest.raises(TypeError):
        hub.excepthook = 1
    hook = hub.excepthook
    hub.excepthook = None
    assert hub.excepthook is None
    hub.excepthook = hook
    assert hub.excepthook is hook


def test_the_default_prints_the_traceback_with_the_tasks_name(hub, capsys):
    hook, hub.excepthook = hub.excepthook, None
    task = spawn(fail, "printed")
    task.name = "unlucky"
    settle()
    del task
    hub.excepthook = hook
    text = capsys.readouterr().err
    assert text.startswith("Exception in task 'unlucky':\nTraceback")
    assert text.endswith("Boom: printed\n")


def test_an_excepthook_that_raises_loses_neither_exception():
    child = run_python(
        """
        import evergreen

        def hook(report):
            raise ValueError("from the hook")

        def fail():
            raise KeyError("from the task")

        evergreen.current.loop.excepthook = hook
        evergreen.spawn(fail)
        evergreen.sleep(0)
        evergreen.sleep(0)
        print("went on")
        """
    )
    assert child.stdout == "went on\n"
    assert "from the hook" in child.stderr
    assert "from the task" in child.stderr


def test_what_nobody_observed_is_reported_at_exit():
    child = run_python(
        """
        import evergreen

        def fail(what):
            raise KeyError(what)

        kept = [evergreen.spawn(fail, "first"), evergreen.spawn(fail, "second")]
        seen = evergreen.spawn(fail, "third")
        try:
            seen.result()
        except KeyError:
            pass
        """
    )
    assert child.returncode == 0
    assert child.stderr.count("KeyError: 'first'") == 1
    assert child.stderr.count("KeyError: 'second'") == 1
    assert "third" not in child.stderr


@pytest.mark.parametrize("make", [lambda: SystemExit(3), KeyboardInterrupt], ids=["exit", "interrupt"])
def test_exceptions_that_end_a_program_reach_main(hub, make):
    exception = make()

    def leave():
        raise exception

    task = spawn(leave)
    with pytest.raises(type(exception)) as info:
        sleep(100)
    assert info.value is exception
    with pytest.raises(type(exception)):
        task.result()


def test_system_exit_in_a_task_ends_the_program_with_its_code():
    child = run_python(
        """
        import evergreen, sys

        def leave():
            sys.exit(7)

        evergreen.spawn(leave)
        evergreen.current.loop.run()
        print("not reached")
        """
    )
    assert (child.returncode, child.stdout, child.stderr) == (7, "", "")


def test_main_meets_every_exception_that_was_sent_to_it(hub):
    def leave(exception):
        raise exception

    sent = [SystemExit(1), KeyboardInterrupt(), SystemExit(2)]
    tasks = [spawn(leave, exception) for exception in sent]
    met = []
    for _ in range(10):
        try:
            sleep(0)
        except BaseException as exc:
            met.append(exc)
    assert met == sent
    del tasks


# ---- sleeping ------------------------------------------------------------------------------------


def test_sleep_zero_lets_others_run_in_turn(hub):
    order = []

    def turns(name):
        for _ in range(3):
            order.append(name)
            sleep(0)

    for name in "abc":
        spawn(turns, name)
    settle()
    assert "".join(order) == "abcabcabc"


@pytest.mark.parametrize("seconds", [-1, -0.0, 0.0, -math.inf, False])
def test_sleep_without_a_positive_time_is_a_yield(hub, seconds):
    order = []
    spawn(order.append, "other")
    sleep(seconds)
    assert order == ["other"]


def test_sleep_lasts_at_least_so_long(hub):
    for seconds in (0.0001, 0.001, 0.0055, 0.02):
        before = hub.time()
        sleep(seconds)
        assert hub.time() - before >= seconds


def test_sleepers_wake_in_the_order_of_their_times(hub):
    order = []

    def nap(milliseconds):
        sleep(milliseconds / 1000)
        order.append(milliseconds)

    tasks = [spawn(nap, ms) for ms in (40, 10, 30, 20, 0.5)]
    for task in tasks:
        task.join()
    assert order == [0.5, 10, 20, 30, 40]


def test_sleep_for_ever_ends_with_a_kill(hub):
    task = spawn(sleep, math.inf)
    settle()
    assert task.waiting[2] is None
    task.kill()
    assert task.join()


@pytest.mark.parametrize("bad", ["1", None, [], object()])
def test_sleep_refuses_what_is_no_number(hub, bad):
    with pytest.raises(TypeError):
        sleep(bad)


def test_sleep_refuses_nan_and_too_many_arguments(hub):
    with pytest.raises(ValueError):
        sleep(math.nan)
    with pytest.raises(TypeError):
        sleep(1, 2)


def test_sleep_works_in_a_native_thread_without_a_loop():
    def nap():
        import time

        before = time.monotonic()
        sleep(0.01)
        sleep(0)
        return time.monotonic() - before

    assert in_thread(nap) >= 0.01


# ---- context variables ---------------------------------------------------------------------------

variable = contextvars.ContextVar("variable", default="unset")


def test_a_task_starts_with_a_copy_of_its_spawners_context(hub):
    variable.set("main")
    first = spawn(variable.get)
    variable.set("changed later")
    assert first.result() == "main"

    def change():
        variable.set("task")
        sleep(0)
        return variable.get(), spawn(variable.get).result()

    tasks = [spawn(change), spawn(variable.get)]
    assert [task.result() for task in tasks] == [("task", "task"), "changed later"]
    assert variable.get() == "changed later"


def test_the_context_is_copied_when_the_task_starts(hub):
    task = Task(target=variable.get)
    token = variable.set("at start")
    task.start()
    variable.reset(token)
    assert task.result() == "at start"


def test_contexts_do_not_meet_in_recycled_greenlets(hub):
    for number in range(10):
        before = variable.get()

        def step(number=number):
            seen = variable.get()
            variable.set(number)
            sleep(0)
            return seen, variable.get()

        assert spawn(step).result() == (before, number)


# ---- memory --------------------------------------------------------------------------------------


class Thing:
    pass


def test_an_ended_task_lets_go_of_what_its_call_needed(hub):
    thing = Thing()
    ref = weakref.ref(thing)
    task = spawn(lambda thing, key: None, thing, key=thing)
    del thing
    task.join()
    assert ref() is None


def test_a_task_is_freed_when_it_has_ended_and_nobody_holds_it(hub):
    ref = weakref.ref(spawn(sleep, 0))
    assert ref() is not None
    settle()
    assert ref() is None


def test_a_task_that_never_started_is_freed(hub):
    ref = weakref.ref(Task(target=int, args=(1,)))
    assert ref() is None


def test_a_cycle_through_a_task_is_collected(hub):
    task = Task(target=int)
    task.cycle = task
    ref = weakref.ref(task)
    del task
    gc.collect()
    assert ref() is None


def test_a_cycle_through_the_arguments_is_collected(hub):
    arguments = []
    task = Task(target=int, args=(arguments,))
    arguments.append(task)
    ref = weakref.ref(task)
    del task, arguments
    gc.collect()
    assert ref() is None


def test_a_finaliser_of_the_arguments_runs_in_the_task_and_may_block(hub):
    seen = []

    class Last:
        def __del__(self):
            sleep(0.001)
            seen.append(Task.current().name)

    task = Task(target=lambda last: None, args=(Last(),), name="owner")
    task.start()
    task.join()
    assert seen == ["owner"]


def test_a_finaliser_of_a_result_may_not_block_the_hub(hub):
    seen = []

    class Last:
        def __del__(self):
            try:
                sleep(0.001)
            except RuntimeError as exc:
                seen.append(str(exc))

    spawn(Last)
    settle()
    assert seen and "finalisers" in seen[0]
    assert spawn(int).result() == 0


def test_a_task_of_a_destroyed_loop_cannot_start():
    output_of(
        """
        import evergreen
        task = evergreen.Task(target=int)
        evergreen.current.loop.destroy()
        try:
            task.start()
        except RuntimeError as exc:
            assert "destroyed" in str(exc)
        else:
            raise AssertionError
        """
    )


def test_reference_counts_are_balanced(hub):
    thing = Thing()

    def exercise():
        spawn(lambda: thing).result()
        task = spawn(sleep, 100)
        settle()
        task.kill(Boom, thing)
        try:
            task.result()
        except Boom:
            pass
        spawn(int, thing).kill()
        Task(target=int, args=(thing,), kwargs={"a": thing}, name="x")
        settle()

    exercise()
    gc.collect()
    before = sys.getrefcount(thing)
    for _ in range(10):
        exercise()
    gc.collect()
    assert sys.getrefcount(thing) == before


# ---- interpreter exit ----------------------------------------------------------------------------


def test_the_interpreter_exits_with_tasks_parked_and_tasks_not_started():
    out = output_of(
        """
        import evergreen, threading
        from evergreen.event import Event

        def wait(how):
            try:
                how()
            finally:
                evergreen.sleep(0)

        for how in (lambda: evergreen.sleep(100), Event().wait, evergreen.Channel().receive):
            evergreen.spawn(wait, how)
        evergreen.sleep(0)
        for _ in range(3):
            evergreen.spawn(print, "never")

        def thread():
            loop = evergreen.EventLoop()
            evergreen.spawn(wait, lambda: evergreen.sleep(100))
            evergreen.sleep(0)
            evergreen.spawn(print, "never")

        native = threading.Thread(target=thread)
        native.start()
        native.join()
        print("end")
        """
    )
    assert out == "end\n"


def test_the_interpreter_exits_while_a_daemon_threads_hub_sleeps():
    out = output_of(
        """
        import evergreen, threading
        ready = threading.Event()

        def thread():
            evergreen.EventLoop()
            evergreen.spawn(evergreen.sleep, 100)
            ready.set()
            evergreen.sleep(100)

        threading.Thread(target=thread, daemon=True).start()
        ready.wait()
        evergreen.sleep(0.01)
        print("end")
        """
    )
    assert out == "end\n"


def test_a_task_in_a_module_global_survives_to_the_exit():
    out = output_of(
        """
        import evergreen
        task = evergreen.spawn(evergreen.sleep, 100)
        generator = (evergreen.sleep(0) for _ in range(3))
        next(generator)
        print(task)
        """
    )
    assert "waiting" in out


def test_time_that_passes_while_main_computes_is_seen(hub):
    task = spawn(sleep, 0.001)
    settle()
    pass_time()
    settle()
    assert task.join(0) is True


def test_a_task_that_is_killed_before_it_runs_lets_go_of_its_call(hub):
    class Thing:
        pass

    thing = Thing()
    ref = weakref.ref(thing)
    task = spawn(print, thing, key=thing)
    del thing
    task.kill()
    task.join()
    settle()
    assert ref() is None


# ---- add_done_callback -------------------------------------------------------------------------------


def test_a_done_callback_is_called_with_the_task_when_it_has_ended(hub):
    calls = []
    task = spawn(sleep, 0.001)
    assert task.add_done_callback(lambda ended: calls.append((ended, ended.is_alive()))) is None
    settle()
    assert calls == []
    task.join()
    settle()
    assert calls == [(task, False)]


def test_done_callbacks_are_called_once_each_in_order(hub):
    calls = []
    task = spawn(sleep)
    for number in range(5):
        task.add_done_callback(lambda _, number=number: calls.append(number))
    task.join()
    settle()
    assert calls == list(range(5))


def test_a_done_callback_of_a_task_that_has_ended_is_called_soon(hub):
    calls = []
    task = spawn(sleep)
    task.join()
    task.add_done_callback(calls.append)
    assert calls == []
    settle()
    assert calls == [task]


@pytest.mark.parametrize("when", ["before it starts", "before it runs", "while it waits"])
def test_a_killed_task_calls_its_done_callbacks(hub, when):
    calls = []
    task = Task(sleep, args=(100,))
    task.add_done_callback(calls.append)
    if when != "before it starts":
        task.start()
    if when == "while it waits":
        settle()
    task.kill()
    settle()
    assert calls == [task]


def test_a_done_callback_that_fails_is_reported_and_the_others_are_called(hub):
    reports, calls = [], []
    hub.excepthook, before = reports.append, hub.excepthook

    def fail(task):
        raise KeyError("callback")

    task = spawn(sleep)
    task.add_done_callback(fail)
    task.add_done_callback(calls.append)
    task.join()
    settle()
    hub.excepthook = before
    assert [report.exc_type for report in reports] == [KeyError]
    assert calls == [task]


def test_a_done_callback_may_not_block_but_spawn(hub):
    seen = []

    def callback(task):
        try:
            sleep(0)
        except RuntimeError:
            seen.append("refused")
        spawn(seen.append, task)

    task = spawn(sleep)
    task.add_done_callback(callback)
    task.join()
    settle()
    assert seen == ["refused", task]


def test_done_callbacks_and_joiners_mix(hub):
    order = []
    task = spawn(sleep, 0.001)
    joiners = [spawn(lambda: (task.join(), order.append("joiner")))]
    settle()
    task.add_done_callback(lambda _: order.append("callback"))
    joiners.append(spawn(lambda: (task.join(), order.append("joiner"))))
    settle()
    joiners[1].kill()
    for joiner in joiners:
        joiner.join()
    settle()
    assert sorted(order) == ["callback", "joiner"]


def test_a_done_callback_from_another_thread_runs_in_the_tasks_loop(hub):
    seen = []
    gate = Event()
    task = spawn(gate.wait)
    in_thread(task.add_done_callback, lambda _: seen.append(threading.current_thread()))
    gate.set()
    task.join()
    settle()
    assert seen == [threading.current_thread()]


def test_add_done_callback_refuses_what_cannot_be_called(hub):
    task = spawn(sleep)
    for bad in (1, None, "x"):
        with pytest.raises(TypeError):
            task.add_done_callback(bad)
    with pytest.raises(RuntimeError, match="not a task"):
        Task.current().add_done_callback(print)
    task.join()


def test_a_done_callback_of_a_destroyed_loop_is_a_runtime_error():
    def thread():
        loop = EventLoop()
        task = spawn(sleep)
        task.join()
        loop.destroy()
        with pytest.raises(RuntimeError, match="destroyed"):
            task.add_done_callback(print)

    in_thread(thread)


def test_a_task_with_done_callbacks_is_freed(hub):
    class Callback:
        def __call__(self, task):
            pass

    for start in (True, False):
        task, callback = Task(sleep), Callback()
        callback.task = task
        task.add_done_callback(callback)
        refs = [weakref.ref(task), weakref.ref(callback)]
        if start:
            task.start()
            task.join()
            settle()
        del task, callback
        gc.collect()
        assert [ref() for ref in refs] == [None, None]


def test_done_callbacks_lose_no_reference(hub):
    def callback(task):
        pass

    before = sys.getrefcount(callback)
    for _ in range(50):
        task = spawn(sleep)
        task.add_done_callback(callback)
        task.join()
        task.add_done_callback(callback)
    del task
    settle()
    gc.collect()
    assert sys.getrefcount(callback) == before


# ---- kill with a reason --------------------------------------------------------------------------------


def test_a_reason_is_the_task_exits(hub):
    task = spawn(sleep, 100)
    settle()
    task.kill(reason="enough")
    with pytest.raises(TaskExit, match="enough") as info:
        task.result()
    assert info.value.reason == "enough"
    assert info.value.args == ("enough",)


def test_without_a_reason_it_is_none(hub):
    for kill in (lambda task: task.kill(), lambda task: task.kill(reason=None)):
        task = spawn(sleep, 100)
        settle()
        kill(task)
        with pytest.raises(TaskExit) as info:
            task.result()
        assert info.value.reason is None
        assert info.value.args == ()
    assert TaskExit(1, 2).reason == 1


def test_a_reason_with_another_exception_is_a_type_error(hub):
    task = spawn(sleep)
    with pytest.raises(TypeError, match="reason"):
        task.kill(KeyError, reason="enough")
    with pytest.raises(TypeError):
        task.kill(None, None, None, "enough")
    assert task.join()


def test_a_reason_for_a_task_that_has_not_run_and_for_oneself(hub):
    early = spawn(sleep)
    early.kill(reason="early")
    with pytest.raises(TaskExit) as info:
        early.result()
    assert info.value.reason == "early"
    with pytest.raises(TaskExit) as info:
        spawn(lambda: Task.current().kill(reason="mine")).result()
    assert info.value.reason == "mine"


def test_a_task_killed_while_it_only_yields_goes_on_to_its_next_wait(hub):
    steps = []

    def work():
        sleep(0)
        steps.append("on")
        sleep(0)
        steps.append("never")

    task = spawn(work)
    spawn(lambda: task.kill())
    settle()
    assert steps == ["on"] and not task.is_alive()


def test_arguments_that_start_the_task_they_are_for_do_not_change_it(hub):
    task = Task(lambda: "first")

    class Keywords:
        def keys(self):
            task.start()
            return ()

        def __getitem__(self, name):
            raise KeyError(name)

    with pytest.raises(RuntimeError, match="cannot be made anew"):
        task.__init__(lambda: "second", kwargs=Keywords())
    assert task.result() == "first"


def test_a_task_that_a_collection_starts_while_it_is_being_started_runs_once(hub):
    ran, refused = [], []
    before = gc.get_threshold()

    def start():
        try:
            task.start()
        except RuntimeError:
            refused.append(True)

    def on_collection(phase, info):
        if phase == "start" and not task.is_alive() and not ran:
            gc.callbacks.remove(on_collection)
            start()

    for _ in range(10):
        task = Task(ran.append, args=(1,))
        contexts = [contextvars.copy_context() for _ in range(300)]  # else one that is kept is taken
        gc.callbacks.append(on_collection)
        gc.set_threshold(1)
        start()
        gc.set_threshold(*before)
        if on_collection in gc.callbacks:
            gc.callbacks.remove(on_collection)
        del contexts
        assert task.join(10)
        assert ran == [1]
        assert hub.stats()["tasks"] == 0
        ran.clear()


def test_what_a_task_calls_lives_until_it_returns_though_it_makes_the_task_anew(hub):
    class Target:
        def __call__(self):
            task.__init__(print)
            return alive() is not None

    target = partial(Target())
    alive = weakref.ref(target)
    task = Task(target)
    del target
    assert task.run()
