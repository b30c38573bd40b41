"""Python code that runs in the middle of an operation: comparisons, hashes, conversions, finalisers."""

import os

import greenlet
import pytest
from helpers import output_of

from evergreen import EventLoop, move_on_after, sleep
from evergreen import _evergreen_c as core
from evergreen.io import fs
from evergreen.local import local
from evergreen.locks import Condition
from evergreen.queue import PriorityQueue
from evergreen.timeout import Timeout


def test_a_comparison_whose_put_makes_room_and_fails_does_not_disturb_the_get(hub):
    armed = []
    queue = PriorityQueue()

    class Unordered:
        def __lt__(self, other):
            raise TypeError("no order")

        __gt__ = __lt__

    class Item:
        def __init__(self, number):
            self.number = number

        def __lt__(self, other):
            if not isinstance(other, Item):
                raise TypeError("no order")
            if armed:
                armed.clear()
                with pytest.raises(TypeError):
                    queue.put(Unordered())
            return self.number < other.number

    for number in range(8):
        queue.put(Item(number))
    armed.append(True)
    assert [queue.get().number for _ in range(8)] == list(range(8))
    assert queue.empty()


def test_a_name_whose_hash_clears_the_greenlets_data_does_not_free_what_is_searched(hub):
    mine = local()
    mine.x = 1

    class Name(str):
        __slots__ = ()

        def __hash__(self):
            greenlet.getcurrent().__dict__.clear()
            return hash("x")

    assert getattr(mine, Name("x")) == 1
    setattr(mine, Name("x"), 3)
    assert not hasattr(mine, "x")


@pytest.mark.parametrize("base", [move_on_after, Timeout])
def test_a_scope_of_a_subclass_that_forgets_our_init_has_no_deadline_until_it_gets_one(hub, base):
    class Mine(base):
        def __init__(self):
            pass

    with Mine() as scope:
        sleep(0)
        assert not scope.expired
    with move_on_after(60), Mine() as scope:
        if base is move_on_after:
            scope.deadline = hub.time()
            sleep(1)
    assert scope.expired == (base is move_on_after)


def test_a_scope_converts_its_seconds_once_when_it_is_made(hub):
    calls = []

    class Seconds:
        def __float__(self):
            calls.append(self)
            return 0.001

    scope = move_on_after(Seconds())
    with scope:
        sleep(1)
    assert scope.expired
    assert len(calls) == 1
    assert EventLoop.current().stats()["timers"] == 0


def test_a_condition_of_itself_keeps_its_lock():
    condition = Condition()
    condition.__init__(condition)
    with condition:
        assert not condition.wait(0)
    assert "Condition" in repr(condition)


def test_an_attribute_of_a_method_that_takes_turns_has_a_name_that_is_a_str():
    with pytest.raises(TypeError, match="attribute name must be string"):
        core.in_turn(len).__getattribute__(5)


NESTS = {
    "Condition": "Condition(inner)",
    "Queue": "put(Queue(), inner)",
    "PriorityQueue": "put(PriorityQueue(), inner)",
    "Future": "done(Future(), inner)",
    "Task": "Task(len, args=(inner,))",
    "Task's result": "ended(Task(lambda: inner))",
    "Timeout": "Timeout(1, inner)",
    "mixed": "put(Queue(), done(Future(), Timeout(1, [inner])))",
}


@pytest.mark.parametrize("kind", NESTS)
def test_what_is_nested_deeply_is_freed_without_a_deep_stack(kind):
    code = f"""
        from evergreen import Task
        from evergreen.futures import Future
        from evergreen.locks import Condition
        from evergreen.queue import PriorityQueue, Queue
        from evergreen.timeout import Timeout
        def put(queue, item):
            queue.put(item)
            return queue
        def done(future, value):
            future.set_result(value)
            return future
        def ended(task):
            task.start()
            task.join()
            return task
        inner = Condition()
        for _ in range(200_000):
            inner = {NESTS[kind]}
        del inner
        print("freed")
    """
    assert output_of(code) == "freed\n"


def test_times_after_2262_are_exact(tmp_path, hub):
    path = tmp_path / "far"
    path.touch()
    for seconds in (10_000_000_000, 15_000_000_000, -10_000_000_000):
        os.utime(path, (seconds, seconds))
        assert fs.stat(path).st_mtime_ns == os.stat(path).st_mtime_ns
