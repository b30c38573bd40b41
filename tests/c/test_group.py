"""group.c: tasks that end before a block of code does."""

import gc
import inspect
import sys
import threading
import weakref

import pytest
from helpers import Boom, in_thread, output_of, pass_time, run_python, settle, without_memory

import evergreen
from evergreen import EventLoop, Task, TaskExit, TaskGroup, fail_after, move_on_after, shield, sleep, spawn
from evergreen.event import Event
from evergreen.timeout import Timeout

PATIENCE = 30


class Clean(Exception):
    pass


def fail(exception=Boom, seconds=0):
    sleep(seconds)
    raise exception


def note_end(log, name, seconds=100):
    try:
        sleep(seconds)
        log.append((name, "done"))
    except BaseException as exc:
        log.append((name, type(exc).__name__))
        raise


def flat(group):
    """The exceptions of a group, as (type, text)."""
    return [(type(exc), str(exc)) for exc in group.exceptions]


@pytest.fixture(params=["main", "task"])
def run(request, hub):
    """Call a function in the main greenlet, or in a task."""
    if request.param == "main":
        return lambda function, *args: function(*args)
    return lambda function, *args: spawn(function, *args).result(PATIENCE)


# ---- the good case -------------------------------------------------------------------------------


def test_the_block_ends_when_all_tasks_have(run):
    def body():
        with TaskGroup() as group:
            tasks = [group.spawn(lambda n=n: (sleep(0.001 * (5 - n)), n)[1]) for n in range(5)]
            assert all(task.is_alive() for task in tasks)
        assert not any(task.is_alive() for task in tasks)
        return [task.result() for task in tasks]

    assert run(body) == list(range(5))


def test_spawn_passes_arguments_and_gives_the_task(run):
    def body():
        with TaskGroup() as group:
            task = group.spawn(lambda *args, **kwargs: (args, kwargs), 1, 2, three=3)
            assert isinstance(task, Task)
            assert group.tasks == [task]
        assert group.tasks == []
        return task.result()

    assert run(body) == ((1, 2), {"three": 3})


def test_an_empty_group_does_not_wait(run):
    def body():
        with TaskGroup():
            pass
        return "done"

    assert run(body) == "done"


def test_tasks_may_spawn_more_also_when_the_body_has_ended(run):
    def child(depth):
        sleep(0)
        if depth:
            group.spawn(child, depth - 1)
            group.spawn(child, depth - 1)
        ran.append(depth)

    def body():
        nonlocal group
        with TaskGroup() as group:
            group.spawn(child, 4)

    ran, group = [], None
    run(body)
    assert len(ran) == 31


def test_tasks_are_listed_in_the_order_in_which_they_were_spawned(hub):
    with TaskGroup() as group:
        gates = [Event() for _ in range(3)]
        tasks = [group.spawn(gate.wait) for gate in gates]
        assert group.tasks == tasks
        gates[1].set()
        tasks[1].join()
        assert group.tasks == [tasks[0], tasks[2]]
        gates[0].set()
        gates[2].set()


def test_the_value_of_the_block_gets_through(hub):
    def body():
        with TaskGroup() as group:
            group.spawn(sleep, 0.001)
            return "value"

    assert body() == "value"


def test_groups_nest(run):
    log = []

    def body():
        gate = Event()
        with TaskGroup() as outer:
            outer.spawn(lambda: (gate.wait(), note_end(log, "outer", 0.001)))
            with TaskGroup() as inner:
                inner.spawn(note_end, log, "inner", 0.001)
            log.append("between")
            gate.set()

    run(body)
    assert log == [("inner", "done"), "between", ("outer", "done")]


# ---- failures ------------------------------------------------------------------------------------


def test_the_first_failure_kills_the_others_and_the_body(run):
    log = []

    def body():
        with TaskGroup() as group:
            group.spawn(note_end, log, "sibling")
            group.spawn(fail, Boom("first"), 0.001)
            sleep(100)
            log.append("not reached")

    with pytest.raises(ExceptionGroup, match="TaskGroup") as info:
        run(body)
    assert flat(info.value) == [(Boom, "first")]
    assert log == [("sibling", "TaskExit")]


def test_a_failure_while_the_end_waits(run):
    log = []

    def body():
        with TaskGroup() as group:
            group.spawn(note_end, log, "sibling")
            group.spawn(fail, Boom, 0.001)

    with pytest.raises(ExceptionGroup):
        run(body)
    assert log == [("sibling", "TaskExit")]


