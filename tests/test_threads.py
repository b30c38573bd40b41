"""_threads.py: native threads for calls that block, in lanes."""

import threading

import pytest
from helpers import Boom, in_thread, native_sleep, output_of, settle

from evergreen import TaskExit, _threads, sleep, spawn
from evergreen.timeout import Timeout


@pytest.fixture
def lane(hub):
    """A lane of three threads; afterwards nothing is queued or pinned."""
    lane = _threads.Lane("test", 3)
    yield lane
    while hub.stats()["pins"]:
        sleep(0.001)


def work(lane, fn, *args, **kwargs):
    return lane.run(fn, args, kwargs)


def test_a_call_runs_in_a_native_thread_and_returns_its_result(lane):
    ident, value = work(lane, lambda value, key: (threading.get_ident(), value + key), 1, key=2)
    assert ident != threading.get_ident()
    assert value == 3


def test_a_call_raises_what_its_function_raises(lane):
    def fail():
        raise Boom("there")

    with pytest.raises(Boom, match="there"):
        work(lane, fail)


def test_base_exceptions_come_back_too(lane):
    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        work(lane, leave)
    assert work(lane, int) == 0


def test_other_tasks_run_while_a_call_blocks(lane):
    order, gate = [], threading.Event()
    task = spawn(lambda: (work(lane, gate.wait, 30), order.append("call")))
    for number in range(3):
        spawn(order.append, number)
    settle()
    gate.set()
    task.join()
    assert order == [0, 1, 2, "call"]


def test_as_many_calls_run_at_once_as_the_lane_has_threads(lane):
    running, most, lock = [0], [0], threading.Lock()

    def call():
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        native_sleep(0.005)
        with lock:
            running[0] -= 1

    tasks = [spawn(work, lane, call) for _ in range(20)]
    for task in tasks:
        task.result()
    assert 2 <= most[0] <= 3


def test_an_idle_thread_is_used_again(lane):
    idents = {work(lane, threading.get_ident) for _ in range(20)}
    assert len(idents) == 1


def test_a_full_lane_does_not_delay_another(hub, lane):
    gate = threading.Event()
    tasks = [spawn(work, lane, gate.wait, 30) for _ in range(10)]
    settle()
    other = _threads.Lane("other", 1)
    assert other.run(int, ("5",), {}) == 5
    gate.set()
    for task in tasks:
        assert task.result() is True


def test_a_killed_task_whose_call_was_not_begun_does_not_make_it(lane):
    gate, ran = threading.Event(), []
    blockers = [spawn(work, lane, gate.wait, 30) for _ in range(3)]
    settle()
    victim = spawn(work, lane, ran.append, 1)
    settle()
    victim.kill()
    with pytest.raises(TaskExit):
        victim.result()
    gate.set()
    for task in blockers:
        task.result()
    assert work(lane, int) == 0
    assert ran == []


def test_a_killed_task_whose_call_was_begun_leaves_it_to_end(lane):
    gate, begun, ended = threading.Event(), threading.Event(), []

    def call():
        begun.set()
        gate.wait(30)
        ended.append(True)

    victim = spawn(work, lane, call)
    settle()
    begun.wait(30)
    victim.kill()
    assert victim.join(1) is True
    assert ended == []
    gate.set()
    while not ended:
        sleep(0.001)


def test_a_call_can_be_timed_out(lane):
    gate = threading.Event()
    with pytest.raises(Timeout):
        with Timeout(0.002):
            work(lane, gate.wait, 30)
    gate.set()


def test_submit_gives_a_call_to_wait_for(hub, lane):
    gate, begun = threading.Event(), threading.Event()
    call = lane.submit(lambda: (begun.set(), gate.wait(30))[1], (), {})
    with pytest.raises(TimeoutError):
        call.get(0.001)
    assert hub.stats()["pins"] == 1
    begun.wait(30)
    assert call.cancel() is False
    gate.set()
    assert call.get(30) is True
    assert call.get() is True
    assert call.cancel() is False
    assert hub.stats()["pins"] == 0


def test_a_cancelled_call_raises_task_exit(hub, lane):
    gate = threading.Event()
    blockers = [lane.submit(gate.wait, (30,), {}) for _ in range(3)]
    call = lane.submit(int, (), {})
    assert call.cancel() is True
    assert call.cancel() is False
    with pytest.raises(TaskExit):
        call.get()
    gate.set()
    for blocker in blockers:
        assert blocker.get() is True


def test_a_call_from_a_thread_without_a_loop(lane):
    assert in_thread(work, lane, int, "7") == 7


def test_a_pending_call_keeps_run_running(hub, lane):
    done = []
    spawn(lambda: done.append(work(lane, native_sleep, 0.01)))
    hub.run()
    assert done == [None]


def test_the_threads_are_native_although_everything_is_patched():
    out = output_of(
        """
        import evergreen, threading
        from evergreen import _policy, patcher
        patcher.patch()
        import _thread
        native = patcher.original("_thread").get_ident
        main = native()
        def work():
            return _policy.offload(native)
        print(evergreen.run(work) != main)
        """
    )
    assert out == "True\n"


def test_arguments_and_results_are_freed(lane):
    import gc
    import weakref

    class Thing:
        pass

    thing = Thing()
    ref = weakref.ref(thing)
    work(lane, lambda thing: [thing], thing)
    del thing
    work(lane, int)
    gc.collect()
    assert ref() is None


def test_an_exception_of_a_call_makes_no_cycle(lane):
    import gc
    import weakref

    class Thing:
        pass

    def fail(thing):
        raise Boom

    thing = Thing()
    ref = weakref.ref(thing)
    gc.collect()
    gc.disable()
    try:
        try:
            work(lane, fail, thing)
        except Boom:
            pass
        del thing
        work(lane, int)
        assert ref() is None
    finally:
        gc.enable()


def test_a_thread_ends_when_it_has_been_idle(hub, monkeypatch):
    monkeypatch.setattr(_threads, "IDLE_SECONDS", 0.01)
    lane = _threads.Lane("short", 2)
    assert lane.run(int, (), {}) == 0
    assert lane._threads == 1
    deadline = hub.time() + 20
    while lane._threads and hub.time() < deadline:
        sleep(0.005)
    assert lane._threads == 0
    for _ in range(50):  # a call that comes as a thread ends is made all the same
        assert lane.run(int, ("4",), {}) == 4
        sleep(0.01)


def test_the_interpreter_exits_while_threads_are_idle_or_blocked():
    out = output_of(
        """
        import evergreen, threading
        from evergreen import _policy
        evergreen.run(_policy.offload, int)
        evergreen.spawn(_policy.offload, threading.Event().wait)
        evergreen.sleep(0.01)
        print("end")
        """,
        timeout=20,
    )
    assert out == "end\n"


def test_a_lane_goes_on_after_a_thread_found_no_memory(hub, monkeypatch):
    def refuse(function, args):
        raise MemoryError

    lane = _threads.Lane("test", 1)
    with monkeypatch.context() as patch:
        patch.setattr(_threads, "start_native_thread", refuse)
        with pytest.raises(MemoryError):
            lane.run(abs, (-1,), {})
    assert spawn(lane.run, abs, (-2,), {}).result(5) == 2


def test_a_call_whose_signal_mask_finds_no_memory_fails_and_is_over(hub, monkeypatch):
    def refuse(mask):
        raise MemoryError

    call = _threads.Call(abs, (-1,), {})
    with monkeypatch.context() as patch:
        patch.setattr(_threads.core, "signal_mask", refuse)
        call.run()
    with pytest.raises(MemoryError):
        call.get(5)
