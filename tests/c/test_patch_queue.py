"""patch_queue.c: SimpleQueue.get() lets other tasks run until something is put."""

import queue
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import Empty, SimpleQueue

import pytest
from helpers import in_thread, native, parked, pass_time, refusal, settle
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from evergreen import Deadlock, EventLoop, patcher, sleep, spawn
from evergreen.timeout import Timeout


@pytest.fixture
def patched(hub):
    with patcher.patched(thread=True):
        yield hub


@pytest.fixture
def simple(patched):
    return SimpleQueue()


def end(*tasks):
    for task in tasks:
        task.kill()
    for task in tasks:
        task.join()


def test_who_polls_an_empty_queue_lets_others_put(simple):
    task, got, end = spawn(lambda: (sleep(0.001), simple.put(7))), None, time.monotonic() + 10
    while not got:
        try:
            got = simple.get(False)
        except Empty:
            assert time.monotonic() < end
    task.join()


@pytest.mark.parametrize("put", ["put", "put_nowait"])
def test_get_lets_other_tasks_run_until_something_is_put(simple, put):
    task, ran = parked(simple.get), []
    spawn(ran.append, 1).join()
    assert ran == [1]
    getattr(simple, put)("item")
    assert task.result() == "item"


def test_get_takes_what_is_there_without_letting_others_run(simple):
    simple.put(1)
    ran = []
    task = spawn(ran.append, 1)
    assert simple.get() == 1
    assert not ran
    task.join()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {"block": False}), ((False,), {}), ((0, 5), {}), ((True, 0), {}), ((1, 0.0), {})],
)
def test_a_get_that_may_not_wait_does_not_let_others_run(simple, args, kwargs):
    ran = []
    task = spawn(ran.append, 1)
    with pytest.raises(Empty):
        simple.get(*args, **kwargs)
    with pytest.raises(Empty):
        simple.get_nowait()
    assert not ran
    task.join()


@pytest.mark.parametrize(
    ("args", "kwargs"), [((True, 0.003), {}), ((), {"timeout": 0.003}), ((1,), {"timeout": 0.003})]
)
def test_a_get_that_takes_too_long_raises_empty(simple, args, kwargs):
    before = time.monotonic()
    with pytest.raises(Empty):
        simple.get(*args, **kwargs)
    assert time.monotonic() - before >= 0.003
    simple.put(1)
    assert simple.qsize() == 1


@pytest.mark.parametrize("args", [(), (True, None), (True, 30), (1, 29.5)])
def test_a_get_that_is_woken_in_time_returns_the_item(simple, args):
    task = parked(simple.get, *args)
    simple.put(None)
    assert task.result() is None


BAD = [
    ((True, -1), {}),
    ((True, -0.5), {}),
    ((True, "x"), {}),
    ((True, float("nan")), {}),
    ((True, float("inf")), {}),
    ((True, 1e20), {}),
    ((True, 10**400), {}),
    ((True, 1, 2), {}),
    ((), {"unknown": 1}),
    ((True,), {"block": True}),
]


@pytest.mark.parametrize(("args", "kwargs"), BAD)
def test_what_get_refuses_is_refused_in_its_own_words(hub, args, kwargs):
    simple = SimpleQueue()
    natively = refusal(simple.get, *args, **kwargs)
    with patcher.patched(thread=True):
        assert refusal(simple.get, *args, **kwargs) == natively


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3, 4), {}), ((1,), {"unknown": 1})])
def test_what_put_refuses_is_refused_in_its_own_words(hub, args, kwargs):
    simple = SimpleQueue()
    natively = refusal(simple.put, *args, **kwargs)
    with patcher.patched(thread=True):
        assert refusal(simple.put, *args, **kwargs) == natively


def test_an_error_of_a_truth_value_is_raised_by_get(simple):
    class Undecided:
        def __bool__(self):
            raise KeyError

    with pytest.raises(KeyError):
        simple.get(Undecided())