def test_all_failures_come_out_in_the_order_in_which_they_happened(run):
    def slow(number):
        try:
            sleep(100)
        finally:
            sleep(0.001 * number)
            raise Clean(number)

    def body():
        with TaskGroup() as group:
            for number in (3, 1, 2):
                group.spawn(slow, number)
            group.spawn(fail, Boom("first"))

    with pytest.raises(ExceptionGroup) as info:
        run(body)
    assert flat(info.value) == [(Boom, "first"), (Clean, "1"), (Clean, "2"), (Clean, "3")]


def test_a_failure_of_the_body_kills_the_tasks_and_is_in_the_group(run):
    log = []

    def body():
        with TaskGroup() as group:
            group.spawn(note_end, log, "child")
            sleep(0)
            raise Boom("body")

    with pytest.raises(ExceptionGroup) as info:
        run(body)
    assert flat(info.value) == [(Boom, "body")]
    assert log == [("child", "TaskExit")]


def test_failures_of_the_body_and_of_tasks(run):
    def body():
        with TaskGroup() as group:
            group.spawn(fail, Boom("task"))
            try:
                sleep(100)
            except TaskExit:
                raise Clean("body") from None

    with pytest.raises(ExceptionGroup) as info:
        run(body)
    assert flat(info.value) == [(Boom, "task"), (Clean, "body")]


def test_a_tasks_exception_that_the_body_asked_for_comes_once(run):
    def body():
        with TaskGroup() as group:
            task = group.spawn(fail, Boom("task"))
            with shield():
                task.join()
            task.result()

    with pytest.raises(ExceptionGroup) as info:
        run(body)
    assert flat(info.value) == [(Boom, "task")]


def test_the_failures_of_an_inner_group_fail_the_outer_one(run):
    log = []

    def body():
        with TaskGroup() as outer:
            outer.spawn(note_end, log, "outer")
            with TaskGroup() as inner:
                inner.spawn(fail, Boom)
                inner.spawn(note_end, log, "inner")

    with pytest.raises(ExceptionGroup) as info:
        run(body)
    assert info.value.split(Boom)[0] is not None
    assert flat(info.value.exceptions[0]) == [(Boom, "")]
    assert sorted(log) == [("inner", "TaskExit"), ("outer", "TaskExit")]


def test_a_failure_in_the_outer_group_ends_the_inner_block(run):
    log = []

    def body():
        with TaskGroup() as outer:
            outer.spawn(fail, Boom, 0.001)
            with TaskGroup() as inner:
                inner.spawn(note_end, log, "inner")
            log.append("not reached")

    with pytest.raises(ExceptionGroup) as info:
        run(body)
    assert flat(info.value) == [(Boom, "")]
    assert log == [("inner", "TaskExit")]


def test_a_failure_in_the_outer_group_with_failures_in_the_inner_one(run):
    def stubborn():
        try:
            sleep(100)
        finally:
            raise Clean

    def body():
        with TaskGroup() as outer:
            outer.spawn(fail, Boom, 0.001)
            try:
                with TaskGroup() as inner:
                    inner.spawn(stubborn)
            except* Clean:
                log.append("cleaned")
            sleep(100)  # the outer group has failed: this is where the body learns of it
            log.append("not reached")

    log = []
    with pytest.raises(ExceptionGroup) as info:
        run(body)
    assert flat(info.value) == [(Boom, "")]
    assert log == ["cleaned"]


def test_a_group_is_caught_by_except_star(run):
    def body():
        caught = []
        try:
            with TaskGroup() as group:
                group.spawn(fail, Boom)
        except* Boom as group:
            caught.extend(group.exceptions)
        sleep(0.001)  # nothing is left that would hit the code after it
        return len(caught)

    assert run(body) == 1


def test_a_failure_that_was_in_the_group_is_not_reported(hub):
    with pytest.raises(ExceptionGroup):
        with TaskGroup() as group:
            group.spawn(fail, Boom)
    gc.collect()  # the hub fixture checks that nothing was


def test_base_exceptions_of_tasks_make_a_base_exception_group(run):
    class Base(BaseException):
        pass

    def body():
        with TaskGroup() as group:
            group.spawn(fail, Base)
            group.spawn(fail, Boom)

    with pytest.raises(BaseExceptionGroup) as info:
        run(body)
    assert [type(exc) for exc in info.value.exceptions] == [Base]


