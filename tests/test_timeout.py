"""timeout.py: bounding the time that a block of code may wait."""

import pytest
from helpers import in_thread, pass_time, settle

from evergreen import Channel, TaskExit, sleep, spawn
from evergreen.event import Event
from evergreen.timeout import Timeout


class Slow(Exception):
    pass


def test_a_block_that_takes_too_long_ends_with_the_timeout(hub):
    with pytest.raises(Timeout) as info:
        with Timeout(0.001) as timeout:
            sleep(100)
    assert info.value is timeout


def test_a_block_that_is_in_time_leaves_nothing_behind(hub):
    with Timeout(100):
        sleep(0.001)
    assert hub.stats()["timers"] == 0
    sleep(0.002)


def test_an_exception_class_or_instance_is_raised_instead(hub):
    with pytest.raises(Slow):
        with Timeout(0.001, Slow):
            sleep(100)
    instance = Slow("this very one")
    with pytest.raises(Slow) as info:
        with Timeout(0.001, instance):
            sleep(100)
    assert info.value is instance


def test_false_suppresses_it(hub):
    reached = []
    with Timeout(0.001, False):
        sleep(100)
        reached.append("inside")
    assert reached == []


def test_false_suppresses_nothing_else(hub):
    with pytest.raises(Slow):
        with Timeout(100, False):
            raise Slow
    with pytest.raises(Timeout):
        with Timeout(0.001):
            with Timeout(100, False):
                sleep(100)


@pytest.mark.parametrize("seconds", [None, -1, -0.5, float("inf")])
def test_some_times_never_come(hub, seconds):
    with Timeout(seconds) as timeout:
        sleep(0.002)
    timeout.cancel()


def test_zero_ends_the_block_at_its_first_wait(hub):
    with pytest.raises(Timeout):
        with Timeout(0):
            sleep(100)


def test_the_task_of_the_block_alone_is_meant(hub):
    bystanders = [spawn(sleep, 0.005) for _ in range(3)]

    def work():
        with Timeout(0.001):
            sleep(100)

    with pytest.raises(Timeout):
        spawn(work).result()
    for task in bystanders:
        task.result()


def test_tasks_with_timeouts_of_their_own(hub):
    def work(milliseconds):
        try:
            with Timeout(0.010):
                sleep(milliseconds / 1000)
        except Timeout:
            return "late"
        return "in time"

    tasks = [spawn(work, ms) for ms in (1, 1000, 2, 2000)]
    assert [task.result() for task in tasks] == ["in time", "late", "in time", "late"]


def test_the_inner_of_two_goes_off_first(hub):
    with pytest.raises(Slow):
        with Timeout(100):
            with Timeout(0.001, Slow):
                sleep(100)
    assert hub.stats()["timers"] == 0


def test_the_outer_of_two_goes_off_first(hub):
    with pytest.raises(Timeout) as info:
        with Timeout(0.001) as outer:
            with Timeout(100, Slow):
                sleep(100)
    assert info.value is outer
    assert hub.stats()["timers"] == 0


def test_the_outer_one_still_goes_off_after_the_inner(hub):
    inner_ended = []
    before = hub.time()
    with Timeout(0.02, False):
        with Timeout(0.001, False):
            sleep(100)
        inner_ended.append(hub.time() - before)
        sleep(100)
    assert inner_ended[0] < 10
    assert hub.time() - before >= 0.02


def test_two_that_pass_while_the_task_computes_both_go_off(hub):
    ended = []

    def work():
        with Timeout(0.02, False):
            with Timeout(0.001, False):
                pass_time(0.03)
                sleep(100)
            ended.append("inner")
            sleep(100)
        ended.append("outer")

    task = spawn(work)
    assert task.join(10)
    task.result()
    assert ended == ["inner", "outer"]


def test_a_timeout_that_passed_while_the_block_computed_does_not_hit_the_code_after_it(hub):
    def work():
        with Timeout(0.001):
            in_thread(pass_time)
        sleep(0.003)
        return "not hit"

    assert spawn(work).result() == "not hit"