def test_items_go_to_the_tasks_in_the_order_in_which_they_came(simple):
    tasks = [spawn(simple.get) for _ in range(20)]
    settle()
    for item in range(20):
        simple.put(item)
    assert [task.result() for task in tasks] == list(range(20))


def test_a_get_whose_item_was_taken_by_another_waits_on(simple):
    task = parked(simple.get)
    simple.put(1)
    assert simple.get_nowait() == 1
    settle()
    assert task.is_alive()
    simple.put(2)
    assert task.result() == 2


def test_the_time_of_a_get_whose_item_was_taken_goes_on(simple):
    before = time.monotonic()
    task = parked(simple.get, timeout=0.005)
    simple.put(1)
    simple.get_nowait()
    with pytest.raises(Empty):
        task.result()
    assert 0.005 <= time.monotonic() - before < 5


def test_a_killed_getter_leaves_the_queue(simple):
    first, second = parked(simple.get), parked(simple.get)
    end(first)
    simple.put(1)
    assert second.result() == 1


def test_a_getter_that_is_killed_after_it_was_woken_wakes_the_next(simple):
    first, second = parked(simple.get), parked(simple.get)
    simple.put(1)
    first.kill()
    assert second.result() == 1
    first.join()


def test_an_item_whose_getter_is_killed_stays(simple):
    task = parked(simple.get)
    simple.put(1)
    end(task)
    assert simple.get_nowait() == 1


def test_a_callback_may_look_into_a_queue_but_not_wait(simple):
    outcome = []

    def callback():
        outcome.append(refusal(simple.get, False))
        outcome.append(refusal(simple.get))
        simple.put(1)
        outcome.append(simple.get())

    EventLoop.current().call_soon(callback)
    settle()
    assert [kind for kind, _ in outcome[:2]] == [Empty, RuntimeError]
    assert outcome[2] == 1


def test_what_a_native_thread_puts_wakes_a_task_at_once(simple):
    def put():
        pass_time(0.01)  # the hub sleeps by now, without a deadline
        simple.put("item")

    task = spawn(simple.get)
    call = native(put)
    assert task.result() == "item"
    call.get()


def test_a_native_thread_gets_natively_what_a_task_puts(simple):
    call = native(simple.get)
    sleep(0.001)
    simple.put("item")
    assert call.get() == "item"


def test_native_threads_and_tasks_get_every_item_once(simple):
    def work():
        return list(iter(simple.get, None))

    calls = [native(work) for _ in range(3)]
    tasks = [spawn(work) for _ in range(3)]
    for item in range(600):
        simple.put(item)
        if item % 7 == 0:
            sleep(0)
    for _ in range(6):
        simple.put(None)
    got = [item for task in tasks for item in task.result()] + [item for call in calls for item in call.get()]
    assert sorted(got) == list(range(600))


def test_tasks_of_two_loops_share_a_queue(simple):
    answers = SimpleQueue()

    def other():
        loop = EventLoop()
        try:
            while (item := spawn(simple.get).result()) is not None:
                answers.put(item * 2)
        finally:
            loop.destroy()

    call = native(other)
    for item in range(100):
        simple.put(item)
        assert spawn(answers.get).result() == item * 2
    simple.put(None)
    call.get()


def test_waiting_for_what_nobody_can_put_is_a_deadlock(simple):
    with pytest.raises(Deadlock, match="queue"):
        simple.get()


def test_a_task_tells_which_queue_it_waits_for(simple):
    task = parked(simple.get)
    kind, source, _, _ = task.waiting
    assert (kind, source) == ("queue", simple)
    end(task)


@pytest.mark.parametrize("make", [SimpleQueue, queue.Queue, queue.LifoQueue])
def test_what_is_put_after_unpatching_wakes_who_waited_before(hub, make):
    simple = make()
    with patcher.patched(thread=True):
        first, second = parked(simple.get), parked(simple.get)
    simple.put(1)
    in_thread(simple.put, 2)
    assert {first.result(10), second.result(10)} == {1, 2}


def test_a_subclass_cooperates(patched):
    class Mine(SimpleQueue):
        def put(self, item):
            super().put(("mine", item))

    mine = Mine()
    task = parked(mine.get)
    mine.put(1)
    assert task.result() == ("mine", 1)