def test_the_body_may_catch_what_calls_it_out_and_the_group_fails_all_the_same(run):
    def body():
        with TaskGroup() as group:
            group.spawn(fail, Boom)
            try:
                sleep(100)
            except TaskExit as exc:
                log.append(exc.reason)
            sleep(0.001)
            log.append("went on")

    log = []
    with pytest.raises(ExceptionGroup):
        run(body)
    assert log == ["its task group failed", "went on"]


def test_a_failure_while_the_body_computes_does_not_hit_the_code_after_it(hub):
    def body():
        try:
            with TaskGroup() as group:
                group.spawn(fail, Boom)
                sleep(0)  # it has failed; the body is ready, and not called out yet
        except* Boom:
            pass
        sleep(0.001)
        return "not hit"

    assert spawn(body).result() == "not hit"
    assert body() == "not hit"


# ---- kills ---------------------------------------------------------------------------------------


def test_a_killed_task_is_no_failure(run):
    log = []

    def body():
        with TaskGroup() as group:
            task = group.spawn(sleep, 100)
            group.spawn(note_end, log, "other", 0.003)
            early = group.spawn(sleep, 100)
            early.kill()
            sleep(0)
            task.kill(reason="enough")
        with pytest.raises(TaskExit):
            task.result()
        return "done"

    assert run(body) == "done"
    assert log == [("other", "done")]


def test_a_task_killed_with_an_error_is_a_failure(run):
    def body():
        with TaskGroup() as group:
            group.spawn(sleep, 100).kill(Boom("before it ran"))
            sleep(100)

    with pytest.raises(ExceptionGroup) as info:
        run(body)
    assert flat(info.value) == [(Boom, "before it ran")]


def test_kill_ends_the_tasks_and_the_block_goes_on(run):
    def body():
        with TaskGroup() as group:
            tasks = [group.spawn(sleep, 100) for _ in range(3)]
            sleep(0)
            late = group.spawn(sleep, 100)
            group.kill(reason="enough")
            sleep(0.001)
            again = group.spawn(lambda: "more")
        for task in (*tasks, late):
            with pytest.raises(TaskExit) as info:
                task.result()
            assert info.value.reason == "enough"
        return again.result()

    assert run(body) == "more"


def test_kill_without_tasks_and_outside_of_the_block_is_harmless(hub):
    group = TaskGroup()
    group.kill()
    with group:
        group.kill(None)
    group.kill("reason")
    with pytest.raises(TypeError):
        group.kill(1, 2)


@pytest.mark.parametrize("where", ["in the body", "at the end"])
def test_a_kill_of_the_owner_kills_the_tasks_and_goes_on(hub, where):
    log = []

    def body():
        with TaskGroup() as group:
            group.spawn(note_end, log, "child")
            if where == "in the body":
                sleep(100)
        log.append("not reached")

    task = spawn(body)
    settle()
    task.kill(reason="enough")
    with pytest.raises(TaskExit) as info:
        task.result()
    assert info.value.reason == "enough"
    assert log == [("child", "TaskExit")]


def test_a_kill_of_the_owner_with_an_error_is_a_failure_wherever_it_comes(hub):
    for wait in (True, False):

        def body(wait=wait):
            with TaskGroup() as group:
                group.spawn(sleep, 100)
                if wait:
                    sleep(100)

        for exception in (Boom, RuntimeError):
            task = spawn(body)
            settle()
            task.kill(exception("kill"))
            with pytest.raises(ExceptionGroup) as info:
                task.result()
            assert flat(info.value) == [(exception, "kill")]


def test_a_kill_reaches_the_tasks_of_nested_groups(hub):
    log = []

    def child(name):
        with TaskGroup() as group:
            group.spawn(note_end, log, name)
            group.spawn(note_end, log, name)

    def body():
        with TaskGroup() as outer:
            outer.spawn(child, "a")
            with TaskGroup() as inner:
                inner.spawn(child, "b")

    task = spawn(body)
    settle()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()
    assert sorted(log) == [("a", "TaskExit")] * 2 + [("b", "TaskExit")] * 2


def test_a_kill_and_failures_in_the_clean_up(hub):
    """The failures come out, and the kill is met at the next wait."""
    log = []

    def child():
        try:
            sleep(100)
        finally:
            raise Clean

    def body():
        try:
            with TaskGroup() as group:
                group.spawn(child)
                sleep(100)
        except* Clean as caught:
            log.append(type(caught.__context__))
        log.append("after")
        sleep(100)
        log.append("not reached")

    task = spawn(body)
    settle()
    task.kill(reason="enough")
    with pytest.raises(TaskExit) as info:
        task.result()
    assert info.value.reason == "enough"
    assert log == [TaskExit, "after"]


