"""park.c: the switch, workers that are recycled, and greenlets that others made."""

import gc
import os
import sys
import textwrap
import weakref

import greenlet
import pytest
from helpers import output_of, run_python, settle

import evergreen
from evergreen import Channel, Task, TaskExit, sleep, spawn
from evergreen.event import Event
from evergreen.timeout import Timeout

# ---- recycling -----------------------------------------------------------------------------------


def test_tasks_one_after_the_other_share_greenlets(hub):
    before = hub.stats()["greenlets_started"]
    for number in range(1000):
        assert spawn(lambda n=number: n).result() == number
    assert hub.stats()["greenlets_started"] - before <= 2


def test_tasks_that_never_block_share_one_greenlet(hub):
    before = hub.stats()["greenlets_started"]
    tasks = [spawn(int) for _ in range(1000)]
    for task in tasks:
        task.join()
    assert hub.stats()["greenlets_started"] - before <= 2


def test_tasks_that_block_at_once_need_a_greenlet_each_and_the_next_reuse_them(hub):
    before = hub.stats()["greenlets_started"]
    for _ in range(10):
        tasks = [spawn(sleep, 0) for _ in range(100)]
        for task in tasks:
            task.join()
    assert hub.stats()["greenlets_started"] - before <= 101


def test_a_task_has_a_greenlet_only_while_it_lives(hub):
    task = spawn(sleep, 0.001)
    assert task.greenlet is None
    settle()
    assert isinstance(task.greenlet, greenlet.greenlet)
    task.join()
    assert task.greenlet is None


def run_some(number=20):
    """Run other tasks, which would reuse any greenlet that may be; return theirs by id."""
    seen = []

    def look():
        seen.append(id(greenlet.getcurrent()))
        sleep(0)

    for _ in range(number):
        spawn(look).join()
    return seen


def test_a_greenlet_that_somebody_holds_is_not_reused(hub):
    held = spawn(greenlet.getcurrent).result()
    assert id(held) not in run_some()
    assert held.dead


def test_a_greenlet_held_through_its_task_is_not_reused(hub):
    task = spawn(sleep, 0.001)
    settle()
    held = task.greenlet
    task.join()
    assert id(held) not in run_some()
    assert held.dead


def test_a_greenlet_with_a_weak_reference_is_not_reused(hub):
    refs = []
    ended = []

    def look():
        refs.append(weakref.ref(greenlet.getcurrent(), ended.append))

    spawn(look).join()
    settle()
    assert refs[0]() is None  # so a weak-key dictionary forgets it in time
    assert ended == refs


def test_a_weak_key_dictionary_by_greenlet_forgets_with_the_task(hub):
    store = weakref.WeakKeyDictionary()

    def work(number):
        assert greenlet.getcurrent() not in store
        store[greenlet.getcurrent()] = number
        sleep(0)
        assert store[greenlet.getcurrent()] == number

    for number in range(50):
        spawn(work, number).result()
    tasks = [spawn(work, number) for number in range(50)]
    for task in tasks:
        task.result()
    del tasks
    gc.collect()
    assert len(store) == 0


def test_a_dictionary_keyed_by_greenlet_never_meets_the_same_one_again(hub):
    store = {}

    def work(number):
        me = greenlet.getcurrent()
        assert me not in store
        store[me] = number

    for number in range(50):
        spawn(work, number).result()
    assert len(store) == 50


def test_a_greenlet_held_by_a_frame_cycle_is_not_reused(hub):
    kept = []

    def work():
        me = greenlet.getcurrent()
        kept.append(sys._getframe())
        return id(me)

    held = spawn(work).result()
    assert held not in run_some()
    del kept[:]


def test_data_in_a_greenlets_dict_is_never_seen_by_the_next_task(hub):
    def work(number):
        me = greenlet.getcurrent()
        assert not hasattr(me, "secret")
        assert "secret" not in me.__dict__
        me.secret = number
        sleep(0)
        assert me.secret == number
        del me

    for number in range(100):
        spawn(work, number).result()
    tasks = [spawn(work, number) for number in range(100)]
    for task in tasks:
        task.result()


def test_a_held_dict_of_a_greenlet_keeps_its_data_and_gets_no_others(hub):
    def keep():
        greenlet.getcurrent().mine = 1
        return greenlet.getcurrent().__dict__

    held = spawn(keep).result()
    spawn(lambda: setattr(greenlet.getcurrent(), "other", 2)).join()
    run_some()
    assert "other" not in held