def test_a_timeout_in_a_clean_up_bounds_it(hub):
    ended = []

    def work():
        try:
            sleep(100)
        finally:
            with Timeout(0.001, False):
                sleep(100)
            ended.append(True)

    task = spawn(work)
    settle()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()
    assert ended == [True]


def test_start_and_cancel_without_a_block(hub):
    timeout = Timeout(0.001)
    timeout.start()
    with pytest.raises(Timeout) as info:
        sleep(100)
    assert info.value is timeout
    timeout.cancel()
    timeout.start()
    timeout.cancel()
    sleep(0.003)


def test_starting_twice_is_a_runtime_error(hub):
    timeout = Timeout(100)
    timeout.start()
    with pytest.raises(RuntimeError, match="already"):
        timeout.start()
    timeout.cancel()


def test_entering_a_started_timeout_does_not_start_it_again(hub):
    timeout = Timeout(0.001)
    timeout.start()
    with pytest.raises(Timeout):
        with timeout:
            sleep(100)


def test_a_timeout_can_be_used_again(hub):
    timeout = Timeout(0.001, False)
    for _ in range(3):
        with timeout:
            sleep(100)
        with timeout:
            pass


def test_a_timeout_in_a_thread_without_a_loop_is_a_runtime_error():
    def thread():
        with Timeout(1):
            pass

    with pytest.raises(RuntimeError):
        in_thread(thread)


def test_a_timeout_bounds_several_waits_together(hub):
    count = []
    before = hub.time()
    with pytest.raises(Timeout):
        with Timeout(0.02):
            while True:
                sleep(0.002)
                count.append(1)
    assert 1 <= len(count) <= 10
    assert hub.time() - before < 10


def test_a_timeout_ends_a_busy_task_that_yields(hub):
    with pytest.raises(Timeout):
        with Timeout(0.005):
            while True:
                sleep(0)


def test_a_killed_block_cancels_its_timeout(hub):
    def work():
        with Timeout(100):
            sleep(100)

    task = spawn(work)
    settle()
    task.kill()
    task.join()
    assert hub.stats()["timers"] == 0


def test_a_value_that_comes_in_time_wins(hub):
    channel = Channel()
    hub.call_later(0.001, spawn, channel.send, "value")
    with Timeout(30):
        assert channel.receive() == "value"


def test_a_timeout_takes_nothing_from_a_channel(hub):
    channel = Channel()
    with Timeout(0.001, False):
        channel.receive()
    sender = spawn(channel.send, "value")
    assert channel.receive() == "value"
    sender.join()


def test_a_bounded_wait_within_a_block_returns_false_in_its_own_time(hub):
    with Timeout(100):
        assert Event().wait(0.001) is False


@pytest.mark.parametrize("seconds", ["1", object(), [1]])
def test_bad_times_are_type_errors(hub, seconds):
    with pytest.raises(TypeError):
        with Timeout(seconds):
            pass


def test_bad_exceptions_are_type_errors(hub):
    with pytest.raises(TypeError):
        with Timeout(1, "text"):
            pass
    with pytest.raises(TypeError):
        with Timeout(1, int):
            pass
    assert hub.stats()["timers"] == 0


def test_str_and_repr_say_the_time(hub):
    assert str(Timeout()) == ""
    assert str(Timeout(1)) == "1 second"
    assert str(Timeout(5)) == "5 seconds"
    assert str(Timeout(5, False)) == "5 seconds (silent)"
    assert "Slow" in str(Timeout(5, Slow))
    assert "seconds=5" in repr(Timeout(5))
    assert "Slow" in repr(Timeout(5, Slow))


def test_a_timeout_is_no_exception_that_blanket_handlers_catch(hub):
    def work():
        try:
            sleep(100)
        except Exception:
            return "swallowed"

    with pytest.raises(Timeout):
        with Timeout(0.001):
            work()