@pytest.mark.parametrize("order", ["kill first", "failure first"])
def test_a_kill_that_comes_with_a_failure_is_not_lost(hub, order):
    def body():
        with TaskGroup() as group:
            group.spawn(lambda: (gate.wait(), fail(Boom)))
            try:
                sleep(100)
            finally:
                ends.append("left")

    def outer():
        try:
            body()
        except* Boom:
            pass
        sleep(0.001)
        return "the kill was lost"

    gate, ends = Event(), []
    task = spawn(outer)
    settle()
    if order == "kill first":
        task.kill()
        gate.set()
    else:
        gate.set()
        hub.call_soon(hub.call_soon, task.kill)
    with pytest.raises(TaskExit):
        task.result()
    assert ends == ["left"]


def test_a_kill_whose_clean_up_is_hit_by_a_failure_goes_on(hub):
    def work():
        with TaskGroup() as group:
            group.spawn(lambda: (gate.wait(), fail(Boom)))
            try:
                sleep(100)
            finally:
                gate.set()
                sleep(100)

    def outer():
        try:
            work()
        except* Boom:
            pass
        sleep(0.001)
        return "the kill was lost"

    gate = Event()
    task = spawn(outer)
    settle()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()


def test_a_kill_whose_clean_up_at_the_end_is_hit_by_a_deadline_goes_on(hub):
    def slow():
        with shield():
            gate.wait()

    def work():
        with move_on_after(0.003) as scope:
            with TaskGroup() as group:
                group.spawn(slow)
        scopes.append(scope)
        return "the kill was lost"

    gate, scopes = Event(), []
    task = spawn(work)
    settle()
    task.kill()
    hub.call_later(0.006, gate.set)
    with pytest.raises(TaskExit):
        task.result()
    assert scopes == []


def test_tasks_that_ignore_the_first_kill_are_waited_for(run):
    log = []

    def stubborn():
        try:
            sleep(100)
        except TaskExit:
            log.append("no")
        sleep(0.002)
        log.append("now")

    def body():
        with TaskGroup() as group:
            group.spawn(stubborn)
            group.spawn(fail, Boom)

    with pytest.raises(ExceptionGroup):
        run(body)
    assert log == ["no", "now"]


def test_a_second_kill_of_the_owner_reaches_tasks_that_ignored_the_first(hub):
    def stubborn():
        for _ in range(2):
            try:
                sleep(100)
            except TaskExit:
                log.append("no")
        sleep(100)

    def body():
        with TaskGroup() as group:
            group.spawn(stubborn)

    log = []
    task = spawn(body)
    settle()
    for number in range(3):
        assert len(log) == number
        task.kill(reason=number)
        settle()
    with pytest.raises(TaskExit) as info:
        task.result()
    assert info.value.reason == 2
    assert info.value.__context__.reason == 1


def test_slow_clean_up_is_waited_for(run):
    log = []

    def child():
        try:
            sleep(100)
        finally:
            sleep(0.003)
            log.append("clean")

    def body():
        with TaskGroup() as group:
            group.spawn(child)
            group.spawn(child)
            sleep(0)
            raise Boom

    with pytest.raises(ExceptionGroup):
        run(body)
    assert log == ["clean"] * 2


def test_a_task_that_was_spawned_and_has_not_run_never_does(run):
    ran = []

    def body():
        with TaskGroup() as group:
            group.spawn(ran.append, 1)
            raise Boom

    with pytest.raises(ExceptionGroup):
        run(body)
    assert ran == []


# ---- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["in the body", "at the end"])
def test_move_on_after_around_a_group(run, where):
    log = []

    def body():
        with move_on_after(0.002) as scope:
            with TaskGroup() as group:
                group.spawn(note_end, log, "child")
                if where == "in the body":
                    sleep(100)
            log.append("not reached")
        sleep(0.001)
        return scope.expired

    assert run(body) is True
    assert log == [("child", "TaskExit")]


@pytest.mark.parametrize("where", ["in the body", "at the end"])
def test_fail_after_around_a_group(run, where):
    def body():
        with fail_after(0.002):
            with TaskGroup() as group:
                group.spawn(sleep, 100)
                if where == "in the body":
                    sleep(100)

    with pytest.raises(TimeoutError):
        run(body)


