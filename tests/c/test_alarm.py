"""alarm.c: an exception that a task raises in itself later."""

import gc
import math
import sys
import weakref

import pytest
from helpers import in_thread, pass_time, settle

from evergreen import TaskExit, sleep, spawn
from evergreen._evergreen_c import Alarm
from evergreen.event import Event


class Boom(Exception):
    pass


def test_an_alarm_goes_off_at_the_wait(hub):
    alarm = Alarm()
    alarm.start(0.001, Boom)
    assert alarm.armed
    with pytest.raises(Boom):
        sleep(100)
    assert not alarm.armed


def test_an_alarm_that_is_cancelled_raises_nothing(hub):
    alarm = Alarm()
    alarm.start(0.001, Boom)
    alarm.cancel()
    alarm.cancel()
    assert not alarm.armed
    sleep(0.003)


def test_an_alarm_raises_in_the_task_that_set_it(hub):
    def work():
        Alarm().start(0.001, Boom("mine"))
        sleep(100)

    other = spawn(sleep, 0.01)
    with pytest.raises(Boom, match="mine"):
        spawn(work).result()
    other.result()


def test_an_alarm_that_went_off_before_the_wait_is_taken_back_by_cancel(hub):
    def work():
        alarm = Alarm()
        alarm.start(0.001, Boom)
        in_thread(pass_time)  # the task computes; the hub sees the time at another's turn
        in_thread(hub.call_from_thread, hub.get_timeout)
        alarm.cancel()
        sleep(0.003)
        return "not hit"

    assert spawn(work).result() == "not hit"


def test_an_alarm_that_woke_a_computing_task_hits_its_next_wait(hub):
    def work():
        alarm = Alarm()
        alarm.start(0.001, Boom)
        pass_time()
        try:
            sleep(0)
            sleep(0)
        except Boom:
            return "hit"

    assert spawn(work).result() == "hit"


def test_an_alarm_can_be_started_again(hub):
    alarm = Alarm()
    for _ in range(3):
        alarm.start(0.001, Boom)
        with pytest.raises(Boom):
            sleep(100)
    alarm.start(100, Boom)
    alarm.cancel()
    alarm.start(0.001, Boom)
    with pytest.raises(Boom):
        sleep(100)


def test_an_alarm_that_is_set_cannot_be_started(hub):
    alarm = Alarm()
    alarm.start(100, Boom)
    with pytest.raises(RuntimeError, match="already"):
        alarm.start(1, Boom)
    alarm.cancel()


def test_an_alarm_for_ever_never_goes_off(hub):
    alarm = Alarm()
    alarm.start(math.inf, Boom)
    assert not alarm.armed
    alarm.cancel()


def test_several_alarms_go_off_each_in_its_time(hub):
    first, second = Alarm(), Alarm()
    second.start(0.004, KeyError)
    first.start(0.001, Boom)
    with pytest.raises(Boom):
        sleep(100)
    with pytest.raises(KeyError):
        sleep(100)


def test_two_alarms_that_are_due_together_are_both_raised(hub):
    alarms = [Alarm(), Alarm()]
    alarms[0].start(0.001, Boom)
    alarms[1].start(0.002, KeyError)
    pass_time(0.006)
    met = []
    for _ in range(6):
        try:
            sleep(0.001)
        except (Boom, KeyError) as exc:
            met.append(type(exc))
    assert met == [Boom, KeyError]


def test_a_kill_that_comes_with_an_alarm_is_not_lost(hub):
    def work():
        alarm = Alarm()
        alarm.start(0.001, Boom)
        try:
            sleep(100)
        except Boom:
            sleep(100)
        finally:
            alarm.cancel()

    task = spawn(work)
    settle()
    pass_time()
    hub.call_soon(task.kill)
    assert task.join(5)
    with pytest.raises(TaskExit):
        task.result()


def test_an_alarm_whose_task_has_ended_is_harmless(hub):
    def work():
        Alarm().start(0.005, Boom)

    task = spawn(work)
    task.join()
    sleep(0.01)
    assert task.result() is None


@pytest.mark.parametrize("args", [(), (1,), (1, 2), (1, int), (1, "x"), ("1", Boom), (1, Boom, 1)])
def test_start_refuses_bad_arguments(hub, args):
    with pytest.raises(TypeError):
        Alarm().start(*args)


def test_start_refuses_nan(hub):
    with pytest.raises(ValueError):
        Alarm().start(math.nan, Boom)


def test_start_in_a_callback_or_a_foreign_thread_is_a_runtime_error(hub):
    seen = []

    def callback():
        try:
            Alarm().start(1, Boom)
        except RuntimeError as exc:
            seen.append(str(exc))

    hub.call_soon(callback)
    settle()
    assert "no task" in seen[0]
    with pytest.raises(RuntimeError):
        in_thread(lambda: Alarm().start(1, Boom))


def test_an_alarm_and_its_exception_are_freed(hub):
    exception = Boom()
    before = sys.getrefcount(exception)
    alarm = Alarm()
    ref_holder = []
    for _ in range(5):
        alarm.start(100, exception)
        alarm.cancel()
        with pytest.raises(Boom):
            alarm.start(0.001, exception)
            Event().wait(100)
        alarm.cancel()
        exception.__traceback__ = None
        ref_holder.clear()
    settle()
    gc.collect()
    assert sys.getrefcount(exception) == before


def test_a_dropped_alarm_still_goes_off(hub):
    def work():
        alarm = Alarm()
        alarm.start(0.002, Boom)
        del alarm
        gc.collect()
        sleep(100)

    with pytest.raises(Boom):
        spawn(work).result()


def test_an_alarm_holds_its_task_until_it_went_off(hub):
    refs = []

    def work():
        Alarm().start(0.005, Boom)

    task = spawn(work)
    refs.append(weakref.ref(task))
    task.join()
    del task
    assert refs[0]() is not None
    sleep(0.01)
    settle()
    gc.collect()
    assert refs[0]() is None
