"""scope.c: deadlines of blocks of code, and shields."""

import gc
import math
import sys
import weakref

import pytest
from helpers import Boom, in_thread, pass_time, settle

from evergreen import TaskExit, sleep, spawn
from evergreen.event import Event
from evergreen.timeout import Timeout, fail_after, move_on_after, shield


def test_a_timeout_goes_off_at_the_wait(hub):
    timeout = Timeout(0.001, Boom)
    timeout.start()
    assert timeout.pending
    with pytest.raises(Boom):
        sleep(100)
    assert not timeout.pending


def test_a_timeout_that_is_cancelled_raises_nothing(hub):
    timeout = Timeout(0.001, Boom)
    timeout.start()
    timeout.cancel()
    timeout.cancel()
    assert not timeout.pending
    sleep(0.003)


def test_a_timeout_raises_in_the_task_that_set_it(hub):
    def work():
        Timeout(0.001, Boom("mine")).start()
        sleep(100)

    other = spawn(sleep, 0.01)
    with pytest.raises(Boom, match="mine"):
        spawn(work).result()
    other.result()


def test_a_timeout_that_went_off_before_the_wait_is_taken_back_by_cancel(hub):
    def work():
        timeout = Timeout(0.001, Boom)
        timeout.start()
        in_thread(pass_time)  # the task computes; the hub sees the time at another's turn
        in_thread(hub.call_from_thread, hub.get_timeout)
        timeout.cancel()
        sleep(0.003)
        return "not hit"

    assert spawn(work).result() == "not hit"


def test_a_timeout_that_woke_a_computing_task_hits_its_next_wait(hub):
    def work():
        timeout = Timeout(0.001, Boom)
        timeout.start()
        pass_time()
        try:
            sleep(0)
            sleep(0)
        except Boom:
            return "hit"

    assert spawn(work).result() == "hit"


def test_a_timeout_can_be_started_again(hub):
    timeout = Timeout(0.001, Boom)
    for _ in range(3):
        timeout.start()
        with pytest.raises(Boom):
            sleep(100)
    timeout.seconds = 100
    timeout.start()
    timeout.cancel()
    timeout.seconds = 0.001
    timeout.start()
    with pytest.raises(Boom):
        sleep(100)


def test_a_timeout_that_counts_cannot_be_started(hub):
    timeout = Timeout(100, Boom)
    timeout.start()
    with pytest.raises(RuntimeError, match="already"):
        timeout.start()
    timeout.cancel()


def test_a_timeout_for_ever_never_goes_off(hub):
    timeout = Timeout(math.inf, Boom)
    timeout.start()
    assert not timeout.pending
    timeout.cancel()


def test_several_go_off_each_in_its_time(hub):
    Timeout(0.004, KeyError).start()
    Timeout(0.001, Boom).start()
    with pytest.raises(Boom):
        sleep(100)
    with pytest.raises(KeyError):
        sleep(100)


def test_two_that_are_due_together_are_both_raised(hub):
    Timeout(0.001, Boom).start()
    Timeout(0.002, KeyError).start()
    pass_time(0.006)
    met = []
    for _ in range(6):
        try:
            sleep(0.001)
        except (Boom, KeyError) as exc:
            met.append(type(exc))
    assert met == [Boom, KeyError]


def test_a_kill_that_comes_with_a_timeout_is_not_lost(hub):
    def work():
        timeout = Timeout(0.001, Boom)
        timeout.start()
        try:
            sleep(100)
        except Boom:
            sleep(100)
        finally:
            timeout.cancel()

    task = spawn(work)
    settle()
    pass_time()
    hub.call_soon(task.kill)
    assert task.join(5)
    with pytest.raises(TaskExit):
        task.result()


def test_a_timeout_whose_task_has_ended_is_harmless(hub):
    def work():
        Timeout(0.005, Boom).start()

    task = spawn(work)
    task.join()
    sleep(0.01)
    assert task.result() is None


@pytest.mark.parametrize("args", [(1, int), (1, "x"), ("1", Boom), (1, Boom, 1)])
def test_bad_arguments_are_type_errors(hub, args):
    with pytest.raises(TypeError):
        Timeout(*args).start()


def test_nan_is_a_value_error(hub):
    with pytest.raises(ValueError):
        Timeout(math.nan, Boom)


def test_start_in_a_callback_or_a_foreign_thread_is_a_runtime_error(hub):
    seen = []

    def callback():
        try:
            Timeout(1, Boom).start()
        except RuntimeError as exc:
            seen.append(str(exc))

    hub.call_soon(callback)
    settle()
    assert "no task" in seen[0]
    with pytest.raises(RuntimeError):
        in_thread(lambda: Timeout(1, Boom).start())