@pytest.mark.parametrize("scope", [move_on_after, fail_after])
def test_failures_after_the_deadline_come_out(run, scope):
    def child():
        try:
            sleep(100)
        finally:
            raise Clean

    def body():
        with scope(0.002):
            with TaskGroup() as group:
                group.spawn(child)

    with pytest.raises(ExceptionGroup) as info:
        run(body)
    assert flat(info.value) == [(Clean, "")]


@pytest.mark.parametrize("scope", [move_on_after, fail_after])
def test_a_deadline_is_not_lost_when_failures_are_handled_inside_of_it(run, scope):
    def child():
        try:
            sleep(100)
        finally:
            raise Clean

    def body():
        with scope(0.002):
            try:
                with TaskGroup() as group:
                    group.spawn(child)
            except* Clean:
                log.append("handled")
            sleep(100)
            log.append("not reached")
        sleep(0.001)

    log = []
    if scope is move_on_after:
        run(body)
    else:
        with pytest.raises(TimeoutError):
            run(body)
    assert log == ["handled"]


def test_a_deadline_whose_block_ends_first_hits_nothing_after_it(run):
    def child():
        try:
            sleep(100)
        finally:
            raise Clean

    def body():
        with move_on_after(0.002):
            try:
                with TaskGroup() as group:
                    group.spawn(child)
            except* Clean:
                pass
        sleep(0.003)
        return "not hit"

    assert run(body) == "not hit"


def test_a_failure_in_time_is_no_timeout(run):
    def body():
        with fail_after(100), TaskGroup() as group:
            group.spawn(fail, Boom)

    with pytest.raises(ExceptionGroup):
        run(body)


def test_a_deadline_inside_the_body(run):
    def body():
        with TaskGroup() as group:
            task = group.spawn(lambda: (sleep(0.004), "done")[1])
            with move_on_after(0.001) as scope:
                sleep(100)
            assert scope.expired
        return task.result()

    assert run(body) == "done"


def test_a_deadline_inside_that_passes_together_with_a_failure(run):
    """Whichever comes first, the body is called out, and the deadline hits nothing else."""
    for seconds in (0.001, 0.002, 0.003):

        def body(seconds=seconds):
            with TaskGroup() as group:
                group.spawn(fail, Boom, 0.002)
                with move_on_after(seconds):
                    sleep(100)
                sleep(100)
                raise AssertionError("not reached")

        with pytest.raises(ExceptionGroup) as info:
            run(body)
        assert flat(info.value) == [(Boom, "")]
        sleep(0.003)


def test_a_deadline_outside_and_a_failure_due_at_the_same_time(run):
    def body():
        with move_on_after(0.002) as scope:
            try:
                with TaskGroup() as group:
                    group.spawn(fail, Boom, 0.002)
                    pass_time(0.006)  # both are due at the same poll
                    sleep(100)
            except* Boom:
                log.append("failed")
            sleep(100)
            log.append("not reached")
        return scope.expired

    log = []
    assert run(body) is True
    assert log in ([], ["failed"])


def test_a_timeout_with_an_error_of_its_own_is_a_failure_of_the_block(run):
    def body():
        with Timeout(0.002, Boom("late")):
            with TaskGroup() as group:
                group.spawn(sleep, 100)

    with pytest.raises(ExceptionGroup) as info:
        run(body)
    assert flat(info.value) == [(Boom, "late")]


def test_a_timeout_that_raises_itself_gets_through(run):
    def body():
        with Timeout(0.002):
            with TaskGroup() as group:
                group.spawn(sleep, 100)

    with pytest.raises(Timeout):
        run(body)


# ---- shields -------------------------------------------------------------------------------------


def test_a_shield_in_the_body_keeps_the_call_out_off(run):
    log = []

    def body():
        with TaskGroup() as group:
            group.spawn(fail, Boom)
            with shield():
                sleep(0.002)
                log.append("clean")
            sleep(100)
            log.append("not reached")

    with pytest.raises(ExceptionGroup):
        run(body)
    assert log == ["clean"]


def test_a_shield_at_the_end_of_the_body_does_not_leave_anything_behind(run):
    def body():
        try:
            with TaskGroup() as group:
                group.spawn(fail, Boom)
                with shield():
                    sleep(0.001)
        except* Boom:
            pass
        sleep(0.001)
        return "not hit"

    assert run(body) == "not hit"


