"""trace.c: debuggers, profilers and coverage see tasks as they see threads."""

import sys
import threading

import pytest
from helpers import settle

from evergreen import patcher, sleep, spawn
from evergreen.event import Event

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 15),
    reason="CPython 3.15 crashes when a trace function is set while another greenlet is suspended",
)


@pytest.fixture
def hooks():
    """Put this thread's and threading's hooks back as they were."""
    before = sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()
    yield
    threading.settrace(before[2])
    threading.setprofile(before[3])
    sys.settrace(before[0])
    sys.setprofile(before[1])


def work():
    total = 1
    sleep(0)
    total += 1
    return total


def test_threading_settrace_reaches_tasks(hub, hooks):
    lines = []

    def trace(frame, event, arg):
        if frame.f_code is work.__code__:
            lines.append((event, frame.f_lineno - work.__code__.co_firstlineno))
        return trace

    threading.settrace(trace)
    task = spawn(work)
    threading.settrace(None)
    assert task.result() == 2
    lines.clear()
    threading.settrace(trace)
    assert spawn(work).result() == 2
    threading.settrace(None)
    assert ("call", 0) in lines
    assert [line for event, line in lines if event == "line"] == [1, 2, 3, 4]


def test_each_task_is_traced_by_itself(hub, hooks):
    seen = []

    def trace(frame, event, arg):
        if frame.f_code is work.__code__:
            seen.append(event)
        return trace

    threading.settrace(trace)
    tasks = [spawn(work) for _ in range(3)]
    assert [task.result() for task in tasks] == [2, 2, 2]
    threading.settrace(None)
    assert seen.count("call") == 3
    assert seen.count("line") == 12
    assert seen.count("return") == 3


def test_threading_setprofile_reaches_tasks(hub, hooks):
    calls = []

    def profile(frame, event, arg):
        if frame.f_code is work.__code__:
            calls.append(event)

    threading.setprofile(profile)
    assert spawn(work).result() == 2
    threading.setprofile(None)
    assert calls[0] == "call" and calls[-1] == "return"


def test_tasks_that_start_when_no_hook_is_set_are_not_traced(hub, hooks):
    seen = []
    task = spawn(work)
    task.join()
    threading.settrace(lambda *args: seen.append(args))
    threading.settrace(None)
    assert spawn(work).result() == 2
    assert seen == []


def test_a_tracing_task_does_not_trace_the_others(hub, hooks):
    seen = []

    def other():
        sleep(0)
        sleep(0)

    def trace(frame, event, arg):
        seen.append(frame.f_code.co_name)
        return trace

    def traced():
        sys.settrace(trace)
        work()
        sys.settrace(None)

    tasks = [spawn(traced), spawn(other)]
    for task in tasks:
        task.result()
    assert "work" in seen
    assert sys.gettrace() is None or "other" not in seen


def test_a_hook_that_fails_ends_the_tracing_and_not_the_task(hub, hooks):
    def trace(frame, event, arg):
        if frame.f_code is work.__code__:
            raise ValueError("from the hook")

    threading.settrace(trace)
    with pytest.raises(ValueError, match="from the hook"):
        spawn(work).result()
    threading.settrace(None)
    assert spawn(work).result() == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with Python 3.12")
def test_sys_monitoring_sees_tasks(hub):
    monitoring, seen = sys.monitoring, []
    tool = monitoring.PROFILER_ID
    monitoring.use_tool_id(tool, "test")
    try:
        monitoring.register_callback(
            tool, monitoring.events.PY_START, lambda code, offset: seen.append(code.co_name)
        )
        monitoring.set_events(tool, monitoring.events.PY_START)
        assert spawn(work).result() == 2
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
    assert "work" in seen


@pytest.mark.skipif(sys.version_info < (3, 12), reason="threading.settrace_all_threads came with Python 3.12")
def test_what_is_set_for_all_threads_is_set_for_tasks_that_wait(hub, hooks):
    seen = []

    def trace(frame, event, arg):
        if event == "call" and frame.f_code in (leaf.__code__, work.__code__):
            seen.append(frame.f_code.co_name)

    def leaf():
        return threading.get_ident()

    def waits():
        gate.wait()
        return leaf()

    with patcher.patched():
        gate = threading.Event()
        tasks = [spawn(waits) for _ in range(2)]
        settle()
        threading.settrace_all_threads(trace)
        gate.set()
        for task in tasks:
            task.result()
        assert seen == ["leaf", "leaf"]
        spawn(work).join()
        threading.settrace_all_threads(None)
        assert (sys.gettrace(), seen) == (None, ["leaf", "leaf", "work"])
        spawn(work).join()
        assert seen == ["leaf", "leaf", "work"]


def test_a_thread_is_profiled_by_itself(hub, hooks):
    def leaf():
        sleep(0)

    def counted(n):
        calls = []
        sys.setprofile(
            lambda frame, event, arg: calls.append(event) if frame.f_code is leaf.__code__ else None
        )
        for _ in range(n):
            leaf()
        sys.setprofile(None)
        counts[n] = calls.count("call")

    counts = {}
    with patcher.patched():
        threads = [threading.Thread(target=counted, args=(n,)) for n in (5, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts == {5: 5, 10: 10}
    assert sys.getprofile() is None


def test_a_task_that_waits_in_a_trace_function_leaves_others_to_be_traced(hub, hooks):
    stopped, gate = [], Event()

    def trace(frame, event, arg):
        if frame.f_code is work.__code__:
            stopped.append(threading.get_ident())
            gate.wait()

    with patcher.patched():
        threading.settrace(trace)
        tasks = [threading.Thread(target=work), threading.Thread(target=work)]
        for task in tasks:
            task.start()
        other = spawn(work)
        settle()
        assert len(set(stopped)) == 3
        gate.set()
        for task in (*tasks, other):
            task.join()
        threading.settrace(None)