def test_a_timeout_and_its_exception_are_freed(hub):
    exception = Boom()
    before = sys.getrefcount(exception)
    timeout = Timeout(100, exception)
    for _ in range(5):
        timeout.seconds = 100
        timeout.start()
        timeout.cancel()
        timeout.seconds = 0.001
        with pytest.raises(Boom):
            timeout.start()
            Event().wait(100)
        timeout.cancel()
        exception.__traceback__ = None
    del timeout
    settle()
    gc.collect()
    assert sys.getrefcount(exception) == before


def test_a_dropped_timeout_still_goes_off(hub):
    def work():
        timeout = Timeout(0.002, Boom)
        timeout.start()
        del timeout
        gc.collect()
        sleep(100)

    with pytest.raises(Boom):
        spawn(work).result()


def test_a_timeout_holds_its_task_until_it_went_off(hub):
    refs = []

    def work():
        Timeout(0.005, Boom).start()

    task = spawn(work)
    refs.append(weakref.ref(task))
    task.join()
    del task
    assert refs[0]() is not None
    sleep(0.01)
    settle()
    gc.collect()
    assert refs[0]() is None


# ---- move_on_after, fail_after ----------------------------------------------------------------


def test_move_on_after_leaves_the_block_and_goes_on(hub):
    with move_on_after(0.001) as scope:
        sleep(100)
    assert scope.expired


def test_a_block_that_is_in_time_has_not_expired(hub):
    with move_on_after(100) as scope:
        sleep(0)
    assert not scope.expired


def test_fail_after_raises_timeout_error_that_shows_where_it_waited(hub):
    def slow():
        sleep(100)

    with pytest.raises(TimeoutError, match="not done in 0.001 seconds") as info, fail_after(0.001):
        slow()
    frames = []
    trace = info.value.__cause__.__traceback__
    while trace:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "slow" in frames


@pytest.mark.parametrize("scope", [move_on_after, fail_after])
def test_none_never_expires(hub, scope):
    with scope(None) as entered:
        sleep(0.002)
    assert not entered.expired
    assert entered.deadline == math.inf


@pytest.mark.parametrize("scope", [move_on_after, fail_after])
@pytest.mark.parametrize("seconds", ["1", [], math.nan])
def test_bad_times_are_refused(hub, scope, seconds):
    with pytest.raises((TypeError, ValueError)):
        scope(seconds)


def test_a_blanket_handler_does_not_catch_it(hub):
    with move_on_after(0.001) as scope:
        try:
            sleep(100)
        except Exception:
            pytest.fail("a deadline is no error of the block")
    assert scope.expired


@pytest.mark.parametrize("outer_first", [True, False])
def test_of_nested_ones_only_the_one_whose_deadline_passed_acts(hub, outer_first):
    seconds = (0.001, 100) if outer_first else (100, 0.001)
    reached = []
    with move_on_after(seconds[0]) as outer:
        with move_on_after(seconds[1]) as inner:
            sleep(100)
        reached.append("between")
    assert (outer.expired, inner.expired) == (outer_first, not outer_first)
    assert reached == ([] if outer_first else ["between"])


def test_both_act_when_both_deadlines_passed(hub):
    with move_on_after(0.003) as outer:
        with move_on_after(0.001) as inner:
            sleep(100)
        sleep(100)
    assert outer.expired
    assert inner.expired


def test_clean_up_that_waits_is_bounded_by_the_outer_one(hub):
    with move_on_after(0.004) as outer, move_on_after(0.001) as inner:
        try:
            sleep(100)
        finally:
            sleep(100)
    assert outer.expired
    assert inner.expired


def test_an_exception_of_the_block_gets_through(hub):
    with pytest.raises(Boom), move_on_after(100):
        raise Boom
    with pytest.raises(Boom), fail_after(100):
        raise Boom


def test_a_deadline_that_passes_while_the_block_computes_does_not_hit_the_code_after_it(hub):
    with move_on_after(0.001) as scope:
        pass_time(0.003)
    assert not scope.expired
    sleep(0.003)


def test_a_scope_can_be_used_once_at_a_time_and_again_afterwards(hub):
    scope = move_on_after(0.001)
    with scope, pytest.raises(RuntimeError, match="entered"):
        scope.__enter__()
    with scope:
        sleep(100)
    assert scope.expired