def test_a_group_inside_a_shield_works_as_ever(run):
    log = []

    def body():
        with shield():
            with pytest.raises(ExceptionGroup):
                with TaskGroup() as group:
                    group.spawn(fail, Boom)
                    sleep(100)
                    log.append("not reached")
            log.append("after")

    run(body)
    assert log == ["after"]


def test_a_shield_inside_of_a_group_inside_of_a_shield(run):
    log = []

    def body():
        with shield():
            with pytest.raises(ExceptionGroup):
                with TaskGroup() as group:
                    group.spawn(fail, Boom)
                    with shield():
                        sleep(0.002)
                        log.append("clean")
                    sleep(100)
                    log.append("not reached")

    run(body)
    assert log == ["clean"]


def test_a_kill_waits_for_a_group_in_a_shield(hub):
    log = []

    def body():
        with shield():
            with TaskGroup() as group:
                group.spawn(lambda: (gate.wait(), log.append("done")))
        sleep(100)

    gate = Event()
    task = spawn(body)
    settle()
    task.kill()
    settle()
    assert log == []
    gate.set()
    with pytest.raises(TaskExit):
        task.result()
    assert log == ["done"]


@pytest.mark.parametrize("order", ["kill first", "failure first"])
def test_a_kill_and_a_failure_behind_one_shield(hub, order):
    def body():
        try:
            with TaskGroup() as group:
                group.spawn(lambda: (failing.wait(), fail(Boom)))
                with shield():
                    gate.wait()
                sleep(100)
        except* Boom:
            pass
        sleep(0.001)
        return "the kill was lost"

    gate, failing = Event(), Event()
    task = spawn(body)
    settle()
    steps = [task.kill, failing.set]
    for step in steps if order == "kill first" else reversed(steps):
        step()
        settle()
    gate.set()
    with pytest.raises(TaskExit):
        task.result()


# ---- Ctrl-C ----------------------------------------------------------------------------------------


def test_ctrl_c_in_a_task_of_mains_group_ends_the_group(hub):
    log = []
    with pytest.raises(KeyboardInterrupt):
        with TaskGroup() as group:
            group.spawn(note_end, log, "sibling")
            group.spawn(fail, KeyboardInterrupt)
            sleep(100)
    assert log == [("sibling", "TaskExit")]


def test_ctrl_c_in_a_task_of_a_tasks_group_ends_the_program_in_order(hub):
    log = []

    def body():
        with TaskGroup() as group:
            group.spawn(note_end, log, "sibling")
            group.spawn(fail, KeyboardInterrupt)

    with pytest.raises(KeyboardInterrupt):
        evergreen.run(body)
    assert log == [("sibling", "TaskExit")]


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_the_body(hub, exception):
    log = []
    with pytest.raises(exception):
        with TaskGroup() as group:
            group.spawn(note_end, log, "child")
            sleep(0)
            raise exception
    assert log == [("child", "TaskExit")]


def test_ctrl_c_goes_before_failures_in_the_clean_up_and_shows_them(hub):
    def child():
        try:
            sleep(100)
        finally:
            raise Clean

    with pytest.raises(KeyboardInterrupt) as info:
        with TaskGroup() as group:
            group.spawn(child)
            sleep(0)
            raise KeyboardInterrupt
    assert flat(info.value.__context__) == [(Clean, "")]
    sleep(0.001)


def test_ctrl_c_while_the_end_waits(hub):
    log = []
    spawn(fail, KeyboardInterrupt, 0.002)
    with pytest.raises(KeyboardInterrupt):
        with TaskGroup() as group:
            group.spawn(note_end, log, "child")
    assert log == [("child", "TaskExit")]


def test_ctrl_c_that_comes_with_a_failure_is_not_lost(hub):
    for order in ("Ctrl-C first", "failure first"):
        gates = [Event(), Event()]
        spawn(lambda gate=gates[0]: (gate.wait(), fail(KeyboardInterrupt)))
        with pytest.raises(KeyboardInterrupt) as info:
            with TaskGroup() as group:
                group.spawn(lambda gate=gates[1]: (gate.wait(), fail(Boom)))
                settle()
                for gate in gates if order == "Ctrl-C first" else reversed(gates):
                    gate.set()
                sleep(100)
        assert flat(info.value.__context__) == [(Boom, "")]
        sleep(0.001)


