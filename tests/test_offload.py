"""evergreen.offload: any callable in a native thread."""

import contextvars
import threading

import pytest
from helpers import in_thread, native_sleep, output_of, settle

import evergreen
from evergreen import TaskExit, _threads, lane_limit, offload, offload_to, patcher, sleep, spawn
from evergreen.timeout import Timeout

pytestmark = pytest.mark.usefixtures("hub")


@pytest.fixture
def narrow(monkeypatch):
    """Lanes of one thread, which does not stay for long."""
    before = {name: lane_limit(name) for name in _threads.lanes}
    with monkeypatch.context() as patch:
        patch.setattr(_threads, "IDLE_SECONDS", 0.01)
        for name in before:
            lane = _threads.Lane(name, 1, grows=_threads.lanes[name].grows)
            patch.setattr(_threads, name, lane)
            patch.setitem(_threads.lanes, name, lane)
            lane_limit(name, 1)
        yield
    for name, limit in before.items():
        lane_limit(name, limit)


def test_a_call_runs_in_a_native_thread_while_others_run():
    gate = threading.Event()
    caller = spawn(offload, gate.wait, 30)
    ran = spawn(threading.get_ident)
    assert ran.result() == threading.get_ident()
    assert caller.is_alive()
    gate.set()
    assert caller.result() is True
    assert offload(threading.get_ident) != threading.get_ident()


def test_arguments_results_and_exceptions_pass_through():
    assert offload(int, "ff", base=16) == 255
    with pytest.raises(ValueError, match="invalid literal"):
        offload(int, "x")


def test_a_call_sees_the_context_of_its_task():
    variable = contextvars.ContextVar("variable", default="outer")

    def work():
        variable.set("inner")
        return offload(lambda: (variable.get(), variable.set("lost"))[0]), variable.get()

    assert spawn(work).result() == ("inner", "inner")
    assert offload(variable.get) == "outer"


def test_a_call_that_was_not_begun_is_taken_back(narrow):
    gate, ran = threading.Event(), []
    first = spawn(offload, gate.wait, 30)
    settle()
    victim = spawn(offload, ran.append, 1)
    settle()
    victim.kill()
    with pytest.raises(TaskExit):
        victim.result()
    gate.set()
    first.result()
    assert offload(len, ran) == 0


def test_a_call_can_time_out():
    gate = threading.Event()
    with pytest.raises(Timeout):
        with Timeout(0.002):
            offload(gate.wait, 30)
    gate.set()


def test_lanes_do_not_delay_each_other(narrow):
    gate = threading.Event()
    waiting = [spawn(offload_to, lane, gate.wait, 30) for lane in ("dns", "file") for _ in range(3)]
    settle()
    assert offload(int, "5") == 5
    gate.set()
    for task in waiting:
        task.result()


def test_an_offloaded_function_may_offload(narrow):
    def nested(depth):
        return depth if depth == 0 else offload(nested, depth - 1) + 1

    tasks = [spawn(offload, nested, 5) for _ in range(4)]
    assert [task.result() for task in tasks] == [5] * 4
    assert offload(lambda: offload_to("dns", lambda: offload(int, "7"))) == 7


def test_an_offloaded_function_with_a_loop_of_its_own_may_offload(narrow):
    def work():
        return evergreen.run(lambda: [spawn(offload, int, str(n)).result() for n in range(5)])

    tasks = [spawn(offload, work) for _ in range(3)]
    assert [task.result() for task in tasks] == [[0, 1, 2, 3, 4]] * 3


def test_the_loops_thread_pool_of_0_2(hub):
    work = hub._threadpool.spawn(int, "ff", base=16)
    assert work.get() == 255


def test_a_thread_without_a_loop_may_offload():
    assert in_thread(offload, int, "7") == 7


def test_limits(narrow):
    running, most, lock = [0], [0], threading.Lock()

    def call():
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        native_sleep(0.002)
        with lock:
            running[0] -= 1

    assert lane_limit("user", 3) == 1
    assert lane_limit("user") == 3
    for task in [spawn(offload, call) for _ in range(20)]:
        task.result()
    assert 2 <= most[0] <= 3


def test_mistakes_are_told():
    for call in (
        lambda: offload_to("nowhere", int),
        lambda: lane_limit("nowhere"),
        lambda: lane_limit("user", 0),
    ):
        with pytest.raises(ValueError):
            call()


def test_offload_works_when_everything_is_patched():
    out = output_of(
        """
        import time, threading
        import evergreen
        from evergreen import patcher, spawn, offload
        sleep = patcher.original("time").sleep
        patcher.patch()

        def nested(n):
            sleep(0.001)
            return offload(nested, n - 1) + 1 if n else 0

        print([task.result() for task in [spawn(offload, nested, 3) for _ in range(50)]] == [3] * 50)
        """
    )
    assert out == "True\n"


def test_a_forked_child_offloads():
    out = output_of(
        """
        import os, evergreen
        evergreen.offload(int)
        pid = os.fork()
        if pid == 0:
            os._exit(evergreen.offload(int, "7"))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
        options=("-W", "ignore::DeprecationWarning"),  # of a fork in a process with threads
    )
    assert out == "7\n"


def test_sleeping_tasks_go_on_while_a_call_runs():
    ticks = []

    def tick():
        while True:
            sleep(0.001)
            ticks.append(1)

    ticker = spawn(tick)
    offload(native_sleep, 0.05)
    ticker.kill()
    assert len(ticks) > 5


def test_a_lane_of_files_grows_while_none_of_its_calls_ends(hub, narrow):
    gate = patcher.original("threading").Event()
    stuck = [spawn(offload_to, "file", gate.wait) for _ in range(5)]
    settle()
    assert spawn(offload_to, "file", len, "abc").result(10) == 3
    gate.set()
    assert [task.result() for task in stuck] == [True] * 5
