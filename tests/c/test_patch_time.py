"""patch_time.c: time.sleep() lets other tasks run."""

import time
from fractions import Fraction
from time import sleep as imported_before

import pytest
from helpers import child_python, in_thread, output_of, pass_time, settle, wait_until_asleep

import evergreen
from evergreen import TaskExit, patcher, spawn
from evergreen import _evergreen_c as core

native_sleep = core.patch_native("time", "sleep")


@pytest.fixture
def patched(hub):
    with patcher.patched(time=True):
        yield hub


def refusal(function, *args):
    with pytest.raises(Exception) as caught:
        function(*args)
    return caught.type, str(caught.value)


def test_sleep_lets_other_tasks_run(patched):
    ran = []
    spawn(ran.append, 1)
    time.sleep(0.001)
    assert ran == [1]


def test_sleepers_wake_in_the_order_of_their_deadlines(patched):
    order = []

    def sleeper(seconds):
        time.sleep(seconds)
        order.append(seconds)

    for task in [spawn(sleeper, seconds) for seconds in (0.009, 0.003, 0.006)]:
        task.join()
    assert order == [0.003, 0.006, 0.009]


@pytest.mark.parametrize("seconds", [0.002, 1e-9, 0.0005])
def test_sleep_never_ends_early(patched, seconds):
    before = time.monotonic()
    time.sleep(seconds)
    assert time.monotonic() - before >= seconds


def test_a_deadline_counts_from_the_call_however_long_others_compute(patched):
    task = spawn(time.sleep, 0.003)
    settle()
    pass_time(0.005)
    before = time.monotonic()
    task.join()
    assert time.monotonic() - before < 0.003


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, False])
def test_sleep_of_zero_lets_everything_that_is_ready_run_once(patched, zero):
    ran = []
    for number in range(3):
        spawn(ran.append, number)
    time.sleep(zero)
    assert ran == [0, 1, 2]


def test_a_sleep_that_was_imported_before_the_patch_cooperates_too(patched):
    assert imported_before is time.sleep
    ran = []
    spawn(ran.append, 1)
    imported_before(0)
    assert ran == [1]


def test_anything_that_has_an_index_is_a_number_of_seconds(patched):
    class Zero:
        def __index__(self):
            return 0

    assert time.sleep(Zero()) is None


@pytest.mark.parametrize(
    "args",
    [
        (-1,),
        (-1e-9,),
        (float("nan"),),
        (float("inf"),),
        (1e10,),
        (10**400,),
        ("1",),
        (None,),
        (1j,),
        (),
        (0, 0),
    ],
)
def test_what_the_original_refuses_is_refused_in_its_own_words(hub, args):
    natively = refusal(time.sleep, *args)
    with patcher.patched(time=True):
        assert refusal(time.sleep, *args) == natively


def test_a_fraction_is_taken_where_the_original_takes_it(patched):
    try:
        native_sleep(Fraction(1, 1000000))
    except TypeError:
        with pytest.raises(TypeError):
            time.sleep(Fraction(1, 1000000))
    else:
        time.sleep(Fraction(1, 1000000))


def test_a_sleeping_task_can_be_killed(patched):
    task = spawn(time.sleep, 1000)
    settle()
    task.kill()
    task.join()
    with pytest.raises(TaskExit):
        task.result()


def test_a_sleeping_task_says_that_it_sleeps(patched):
    task = spawn(time.sleep, 1000)
    settle()
    assert task.waiting[0] == "sleep"
    task.kill()
    task.join()


def test_a_callback_may_not_sleep(patched):
    refused = []

    def callback():
        try:
            time.sleep(1)
        except RuntimeError as exc:
            refused.append(str(exc))

    patched.call_soon(callback)
    settle()
    assert "spawn a task" in refused[0]


def test_a_native_thread_sleeps_natively(patched):
    assert in_thread(time.sleep, 0.001) is None


def test_after_the_block_the_original_is_back(hub):
    with patcher.patched(time=True):
        pass
    ran = []
    task = spawn(ran.append, 1)
    time.sleep(0.001)
    assert ran == []
    task.join()


def test_ctrl_c_ends_a_sleep_in_main():
    code = """
        import time
        import evergreen
        from evergreen import patcher

        patcher.patch(time=True)
        evergreen.spawn(time.sleep, 1000)
        print("ready")
        try:
            time.sleep(1000)
        except KeyboardInterrupt:
            print("interrupted")
    """
    with child_python(code) as child:
        assert child.stdout.readline() == "ready\n"
        wait_until_asleep(child.pid)
        child.send_signal(2)
        assert child.stdout.readline() == "interrupted\n"


def test_a_thousand_sleepers_take_as_long_as_one():
    code = """
        import time
        import evergreen
        from evergreen import patcher

        patcher.patch(time=True)
        before = time.monotonic()
        for task in [evergreen.spawn(time.sleep, 0.05) for _ in range(1000)]:
            task.join()
        print(time.monotonic() - before < 5)
    """
    assert output_of(code) == "True\n"


def test_evergreen_and_patched_sleepers_share_one_clock(patched):
    order = []

    def sleeper(sleep, seconds):
        sleep(seconds)
        order.append(seconds)

    tasks = [
        spawn(sleeper, evergreen.sleep if number % 2 else time.sleep, number / 40)
        for number in (5, 2, 4, 1, 3)
    ]
    for task in tasks:
        task.join()
    assert order == sorted(order)