def test_a_real_ctrl_c_in_a_program_with_a_group():
    done = run_python("""
        import os, signal
        import evergreen
        def child():
            try:
                evergreen.sleep(100)
            finally:
                print("clean")
        def main():
            with evergreen.TaskGroup() as group:
                group.spawn(child)
                group.spawn(child)
                evergreen.sleep(0.01)
                os.kill(os.getpid(), signal.SIGINT)
        evergreen.run(main)
    """)
    assert done.stdout == "clean\nclean\n"
    assert done.returncode != 0
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


# ---- misuse ----------------------------------------------------------------------------------------


def test_spawn_before_and_after_the_block_is_a_runtime_error(hub):
    group = TaskGroup()
    with pytest.raises(RuntimeError, match="not entered"):
        group.spawn(sleep)
    with group:
        pass
    with pytest.raises(RuntimeError, match="ended"):
        group.spawn(sleep)


def test_spawn_after_a_failure_is_a_runtime_error(run):
    def body():
        with TaskGroup() as group:
            group.spawn(fail, Boom)
            try:
                sleep(100)
            finally:
                with pytest.raises(RuntimeError, match="failed"):
                    group.spawn(sleep)

    with pytest.raises(ExceptionGroup):
        run(body)


def test_a_group_is_entered_once(hub):
    group = TaskGroup()
    with group, pytest.raises(RuntimeError, match="once"):
        group.__enter__()
    with pytest.raises(RuntimeError, match="once"), group:
        pass
    with pytest.raises(RuntimeError, match="not entered"):
        TaskGroup().__exit__(None, None, None)
    with pytest.raises(TypeError):
        TaskGroup().__exit__()


def test_spawn_needs_a_callable(run):
    def body():
        with TaskGroup() as group:
            for bad in ((), (1,), ("x",)):
                with pytest.raises(TypeError):
                    group.spawn(*bad)

    run(body)


def test_another_thread_cannot_spawn_into_it(hub):
    with TaskGroup() as group:
        with pytest.raises(RuntimeError, match="thread"):
            in_thread(group.spawn, sleep)


def test_a_group_in_a_callback_is_a_runtime_error(hub):
    seen = []

    def callback():
        try:
            TaskGroup().__enter__()
        except RuntimeError as exc:
            seen.append(str(exc))

    hub.call_soon(callback)
    settle()
    assert "no task" in seen[0]


def test_a_deadlock_in_a_group_is_one_of_its_failures(hub):
    with pytest.raises(ExceptionGroup) as info:
        with TaskGroup() as group:
            group.spawn(Event().wait)
    assert [type(exc) for exc in info.value.exceptions] == [evergreen.Deadlock]


def test_a_generator_with_a_group_that_is_thrown_away(hub):
    log = []

    def numbers():
        with TaskGroup() as group:
            group.spawn(note_end, log, "child")
            yield 1
            yield 2

    iterator = numbers()
    assert next(iterator) == 1
    sleep(0)
    iterator.close()
    assert log == [("child", "TaskExit")]


# ---- loops, threads, fork ----------------------------------------------------------------------------


def test_a_group_in_another_threads_loop(hub):
    def thread():
        loop = EventLoop()

        def body():
            with TaskGroup() as group:
                group.spawn(sleep, 100)
                group.spawn(fail, Boom, 0.001)

        try:
            spawn(body).result()
        finally:
            loop.destroy()

    with pytest.raises(ExceptionGroup):
        in_thread(thread)


def test_a_task_killed_from_another_thread(hub):
    with TaskGroup() as group:
        task = group.spawn(sleep, 100)
        sleep(0)
        thread = threading.Thread(target=group.kill)
        thread.start()
        thread.join()
    assert not task.is_alive()


@pytest.mark.parametrize("ends", ["well", "with an error"])
def test_a_fork_in_a_task_of_a_group(ends):
    done = run_python(
        """
        import os, sys
        import evergreen
        from evergreen import TaskGroup, sleep

        def child(group):
            pid = os.fork()
            if pid:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if sys.argv[1] == "well":
                return "ignored"
            raise ValueError("in the child")

        def main():
            with TaskGroup() as group:
                group.spawn(sleep, 0.01)
                task = group.spawn(child, group)
                sleep(0.01)
            print(task.result())

        evergreen.run(main)
        """,
        ends,
    )
    assert done.returncode == 0
    assert done.stdout == ("0\n" if ends == "well" else "1\n")
    assert ("ValueError: in the child" in done.stderr) == (ends != "well")