def test_a_queue_of_a_module_that_was_imported_afresh_cooperates(patched):
    saved = sys.modules.pop("_queue")
    try:
        import _queue as fresh
    finally:
        sys.modules["_queue"] = saved
    simple = fresh.SimpleQueue()
    task = parked(simple.get)
    simple.put(1)
    assert task.result() == 1


def test_a_call_site_that_ran_hot_before_the_patch_cooperates(hub):
    def take(simple):
        return simple.get()

    simple = SimpleQueue()
    for item in range(1000):
        simple.put(item)
    for item in range(1000):
        assert take(simple) == item
    with patcher.patched(thread=True):
        task = parked(take, simple)
        simple.put(1)
        assert task.result() == 1


# ---- what stands on it ----------------------------------------------------------------------


def test_the_workers_of_a_thread_pool_are_tasks(patched):
    with ThreadPoolExecutor(4) as pool:
        before = time.monotonic()
        futures = [pool.submit(lambda n=n: (sleep(0.01), EventLoop.current(), n)[1:]) for n in range(8)]
        assert [future.result() for future in futures] == [(patched, n) for n in range(8)]
        assert time.monotonic() - before < 8 * 0.01 + 5
    assert {future.result()[1] for future in as_completed(futures)} == set(range(8))
    assert not [task for task in patched.tasks() if task.is_alive()]


def test_a_thread_pool_hands_on_what_its_calls_raise(patched):
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(int, "x").exception(), ValueError)
        assert list(pool.map(int, "123")) == [1, 2, 3]


@pytest.mark.parametrize("make", [queue.Queue, queue.LifoQueue, queue.PriorityQueue])
def test_the_queues_in_python_cooperate(patched, make):
    bounded, got = make(1), []

    def consume():
        while (item := bounded.get()) < 5:
            got.append(item)
            bounded.task_done()
        bounded.task_done()

    task = parked(consume)
    for item in range(6):
        bounded.put(item)
    bounded.join()
    task.join()
    assert got == list(range(5))
    bounded.put(1)
    with pytest.raises(queue.Full):
        bounded.put(2, timeout=0.001)
    bounded.get()
    with pytest.raises(queue.Empty):
        bounded.get(timeout=0.001)


# ---- nothing is lost ------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.sampled_from(
            ["get", "get for a while", "get with a timeout", "steal", "put", "put", "run", "pass"]
        ).map(lambda step: (step, None)),
        st.tuples(st.just("kill"), st.integers(0, 20)),
    ),
    min_size=3,
    max_size=25,
)


def test_whatever_ends_its_getters_a_queue_gives_each_item_once_in_order():
    @hypothesis_settings(max_examples=200, deadline=None, database=None)
    @given(STEPS)
    def check(steps):
        simple, got, tasks, sent = SimpleQueue(), [], [], 0

        def take(wait):
            try:
                item = wait()
            except (Empty, Timeout):
                return
            got.append(item)

        def in_time():
            with Timeout(0.001):
                return simple.get()

        waits = {
            "get": simple.get,
            "get for a while": lambda: simple.get(timeout=0.001),
            "get with a timeout": in_time,
        }
        for step, number in steps:
            if step in waits:
                tasks.append(spawn(take, waits[step]))
            elif step == "steal":
                take(simple.get_nowait)
            elif step == "put":
                simple.put(sent)
                sent += 1
            elif step == "run":
                settle()
            elif step == "pass":
                pass_time(0.0015)
                sleep(0)
            elif number < len(tasks):
                tasks[number].kill()
        settle()
        assert simple.empty() or not any(task.is_alive() for task in tasks)
        while not simple.empty():
            got.append(simple.get())
        end(*tasks)
        assert got == list(range(sent))

    loop = EventLoop()
    try:
        with patcher.patched(thread=True):
            check()
        stats = loop.stats()
        assert not any(stats[name] for name in ("tasks", "timers", "ready"))
    finally:
        loop.destroy()