def test_a_deadline_can_be_moved(hub):
    with move_on_after(0.001) as scope:
        scope.deadline = hub.time() + 100
        sleep(0.003)
    assert not scope.expired
    with move_on_after(100) as scope:
        scope.deadline = hub.time() + 0.001
        sleep(100)
    assert scope.expired


def test_another_task_can_have_a_scope_expire(hub):
    scopes = []

    def work():
        with move_on_after(None) as scope:
            scopes.append(scope)
            sleep(100)
        return scope.expired

    task = spawn(work)
    settle()
    scopes[0].expire()
    assert task.result() is True
    with pytest.raises(RuntimeError, match="not entered"):
        scopes[0].expire()


def test_a_scope_of_another_thread_cannot_be_moved(hub):
    with move_on_after(100) as scope, pytest.raises(RuntimeError, match="another thread"):
        in_thread(scope.expire)


def test_a_kill_gets_through_a_scope(hub):
    def work():
        with move_on_after(100):
            sleep(100)

    task = spawn(work)
    settle()
    task.kill(reason="enough")
    with pytest.raises(TaskExit) as info:
        task.result()
    assert info.value.reason == "enough"


def test_an_expired_scope_keeps_no_frame_alive(hub):
    class Witness:
        pass

    def work():
        witness = Witness()
        refs.append(weakref.ref(witness))
        sleep(100)

    refs = []
    with move_on_after(0.001) as scope:
        work()
    assert scope.expired
    assert refs[0]() is None


# ---- shield --------------------------------------------------------------------------------------


def test_a_kill_waits_for_the_end_of_the_shield(hub):
    done = []

    def work():
        with shield():
            gate.wait()
            done.append("clean-up")
        sleep(100)

    gate = Event()
    task = spawn(work)
    settle()
    task.kill()
    settle()
    assert task.is_alive()
    gate.set()
    with pytest.raises(TaskExit):
        task.result()
    assert done == ["clean-up"]


def test_a_kill_that_came_before_the_shield_waits_for_its_end(hub):
    done = []

    def work():
        own.kill_me()
        with shield():
            sleep(0)
            done.append("clean-up")
        sleep(100)

    class own:
        @staticmethod
        def kill_me():
            in_thread(task.kill)

    task = spawn(work)
    with pytest.raises(TaskExit):
        task.result()
    assert done == ["clean-up"]


def test_an_outer_deadline_waits_for_the_end_of_the_shield(hub):
    done = []
    with move_on_after(0.001) as outer:
        with shield():
            sleep(0.005)
            done.append("clean-up")
        sleep(100)
    assert outer.expired
    assert done == ["clean-up"]


def test_a_deadline_inside_the_shield_bounds_it(hub):
    with shield(), move_on_after(0.001) as inner:
        sleep(100)
    assert inner.expired


def test_shields_nest(hub):
    order = []

    def work():
        try:
            with shield():
                with shield():
                    gate.wait()
                sleep(0)
                order.append("still shielded")
            sleep(100)
        except TaskExit:
            order.append("killed")

    gate = Event()
    task = spawn(work)
    settle()
    task.kill()
    gate.set()
    task.join()
    assert order == ["still shielded", "killed"]


def test_two_kills_are_one_after_the_shield(hub):
    def work():
        with shield():
            gate.wait()
        sleep(100)

    gate = Event()
    task = spawn(work)
    settle()
    task.kill(reason="first")
    task.kill(reason="second")
    gate.set()
    with pytest.raises(TaskExit) as info:
        task.result()
    assert info.value.reason == "second"
    assert info.value.__context__.reason == "first"


def test_a_task_that_ends_in_its_shield_was_not_killed(hub):
    def work():
        with shield():
            gate.wait()
            return "done"

    gate = Event()
    task = spawn(work)
    settle()
    task.kill()
    gate.set()
    assert task.result() == "done"


def test_a_shield_outside_of_tasks_is_a_runtime_error(hub):
    seen = []

    def callback():
        try:
            shield().__enter__()
        except RuntimeError as exc:
            seen.append(str(exc))

    hub.call_soon(callback)
    settle()
    assert "no task" in seen[0]


# ---- several things under way ------------------------------------------------------------------------


def test_a_kill_goes_on_after_a_deadline_that_bounded_its_clean_up(hub):
    """Trio and asyncio have the kill win, too; Python alone would let the last exception."""
    order = []

    def work():
        with move_on_after(0.002) as scope:
            try:
                sleep(100)
            finally:
                try:
                    sleep(100)
                finally:
                    order.append("bounded")
        order.append("not reached")
        return scope

    task = spawn(work)
    settle()
    task.kill(reason="enough")
    with pytest.raises(TaskExit) as info:
        task.result()
    assert info.value.reason == "enough"
    assert order == ["bounded"]