def test_a_forked_child_may_use_groups_of_its_own():
    out = output_of("""
        import os
        import evergreen
        from evergreen import TaskGroup, sleep

        def child():
            pid = os.fork()
            if pid:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with TaskGroup() as group:
                tasks = [group.spawn(lambda: (sleep(0.001), 7)[1]) for _ in range(3)]
            os._exit(sum(task.result() for task in tasks))

        with TaskGroup() as group:
            group.spawn(sleep, 0.01)
            task = group.spawn(child)
        print(task.result())
    """)
    assert out == "21\n"


# ---- the object --------------------------------------------------------------------------------------


def test_a_group_is_freed_with_its_tasks_and_failures(hub):
    group = TaskGroup()
    ref = weakref.ref(group)

    with group:
        task = group.spawn(lambda group: group, group)
    task_ref = weakref.ref(task)
    del group, task
    gc.collect()
    assert (ref(), task_ref()) == (None, None)


def test_no_reference_is_lost_or_kept(hub):
    owner = Task.current()
    before = None
    for round in range(30):
        try:
            with TaskGroup() as group:
                group.spawn(sleep, 100)
                group.spawn(fail, Boom)
                if round % 2:
                    sleep(100)
        except* Boom:
            pass
        assert sys.getrefcount(group) == 2
        if round == 5:
            gc.collect()
            before = sys.getrefcount(owner)
    del group
    gc.collect()
    assert sys.getrefcount(owner) <= before  # from 3.14 on, a local may be counted once less


def test_repr_says_how_it_stands(hub):
    group = TaskGroup()
    assert repr(group).endswith(": 0 tasks, not entered>")
    with group:
        group.spawn(sleep)
        assert repr(group).endswith(": 1 tasks, open>")
    assert repr(group).endswith(": 0 tasks, ended>")


def test_signatures_and_arguments():
    assert str(inspect.signature(TaskGroup)) == "()"
    assert str(inspect.signature(TaskGroup.spawn)) == "(self, function, /, *args, **kwargs)"
    assert str(inspect.signature(TaskGroup.kill)) == "(self, /, reason=None)"
    with pytest.raises(TypeError):
        TaskGroup(1)


def test_a_subclass(hub):
    class Named(TaskGroup):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def spawn(self, function, *args):
            return super().spawn(function, self.name, *args)

    with Named("name") as group:
        task = group.spawn(lambda *args: args, 1)
    assert task.result() == ("name", 1)


def test_ten_thousand_tasks(hub):
    with TaskGroup() as group:
        tasks = [group.spawn(sleep, 0.001) for _ in range(10_000)]
    assert not any(task.is_alive() for task in tasks)
    with pytest.raises(ExceptionGroup):
        with TaskGroup() as group:
            for _ in range(10_000):
                group.spawn(sleep, 100)
            group.spawn(fail, Boom)


def test_empty_keyword_arguments_are_none(hub):
    nothing = {}
    with TaskGroup(*(), **nothing) as group:
        task = group.spawn(int)
    assert task.result() == 0


def test_the_end_of_the_block_takes_an_exception_and_nothing_else(hub):
    group = TaskGroup()
    group.__enter__()
    with pytest.raises(TypeError, match="takes an exception, not int"):
        group.__exit__(None, 1, None)
    assert not group.__exit__(None, None, None)


def test_a_member_that_kills_its_group_kills_the_others_too(hub):
    with TaskGroup() as group, fail_after(5):
        before = group.spawn(sleep, 100)
        killer = group.spawn(lambda: (sleep(0), group.kill()))
        after = group.spawn(sleep, 100)
    for task in before, killer, after:
        with pytest.raises(TaskExit):
            task.result()


def test_a_group_can_be_killed_without_memory(hub):
    with pytest.raises(BaseExceptionGroup) as caught, fail_after(5), TaskGroup() as group:
        tasks = [group.spawn(sleep, 100) for _ in range(3)]
        settle()
        kill = group.kill
        without_memory(kill)
    assert not any(task.is_alive() for task in tasks)
    assert caught.value.subgroup(MemoryError)


def test_failures_that_cannot_be_united_are_the_context_of_the_exception_that_says_so(hub):
    group = TaskGroup()
    group.__enter__()
    task = group.spawn(int, "x")
    with pytest.raises(TaskExit):
        sleep(1)
    leave, failure = group.__exit__, task.result
    with pytest.raises(MemoryError) as caught:
        without_memory(leave, None, None, None, failures=1)
    with pytest.raises(ValueError) as own:
        failure()
    assert caught.value.__context__ is own.value
