"""_policy.py: what the core leaves to Python."""

import io
import signal
import sys
import threading

import pytest
from helpers import settle

import evergreen
from evergreen import _evergreen_c as core
from evergreen import _policy, sleep, spawn
from evergreen.event import Event


def arguments(source=None, what="Exception in test"):
    try:
        raise ValueError("text")
    except ValueError as exc:
        return _policy.ExceptHookArgs(type(exc), exc, exc.__traceback__, what, source)


def test_print_exception_names_the_source(hub, capsys):
    task = spawn(int)
    task.name = "named"
    for source, head in (
        (None, "Exception in test:"),
        (task, "Exception in test 'named':"),
        (3, "Exception in test 3:"),
    ):
        _policy.print_exception(arguments(source))
        text = capsys.readouterr().err
        assert text.splitlines()[0] == head
        assert text.endswith("ValueError: text\n")
    settle()


def test_print_exception_without_a_stream_is_silent(hub, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    _policy.print_exception(arguments())


def test_report_prefers_the_loops_hook(hub):
    hook, seen = hub.excepthook, []
    hub.excepthook = seen.append
    args = arguments()
    _policy.report(hub, args.err_msg, None, args.exc_value)
    hub.excepthook = hook
    assert seen == [args]


def test_report_without_a_loop_prints(capsys):
    args = arguments()
    _policy.report(None, args.err_msg, None, args.exc_value)
    assert "ValueError: text" in capsys.readouterr().err


def test_describe_says_what_a_task_waits_for_since_when_and_where(hub):
    event = Event()

    def wait_here():
        event.wait(100)

    task = spawn(wait_here)
    settle()
    text = _policy.describe(task)
    assert text.splitlines()[0].startswith(f"{task!r} waits for event {event!r} since ")
    assert "in wait_here" in text and "event.wait(100)" in text
    event.set()
    task.join()
    assert _policy.describe(task) == repr(task)


def test_describe_works_on_the_task_that_runs(hub):
    assert _policy.describe(hub.main_task).startswith(repr(hub.main_task))


def test_a_deadlock_names_at_most_fifty_tasks(hub):
    tasks = [spawn(sleep, 100) for _ in range(60)]
    settle()
    exc = _policy.deadlock(hub)
    assert isinstance(exc, evergreen.Deadlock)
    assert "the 61 tasks" in str(exc)
    assert str(exc).endswith("... and 11 more")
    assert exc.tasks == [hub.main_task, *tasks]
    for task in tasks:
        task.kill()


def test_no_deadlock_while_a_signal_may_come(hub):
    before = signal.signal(signal.SIGUSR1, lambda *args: None)
    try:
        assert _policy.deadlock(hub) is None
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert _policy.deadlock(hub) is not None


def test_a_signal_handler_says_what_it_handles(hub):
    handler = hub.add_signal_handler(signal.SIGUSR1, print)
    assert repr(handler).startswith("<SignalHandler SIGUSR1 <") and "print" in repr(handler)
    handler.cancel()
    assert "cancelled" in repr(handler)


def test_offload_runs_in_a_native_thread(hub):
    assert _policy.offload(threading.get_ident) != threading.get_ident()
    assert _policy.offload(int, ("12",), {"base": 8}) == 10
    assert _policy.offload_name_lookup(int, ("5",), None) == 5


def test_the_loops_thread_pool_is_that_of_0_2(hub):
    call = hub._threadpool.spawn(int, "11", base=2)
    assert call.get() == 3


def test_the_loops_task_lives_until_run_has_ended(hub):
    assert hub.task.is_alive()
    seen = []
    hub.call_soon(lambda: seen.append(hub.task.is_alive()))
    hub.run()
    assert seen == [True]
    assert not hub.task.is_alive()


def test_unobserved_failures_are_counted_and_reported_once(hub, monkeypatch):
    hook, seen = hub.excepthook, []
    hub.excepthook = seen.append
    task = spawn(int, "x")
    task.join()
    assert core.unobserved() == 1
    _policy._report_the_rest()
    _policy._report_the_rest()
    core.report(task)
    hub.excepthook = hook
    assert [report.object for report in seen] == [task]
    assert core.unobserved() == 0


def test_report_takes_tasks_only(hub):
    with pytest.raises(TypeError):
        core.report(1)
    core.report(spawn(int))
    settle()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broken_stderr_does_not_break_the_hub(hub, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError("no space")

    hook, hub.excepthook = hub.excepthook, None
    monkeypatch.setattr(sys, "stderr", Broken())
    spawn(int, "x")
    settle()
    monkeypatch.undo()
    hub.excepthook = hook
    assert spawn(int, "5").result() == 5