def test_a_finaliser_that_stores_in_the_dict_again_is_not_seen_either(hub):
    class Sticky:
        left = 3

        def __del__(self):
            if Sticky.left:
                Sticky.left -= 1
                greenlet.getcurrent().again = Sticky()

    def store():
        greenlet.getcurrent().first = Sticky()

    spawn(store).join()
    assert Sticky.left == 0

    def look():
        return dict(greenlet.getcurrent().__dict__)

    for _ in range(10):
        assert spawn(look).result() == {}


def test_threading_local_storage_by_greenlet_of_others_is_safe():
    """werkzeug's old Local: a dict keyed by the greenlet, cleaned by nobody."""
    out = output_of(
        """
        import evergreen, greenlet
        store = {}
        bad = []
        def request(number):
            ident = greenlet.getcurrent()
            if ident in store:
                bad.append(number)
            store[ident] = number
            evergreen.sleep(0)
            assert store[ident] == number
        def main():
            for number in range(200):
                evergreen.spawn(request, number).join()
        evergreen.run(main)
        print(len(bad))
        """
    )
    assert out == "0\n"


def test_memory_is_given_back_after_a_while_of_idleness(hub):
    tasks = [spawn(sleep, 0) for _ in range(500)]
    for task in tasks:
        task.join()
    assert hub.stats()["greenlets_idle"] > 100
    deadline = hub.time() + 20
    while hub.stats()["greenlets_idle"] > 32 and hub.time() < deadline:
        sleep(0.1)
    assert hub.stats()["greenlets_idle"] <= 32
    assert spawn(int).result() == 0


def test_idle_greenlets_are_bounded(hub):
    tasks = [spawn(sleep, 0) for _ in range(5000)]
    for task in tasks:
        task.join()
    assert hub.stats()["greenlets_idle"] <= 1024


def test_the_trimmer_does_not_keep_the_loop_running(hub):
    tasks = [spawn(sleep, 0.001) for _ in range(200)]
    for task in tasks:
        task.join()
    before = hub.time()
    hub.run()
    assert hub.time() - before < 0.5


# ---- greenlets that others made ------------------------------------------------------------------


def test_a_plain_greenlet_may_block(hub):
    order = []

    def plain():
        order.append("begin")
        sleep(0.001)
        order.append("end")
        return "value"

    other = spawn(lambda: (sleep(0), order.append("task")))
    assert greenlet.greenlet(plain).switch() == "value"
    assert order == ["begin", "task", "end"]
    other.join()


def test_a_plain_greenlet_in_a_task_may_block(hub):
    def plain(value):
        me = Task.current()
        sleep(0.001)
        assert Task.current() is me
        return value, me

    def work(value):
        me = Task.current()
        result, inner = greenlet.greenlet(plain).switch(value)
        assert Task.current() is me is not inner
        return result

    tasks = [spawn(work, number) for number in range(10)]
    assert [task.result() for task in tasks] == list(range(10))


def test_a_plain_greenlet_has_a_task_of_its_own(hub):
    seen = []

    def plain():
        seen.append(Task.current())
        joiner = spawn(seen[0].join)
        sleep(0)
        with pytest.raises(RuntimeError, match="not a task"):
            joiner.result()
        seen.append(Task.current())

    greenlet.greenlet(plain).switch()
    assert seen[0] is seen[1] is not hub.main_task
    assert seen[0].name.startswith("greenlet-")


def test_plain_greenlets_as_generators_inside_tasks(hub):
    """The shape of SQLAlchemy's asyncio bridge: a greenlet switched to and from, that also blocks."""

    def work(number):
        parent = greenlet.getcurrent()

        def produce():
            for value in range(5):
                sleep(0.0001 * number)
                parent.switch(value)
            return "end"

        child = greenlet.greenlet(produce)
        got = []
        while True:
            value = child.switch()
            if value == "end":
                return got
            got.append(value)
            sleep(0)

    tasks = [spawn(work, number) for number in range(8)]
    for task in tasks:
        assert task.result() == [0, 1, 2, 3, 4]


