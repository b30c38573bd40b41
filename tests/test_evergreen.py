"""The package itself: run, the task decorator, current, fork."""

import contextvars
import threading

import pytest
from helpers import Boom, in_thread, output_of, run_python, settle

import evergreen
from evergreen import Channel, EventLoop, Task, TaskExit, sleep, spawn
from evergreen.event import Event

# ---- run -----------------------------------------------------------------------------------------


def test_run_returns_what_the_function_returns(hub):
    def add(a, b, *, c):
        sleep(0.001)
        return a + b + c

    assert evergreen.run(add, 1, 2, c=3) == 6


def test_run_runs_the_function_in_a_task(hub):
    task = evergreen.run(Task.current)
    assert task is not hub.main_task
    assert not task.is_alive()


def test_run_raises_what_the_function_raises(hub):
    def fail():
        sleep(0)
        raise Boom("once")

    with pytest.raises(Boom, match="once"):
        evergreen.run(fail)


def test_run_lets_the_tasks_of_the_function_run(hub):
    def main():
        tasks = [spawn(lambda n=n: (sleep(0.001), n)[1]) for n in range(5)]
        return [task.result() for task in tasks]

    assert evergreen.run(main) == list(range(5))


def test_tasks_that_run_leaves_behind_go_on_when_main_blocks_again(hub):
    done = []
    evergreen.run(lambda: spawn(lambda: (sleep(0.001), done.append(1))) and None)
    assert done == []
    sleep(0.05)
    assert done == [1]


def test_run_in_a_task_waits_like_any_call(hub):
    def outer():
        return evergreen.run(lambda: (sleep(0.001), "inner")[1])

    other = spawn(sleep, 0)
    assert spawn(outer).result() == "inner"
    assert other.join(0) is True


def test_an_exception_that_arrives_meanwhile_kills_the_task_and_comes_out(hub):
    cleaned = []

    def work():
        try:
            sleep(100)
        except TaskExit:
            sleep(0.001)
            cleaned.append(True)
            raise

    def interrupt():
        raise KeyboardInterrupt

    hub.call_later(0.002, interrupt)
    with pytest.raises(KeyboardInterrupt):
        evergreen.run(work)
    assert cleaned == [True]


def test_system_exit_in_the_function_comes_out_of_run():
    child = run_python(
        """
        import evergreen, sys
        def main():
            evergreen.sleep(0.001)
            sys.exit(9)
        evergreen.run(main)
        """
    )
    assert (child.returncode, child.stdout, child.stderr) == (9, "", "")


def test_a_traceback_of_run_shows_the_function():
    child = run_python(
        """
        import evergreen
        def explode():
            raise KeyError("inside")
        evergreen.run(explode)
        """
    )
    assert child.returncode == 1
    assert child.stderr.count("KeyError: 'inside'") == 1
    assert "explode" in child.stderr


def test_run_in_a_thread_makes_a_loop_for_the_call():
    def thread():
        result = evergreen.run(lambda: (sleep(0.001), "value")[1])
        with pytest.raises(RuntimeError):
            EventLoop.current()
        with pytest.raises(Boom):
            evergreen.run(fail)
        with pytest.raises(RuntimeError):
            EventLoop.current()
        return result

    def fail():
        raise Boom

    assert in_thread(thread) == "value"


def test_run_in_a_thread_ends_what_the_function_left_behind():
    ended = []

    def linger():
        try:
            sleep(100)
        finally:
            ended.append(True)

    in_thread(evergreen.run, lambda: (spawn(linger), sleep(0))[1])
    assert ended == [True]


def test_run_in_a_thread_with_a_loop_uses_it():
    def thread():
        loop = EventLoop()
        assert evergreen.run(EventLoop.current) is loop
        assert not loop.destroyed
        loop.destroy()

    in_thread(thread)


@pytest.mark.parametrize("bad", [None, 1, "text"])
def test_run_needs_a_callable(hub, bad):
    with pytest.raises(TypeError):
        evergreen.run(bad)


def test_run_takes_the_current_context_along(hub):
    variable = contextvars.ContextVar("variable")
    token = variable.set("outside")

    def main():
        seen = variable.get()
        variable.set("inside")
        return seen

    assert evergreen.run(main) == "outside"
    assert variable.get() == "outside"
    variable.reset(token)