@pytest.mark.parametrize("scope", [fail_after, Timeout, lambda seconds: Timeout(seconds, Boom)])
def test_the_same_with_deadlines_that_raise(hub, scope):
    def work():
        with scope(0.002):
            try:
                sleep(100)
            finally:
                sleep(100)

    task = spawn(work)
    settle()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()


def test_a_deadline_in_the_clean_up_of_a_kill_ends_there(hub):
    order = []

    def work():
        try:
            sleep(100)
        finally:
            with move_on_after(0.002) as scope:
                sleep(100)
            order.append(scope.expired)
            sleep(0)
            order.append("more clean-up")

    task = spawn(work)
    settle()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()
    assert order == [True, "more clean-up"]


def test_an_exit_of_another_task_that_is_handled_is_not_ones_own(hub):
    def work():
        with move_on_after(0.002) as scope:
            other = spawn(sleep, 100)
            other.kill()
            try:
                other.result()
            except TaskExit:
                sleep(100)
        return scope.expired

    assert spawn(work).result() is True


def test_a_kill_that_was_handled_is_over(hub):
    def work():
        try:
            sleep(100)
        except TaskExit:
            pass
        with move_on_after(0.002) as scope:
            sleep(100)
        return scope.expired

    task = spawn(work)
    settle()
    task.kill()
    assert task.result() is True


def test_an_outer_deadline_goes_on_after_an_inner_one_that_bounded_its_clean_up(hub):
    order = []
    with move_on_after(0.002) as outer:
        with move_on_after(0.005) as inner:
            try:
                sleep(100)
            finally:
                sleep(100)
        order.append("not reached")
    assert (outer.expired, inner.expired) == (True, True)
    assert order == []


def test_a_deadline_that_a_kill_overtook_is_met_by_one_who_refuses_the_kill(hub):
    order = []

    def work():
        with move_on_after(0.002) as scope:
            try:
                sleep(100)
            except TaskExit:
                order.append("refused")
            sleep(100)
            order.append("not reached")
        return scope.expired

    task = spawn(work)
    settle()
    pass_time(0.005)
    hub.call_soon(task.kill)  # both in one turn
    assert task.result() is True
    assert order in ([], ["refused"])


def test_ctrl_c_waits_behind_no_deadline(hub):
    def interrupt():
        raise KeyboardInterrupt

    hub.call_later(0.002, interrupt)
    with pytest.raises(KeyboardInterrupt):
        with move_on_after(0.002) as scope:
            pass_time(0.006)
            sleep(100)
        sleep(0.01)
    assert scope.expired in (True, False)
    sleep(0.001)


def test_ctrl_c_that_came_while_a_deadline_was_taken_back_is_not_lost(hub):
    def interrupt():
        raise KeyboardInterrupt

    scopes = []

    def body():
        with move_on_after(0.002) as scope:
            scopes.append(scope)
            in_thread(pass_time, 0.004)
            in_thread(hub.call_from_thread, interrupt)
        sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        body()


def test_a_deadline_costs_no_turns_while_its_task_is_shielded(hub):
    """It waits in the task, not in the timers: nothing wakes up in vain."""
    with move_on_after(0.001) as scope:
        with shield():
            sleep(0.003)
            polls = hub.stats()["polls"]
            sleep(0.02)
            assert hub.stats()["polls"] - polls < 6
        sleep(100)
    assert scope.expired


def test_a_timeout_cancelled_by_another_task_on_its_way_can_be_used_again(hub):
    def work():
        timeouts.append(Timeout(0.001, Boom))
        timeouts[0].start()
        try:
            sleep(100)
        except Boom:
            return "hit"

    timeouts = []
    task = spawn(work)
    settle()
    hub.call_later(0.001, lambda: timeouts[0].cancel())
    killer = hub.call_later(0.01, lambda: task.kill(Boom))
    assert task.result() == "hit"
    killer.cancel()  # the timeout itself may have been first
    timeouts[0].start()
    timeouts[0].cancel()
    gc.collect()


def test_no_reference_is_lost_or_kept_by_scopes(hub):
    scope = move_on_after(0.0001)
    before = sys.getrefcount(scope)
    for _ in range(20):
        with scope:
            sleep(100)
        with scope:
            pass
        with scope:
            pass_time(0.0003)
        with scope:
            with shield():
                sleep(0.0005)
    settle()
    gc.collect()
    assert sys.getrefcount(scope) == before