def test_a_plain_greenlet_can_be_timed_out_and_its_task_killed(hub):
    def plain():
        with Timeout(0.001):
            sleep(100)

    with pytest.raises(Timeout):
        greenlet.greenlet(plain).switch()

    tasks = []

    def waiting():
        tasks.append(Task.current())
        sleep(100)

    worker = spawn(lambda: greenlet.greenlet(waiting).switch())
    settle()
    tasks[0].kill()
    with pytest.raises(TaskExit):
        worker.result()


def test_a_nested_plain_greenlet_that_ends_uncovers_the_one_beneath(hub):
    def inner():
        sleep(0)
        return Task.current()

    def outer():
        before = Task.current()
        within = greenlet.greenlet(inner).switch()
        assert Task.current() is before
        sleep(0)
        assert Task.current() is before
        return before, within

    before, within = greenlet.greenlet(outer).switch()
    assert before is not within
    assert Task.current() is hub.main_task


def test_a_plain_greenlet_that_is_freed_is_forgotten(hub):
    for _ in range(50):
        greenlet.greenlet(lambda: Task.current()).switch()
        sleep(0)
        assert Task.current() is hub.main_task
        assert spawn(Task.current).result() is not hub.main_task


def test_the_task_of_a_plain_greenlet_may_outlive_it(hub):
    kept = [greenlet.greenlet(Task.current).switch() for _ in range(20)]
    gc.collect()
    sleep(0)
    for task in kept:
        repr(task)
        assert task.greenlet is None or task.greenlet.dead
    assert Task.current() is hub.main_task


@pytest.mark.parametrize("allocator", ["malloc_debug", "debug"])
def test_freed_greenlets_and_their_tasks_leave_no_dangling_pointers(allocator):
    """With freed memory overwritten, what is still referred to crashes."""
    child = run_python(
        """
        import evergreen, greenlet, gc
        from evergreen import Task
        evergreen.sleep(0)
        for _ in range(20):
            greenlet.greenlet(lambda: Task.current()).switch()
            gc.collect()
            evergreen.sleep(0)
            kept = greenlet.greenlet(Task.current).switch()
            gc.collect()
            kept.greenlet
            evergreen.spawn(lambda: greenlet.greenlet(lambda: evergreen.sleep(0)).switch()).join()
            gc.collect()
            evergreen.sleep(0)
        print("alive")
        """,
        env={**os.environ, "PYTHONMALLOC": allocator},
    )
    assert (child.returncode, child.stdout) == (0, "alive\n"), child.stderr[-2000:]


def test_a_first_use_inside_a_plain_greenlet_does_not_take_it_for_main():
    out = output_of(
        """
        import evergreen, gc, greenlet
        def first():
            evergreen.sleep(0.001)
            return evergreen.current.task.name
        print(greenlet.greenlet(first).switch())
        gc.collect()
        print(evergreen.run(lambda: (evergreen.sleep(0.001), "fine")[1]), evergreen.current.task.name)
        """
    )
    assert out.splitlines()[0].startswith("greenlet-")
    assert out.splitlines()[1] == "fine main"


def test_a_plain_greenlet_dropped_while_it_waits_ends_quietly(hub):
    ended = []

    def plain():
        try:
            parent.switch()
            sleep(100)
        finally:
            ended.append(True)

    parent = greenlet.getcurrent()
    child = greenlet.greenlet(plain)
    child.switch()
    del child
    gc.collect()
    assert ended == [True]
    sleep(0)


# ---- switching behind the scheduler's back -------------------------------------------------------


PARKED = """
import evergreen
from evergreen.event import Event
loop = evergreen.current.loop
gate, met = Event(), []

def victim():
    try:
        {wait}
    except BaseException as exc:
        met.append(exc)

def attack():
    return task.greenlet.{attack}

other = evergreen.spawn(lambda: (evergreen.sleep(0.05), "other")[1])
task = evergreen.spawn(victim)
evergreen.sleep(0)
{code}
assert other.result() == "other"
for _ in range(100):
    assert evergreen.run(lambda: (evergreen.sleep(0), 1)[1]) == 1
task.kill()
assert task.join(1)
assert (loop.stats()["timers"], loop.stats()["tasks"]) == (0, 0)
print("well")
"""
WAITS = ["evergreen.sleep(1000)", "gate.wait()", "evergreen.Channel().receive()", "loop.switch()"]


def attack_parked(wait, attack, code):
    out = output_of(PARKED.format(wait=wait, attack=attack, code=textwrap.dedent(code)), timeout=15)
    assert out == "well\n"