def test_run_with_everything_blocked_is_a_deadlock_that_kills_the_task():
    out = output_of(
        """
        import evergreen
        from evergreen.event import Event

        def main():
            try:
                Event().wait()
            except evergreen.TaskExit:
                print("killed")
                raise

        try:
            evergreen.run(main)
        except evergreen.Deadlock as exc:
            print("deadlock")
        """
    )
    assert out == "killed\ndeadlock\n"


# ---- task ----------------------------------------------------------------------------------------


def test_the_task_decorator_spawns(hub):
    @evergreen.task
    def double(value, *, times=2):
        """Multiply."""
        sleep(0)
        return value * times

    task = double(4)
    assert isinstance(task, Task)
    assert task.result() == 8
    assert double(4, times=3).result() == 12
    assert double.__name__ == "double"
    assert double.__doc__ == "Multiply."


def test_the_task_decorator_works_on_methods(hub):
    class Counter:
        def __init__(self):
            self.count = 0

        @evergreen.task
        def add(self, number):
            self.count += number

    counter = Counter()
    counter.add(3).join()
    assert counter.count == 3


# ---- current -------------------------------------------------------------------------------------


def test_current_says_where_the_code_runs(hub):
    assert evergreen.current.loop is hub
    assert evergreen.current.task is hub.main_task
    assert spawn(lambda: evergreen.current.task).result() is not hub.main_task


def test_current_has_nothing_to_set(hub):
    with pytest.raises(AttributeError):
        evergreen.current.loop = None


# ---- the package ---------------------------------------------------------------------------------


def test_everything_in_all_is_there():
    for name in evergreen.__all__:
        assert getattr(evergreen, name) is not None
    assert len(set(evergreen.__all__)) == len(evergreen.__all__)


def test_everything_public_has_a_docstring():
    for name in evergreen.__all__:
        if name not in ("__version__", "current"):
            assert getattr(evergreen, name).__doc__, name
    for kind in (EventLoop, Task, Channel, Event, evergreen.Handler, evergreen.Timer):
        for name in dir(kind):
            if not name.startswith("_"):
                assert getattr(kind, name).__doc__, f"{kind.__name__}.{name}"


def test_importing_makes_no_loop_and_starts_no_thread():
    out = output_of(
        """
        import evergreen, threading
        import evergreen.event, evergreen.patcher, evergreen.timeout
        from evergreen import _evergreen_c as core
        print(core.loop_here(), threading.active_count(), evergreen.patcher.is_patched("time"))
        """
    )
    assert out == "None 1 False\n"


def test_types_and_exceptions_say_where_they_live():
    for name in ("Task", "Channel", "Handler", "Timer", "TaskExit", "Deadlock"):
        kind = getattr(evergreen, name)
        assert (kind.__module__, kind.__qualname__) == ("evergreen", name)
    assert not issubclass(TaskExit, Exception)


def test_tasks_cannot_be_pickled_or_copied(hub):
    import copy
    import pickle

    for thing in (hub, spawn(int), Channel(), Event()):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
        with pytest.raises(TypeError):
            copy.copy(thing)
    settle()


# ---- fork ----------------------------------------------------------------------------------------


def test_fork_returns_zero_in_the_child_and_its_pid_in_the_parent():
    out = output_of(
        """
        import evergreen, os
        pid = evergreen.fork()
        if pid == 0:
            evergreen.sleep(0.001)
            os._exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert out == "3\n"


def test_fork_takes_keep_tasks_by_name_only(hub):
    with pytest.raises(TypeError):
        evergreen.fork(True)


def test_a_thread_without_a_loop_can_fork():
    out = output_of(
        """
        import evergreen, os, threading
        evergreen.sleep(0.001)
        def thread():
            pid = os.fork()
            if pid == 0:
                os._exit(5)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        native = threading.Thread(target=thread)
        native.start()
        native.join()
        print(evergreen.run(lambda: (evergreen.sleep(0.001), "fine")[1]))
        """,
        options=("-W", "ignore::DeprecationWarning"),  # Python 3.12 and newer warn of forks beside threads
    )
    assert out == "5\nfine\n"


def test_threads_start_and_end_without_a_trace(hub):
    for _ in range(20):
        in_thread(evergreen.run, sleep, 0)
    assert threading.active_count() < 20