@pytest.mark.parametrize("attack", ["switch()", "switch(1)"])
@pytest.mark.parametrize("wait", WAITS)
def test_a_raw_switch_to_a_parked_task_is_an_error_of_the_task_that_switched(wait, attack):
    attack_parked(
        wait,
        attack,
        """
        try:
            evergreen.run(attack)
        except RuntimeError as exc:
            assert "the event loop's" in str(exc)
        else:
            raise AssertionError
        evergreen.sleep(0.001)
        assert met == [] and task.is_alive() and task.waiting
        """,
    )


@pytest.mark.parametrize("attack", ["switch()", "switch(1)"])
@pytest.mark.parametrize("wait", WAITS)
def test_a_raw_switch_to_a_parked_task_is_an_error_of_main_if_main_switched(wait, attack):
    attack_parked(
        wait,
        attack,
        """
        for _ in range(3):
            try:
                attack()
            except RuntimeError as exc:
                assert "the event loop's" in str(exc)
            else:
                raise AssertionError
        assert met == [] and task.is_alive() and task.waiting
        """,
    )


def test_a_task_that_was_switched_to_still_gets_what_it_waits_for():
    attack_parked(
        "met.append(gate.wait())",
        "switch()",
        """
        try:
            attack()
        except RuntimeError:
            pass
        gate.set()
        assert task.join(1) and met == [True]
        """,
    )


@pytest.mark.parametrize("attack", ["throw(ValueError)", "throw(ValueError('x'))", "throw()"])
@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("who", ["attack()", "evergreen.run(attack)"], ids=["main", "task"])
def test_a_raw_throw_into_a_parked_task_ends_its_wait_and_the_thrower_goes_on(wait, attack, who):
    attack_parked(
        wait,
        attack,
        f"""
        {who}
        assert task.join(1)
        assert len(met) == 1 and not isinstance(met[0], RuntimeError)
        """,
    )


def test_a_task_that_threw_into_another_can_be_killed_by_it():
    out = output_of(
        """
        import evergreen
        from evergreen import locks, spawn, sleep
        lock, other = locks.Lock(), locks.Lock()
        def victim():
            try:
                sleep(10)
            except ValueError:
                thrower.kill()
        def throw(first):
            if first:
                first.acquire()  # waits, and is handed it
                first.release()
                other.acquire()
            task.greenlet.throw(ValueError)
        for first in None, lock:
            if first:
                first.acquire()
            task = spawn(victim)
            thrower = spawn(throw, first)
            sleep(0)
            if first:
                first.release()
            sleep(0.01)
            print(task, thrower, lock.locked())
        """
    )
    assert out.count("ended") == 4 and "True" not in out


def test_a_task_that_threw_into_another_keeps_its_lock():
    out = output_of(
        """
        import evergreen
        from evergreen import locks, spawn, sleep
        lock, inside = locks.Lock(), []
        def victim():
            try:
                sleep(10)
            except ValueError:
                thrower.kill()
        def holder(throws):
            with lock:
                inside.append(1)
                try:
                    if throws:
                        task.greenlet.throw(ValueError)
                    assert len(inside) == 1
                    sleep(0.01)
                finally:
                    inside.pop()
        lock.acquire()
        task = spawn(victim)
        thrower = spawn(holder, True)
        other = spawn(holder, False)
        sleep(0)
        lock.release()
        print(other.result(1), thrower.join(1), task.join(1), lock.locked())
        """
    )
    assert out == "None True True False\n"


@pytest.mark.parametrize("how", ["switch()", "throw(KeyError)", "throw()"])
@pytest.mark.parametrize("target", ["loop.greenlet", "idle[0]"])
def test_the_greenlets_of_the_loop_refuse_whoever_switches_to_them(how, target):
    out = output_of(
        f"""
        import evergreen, greenlet
        from evergreen import spawn, sleep
        loop, idle = evergreen.current.loop, []
        loop.excepthook = lambda args: None
        greenlet.settrace(lambda event, args: idle.append(args[1]))
        spawn(sleep, 0).join()
        greenlet.settrace(None)
        idle = [found for found in idle if found not in (loop.greenlet, greenlet.getcurrent())]
        def attack():
            try:
                {target}.{how}
            except RuntimeError as exc:
                return str(exc)
        for _ in range(3):
            print(attack())
            print(spawn(attack).result(1))
            loop.call_soon(attack)
            print(spawn(lambda: (sleep(0.001), "works")[1]).result(1))
        """
    )
    lines = out.splitlines()
    assert lines[2::3] == ["works"] * 3
    assert all("the event loop's" in line for line in lines if line != "works"), out


@pytest.mark.parametrize("how", ["switch()", "throw(KeyError)", "throw()"])
def test_the_loops_greenlet_cannot_be_ended_before_its_first_turn(how):
    out = output_of(
        f"""
        import evergreen
        loop = evergreen.EventLoop.current()
        loop.excepthook = lambda args: None
        try:
            loop.greenlet.{how}
        except RuntimeError:
            print("refused")
        print(evergreen.spawn(lambda: (evergreen.sleep(0), "works")[1]).result(1))
        """
    )
    assert out == "refused\nworks\n"


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("parent", ["main", "other.greenlet", "greenlet.getcurrent().parent"])
def test_a_greenlet_that_ends_in_a_parked_one_hurts_nobody_else(parent, raises, waits):
    out = output_of(
        f"""
        import evergreen, greenlet
        from evergreen import spawn, sleep
        main, got = greenlet.getcurrent(), []
        evergreen.current.loop.excepthook = lambda args: got.append(args.exc_type)
        def inner():
            if {waits}:
                sleep(0.001)
            if {raises}:
                raise ValueError
        def starter():
            try:
                greenlet.greenlet(inner, parent={parent}).switch()
            except RuntimeError as exc:
                got.append(type(exc))
            sleep(0.001)
            return "goes on"
        def nap():
            try:
                sleep(0.01)
            except ValueError as exc:
                got.append(type(exc))
        def sleeper():
            for _ in range(5):
                nap()
            return "slept"
        other = spawn(sleeper)
        sleep(0)
        task = spawn(starter)
        for _ in range(5):
            nap()
        print(task.result(1), other.result(1), {{found.__name__ for found in got}})
        """
    )
    assert out.startswith("goes on slept")
    assert ("ValueError" in out) == raises


def test_a_worker_that_was_given_another_parent_ends_in_the_loop_all_the_same():
    out = output_of(
        """
        import evergreen, greenlet
        from evergreen import spawn, sleep
        loop = evergreen.current.loop
        def work():
            me = greenlet.getcurrent()
            kept.append(me)  # so it is not used again, and ends
            sleep(0)
            return 1
        kept = []
        tasks = [spawn(work) for _ in range(3)]
        sleep(0)
        a, b, c = kept
        c.parent = greenlet.getcurrent()
        b.parent = c
        a.parent = b
        loop.greenlet.parent = c
        print([task.result(1) for task in tasks], all(found.dead for found in kept))
        print(spawn(lambda: (sleep(0.001), "works")[1]).result(1))
        loop.destroy()
        print(evergreen.run(lambda: "and again"))
        """
    )
    assert out == "[1, 1, 1] True\nworks\nand again\n"


@pytest.mark.parametrize(
    "does", ["sleep(0.001)", "gate.wait()", "task.greenlet.switch()", "1 / 0", "spawn(int)"]
)
def test_a_trace_function_of_greenlets_may_do_anything(does):
    out = output_of(
        f"""
        import evergreen, greenlet
        from evergreen import spawn, sleep
        from evergreen.event import Event
        gate = Event()
        loop = evergreen.current.loop
        loop.excepthook = lambda args: None
        task = spawn(gate.wait)
        sleep(0)
        failed = []
        def trace(event, args):
            try:
                {does}
            except RuntimeError as exc:
                failed.append(exc)
        def work():
            for _ in range(5):
                sleep(0.0001)
        for _ in range(5):
            greenlet.settrace(trace)
            try:
                spawn(work).join(1)
            except ZeroDivisionError:
                pass
            greenlet.settrace(None)
        gate.set()
        print(task.result(1), spawn(lambda: (sleep(0.001), "works")[1]).result(1), len(loop.tasks()) < 2)
        """
    )
    assert out == "True works True\n"


def test_tasks_whose_greenlets_switched_away_for_good_end_with_their_loop(hub):
    ended, main = [], greenlet.getcurrent()

    def astray():
        try:
            main.switch()
        except TaskExit:
            ended.append("task")

    task = spawn(astray)
    greenlet.greenlet(lambda: sleep(10)).switch()
    hub.destroy()
    assert ended == ["task"] and not task.is_alive()


def test_a_foreign_greenlet_that_waits_ends_with_the_loop_and_another_one_goes_on_in_the_next():
    out = output_of(
        """
        import evergreen, greenlet
        from evergreen import EventLoop, spawn, sleep
        from evergreen.event import Event
        loop, event, main = EventLoop.current(), Event(), greenlet.getcurrent()
        def waits():
            try:
                event.wait()
            except BaseException as exc:
                print(type(exc).__name__)
        def goes_on():
            sleep(0.001)
            main.switch()
            sleep(0.001)
            print("slept in the next loop")
        later = greenlet.greenlet(goes_on)
        later.switch()
        waiting = greenlet.greenlet(waits)
        spawn(main.switch)
        waiting.switch()
        loop.fileno()
        loop.destroy()
        event.set()
        assert EventLoop.current() is not loop
        later.switch()
        print(waiting.dead, later.dead)
        """
    )
    assert out == "GreenletExit\nslept in the next loop\nTrue True\n"


def test_a_raw_switch_into_the_hubs_greenlet_is_no_crash():
    child = run_python(
        """
        import evergreen
        loop = evergreen.current.loop
        evergreen.spawn(int).join()
        def attacker():
            loop.greenlet.switch()
        task = evergreen.spawn(attacker)
        try:
            task.join(1)
        except BaseException as exc:
            print(type(exc).__name__)
        """,
        timeout=15,
    )
    assert child.returncode >= 0, child.stderr


def test_a_task_greenlets_parent_is_the_hub(hub):
    task = spawn(sleep, 0.001)
    settle()
    assert task.greenlet.parent is hub.greenlet
    task.join()


def test_a_callback_may_not_be_parked_by_a_greenlet_in_it(hub):
    seen = []

    def callback():
        try:
            greenlet.greenlet(lambda: sleep(0.001)).switch()
        except RuntimeError as exc:
            seen.append(str(exc))

    hub.call_soon(callback)
    settle()
    assert len(seen) == 1
    assert spawn(int).result() == 0


def test_switches_between_tasks_go_directly(hub):
    """A task that wakes another needs one switch, not two over the hub's greenlet."""
    here, there = Channel(), Channel()

    def echo():
        while True:
            there.send(here.receive())

    task = spawn(echo)
    here.send(0)
    there.receive()
    before = hub.stats()["switches"]
    for _ in range(100):
        here.send(1)
        there.receive()
    assert hub.stats()["switches"] - before <= 250
    task.kill()
    task.join()


def test_a_greenlet_trace_function_sees_the_switches(hub):
    seen = []
    before = greenlet.settrace(lambda event, args: seen.append(event))
    try:
        spawn(sleep, 0).join()
    finally:
        greenlet.settrace(before)
    assert set(seen) == {"switch"}


def test_exceptions_in_flight_belong_to_their_task(hub):
    event = Event()

    def handle(number):
        try:
            raise ValueError(number)
        except ValueError:
            event.wait()
            assert sys.exc_info()[1].args == (number,)
            try:
                raise KeyError
            except KeyError as exc:
                assert exc.__context__.args == (number,)
        assert sys.exc_info() == (None, None, None)

    tasks = [spawn(handle, number) for number in range(10)]
    settle()
    assert sys.exc_info() == (None, None, None)
    event.set()
    for task in tasks:
        task.result()
    assert evergreen.current.task is hub.main_task


@pytest.mark.parametrize("how", ["clear()", "pop('__evergreen_task__', None)", "clear(); gc.collect()"])
def test_a_greenlet_whose_dict_is_cleared_while_it_waits_goes_on(how):
    out = output_of(
        f"""
        import gc, greenlet, evergreen
        from evergreen import locks
        lock, done = locks.Lock(), []
        def body():
            evergreen.sleep(0.001)
            with lock:
                evergreen.sleep(0.001)
            done.append(evergreen.Task.current() is evergreen.Task.current())
        greenlets = [greenlet.greenlet(body) for _ in range(30)]
        def clear():
            for it in greenlets:
                it.__dict__.{how}
        evergreen.current.loop.call_soon(clear)
        evergreen.current.loop.call_later(0.002, clear)
        for it in greenlets:
            it.switch()
        evergreen.sleep(0.2)
        print(len(done), all(done), lock.locked(), evergreen.current.loop.stats()["timers"])
        """,
        env={**os.environ, "PYTHONMALLOC": "debug"},
    )
    assert out == "30 True False 0\n"
