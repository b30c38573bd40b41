"""evergreen.pool: a bounded number of tasks over any amount of work."""

import gc
import inspect
import itertools
import weakref

import pytest
from helpers import Boom, settle

from evergreen import Task, TaskExit, sleep, spawn
from evergreen.event import Event
from evergreen.pool import Pool
from evergreen.timeout import move_on_after


class Meter:
    """Counts how many calls are under way, and how many were at most."""

    def __init__(self, seconds=0.001):
        self.now = self.most = self.calls = 0
        self.seconds = seconds

    def __call__(self, value=None):
        self.now += 1
        self.calls += 1
        self.most = max(self.most, self.now)
        try:
            sleep(self.seconds)
        finally:
            self.now -= 1
        return value


class Source:
    """An endless input that says how far it was read."""

    def __init__(self):
        self.read = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.read += 1
        return self.read - 1


def fail(value=None):
    raise Boom(value)


@pytest.fixture(params=["imap", "imap_unordered"])
def method(request, hub):
    return request.param


# ---- spawn -----------------------------------------------------------------------------------------


def test_no_more_tasks_run_than_there_is_room_for(hub):
    pool, meter = Pool(3), Meter()
    tasks = [pool.spawn(meter, number) for number in range(20)]
    assert pool.join() is True
    assert [task.result() for task in tasks] == list(range(20))
    assert meter.most == 3
    assert (len(pool), pool.size) == (0, 3)


def test_spawn_waits_for_room(hub):
    pool, gate = Pool(2), Event()
    for _ in range(2):
        pool.spawn(gate.wait)
    assert len(pool) == 2
    waiting = spawn(pool.spawn, sleep)
    settle()
    assert waiting.is_alive()
    gate.set()
    assert isinstance(waiting.result(), Task)
    pool.join()


def test_spawn_passes_arguments(hub):
    pool = Pool(1)
    task = pool.spawn(lambda *args, **kwargs: (args, kwargs), 1, two=2)
    assert task.result() == ((1,), {"two": 2})


def test_a_spawn_that_is_killed_or_fails_takes_no_room(hub):
    pool, gate = Pool(1), Event()
    pool.spawn(gate.wait)
    waiting = [spawn(pool.spawn, sleep) for _ in range(2)]
    settle()
    waiting[0].kill()
    gate.set()
    waiting[1].result().join()
    for bad in (1, None):
        with pytest.raises(TypeError):
            pool.spawn(bad)
    pool.spawn(sleep).join()
    assert pool.join(1)


def test_a_spawn_killed_with_room_in_hand_gives_it_back(hub):
    pool = Pool(1)
    first = pool.spawn(Event().wait)
    waiting = spawn(pool.spawn, sleep)
    settle()
    first.kill()
    hub.call_soon(hub.call_soon, waiting.kill)
    settle()
    with move_on_after(1) as scope:
        pool.spawn(sleep).join()
    assert not scope.expired


def test_a_task_killed_before_it_ran_leaves_its_room(hub):
    pool = Pool(1)
    for _ in range(3):
        pool.spawn(sleep, 100).kill()
    assert pool.join(1)


def test_a_task_that_fails_leaves_its_room_and_keeps_its_exception(hub):
    pool = Pool(1)
    task = pool.spawn(fail)
    assert pool.spawn(lambda: "next").result() == "next"
    with pytest.raises(Boom):
        task.result()


def test_bad_sizes_are_refused(hub):
    for bad in (0, -1):
        with pytest.raises(ValueError, match="room"):
            Pool(bad)
    with pytest.raises(TypeError):
        Pool("1")


# ---- join, kill, with --------------------------------------------------------------------------------


def test_join_waits_for_all_for_a_while(hub):
    pool = Pool(2)
    assert pool.join() is True
    task = pool.spawn(Event().wait)
    assert pool.join(0.002) is False
    task.kill()
    assert pool.join(5) is True


def test_kill_ends_all_and_the_pool_can_be_used_again(hub):
    pool = Pool(3)
    tasks = [pool.spawn(sleep, 100) for _ in range(3)]
    sleep(0)
    pool.kill(reason="enough")
    assert pool.join(5)
    for task in tasks:
        with pytest.raises(TaskExit) as info:
            task.result()
        assert info.value.reason == "enough"
    assert pool.map(abs, [-1]) == [1]


def test_the_context_manager_joins(hub):
    meter = Meter()
    with Pool(2) as pool:
        for _ in range(5):
            pool.spawn(meter)
    assert meter.calls == 5
    assert meter.now == 0


def test_an_exception_in_the_block_kills_the_tasks(hub):
    meter = Meter(100)
    with pytest.raises(Boom), Pool(2) as pool:
        pool.spawn(meter)
        sleep(0)
        raise Boom
    assert (meter.now, len(pool)) == (0, 0)


def test_a_kill_of_the_owner_kills_the_tasks(hub):
    meter = Meter(100)

    def work():
        with Pool(2) as pool:
            pool.spawn(meter)

    task = spawn(work)
    settle()
    assert meter.now == 1
    task.kill()
    task.join()
    assert meter.now == 0


# ---- map -----------------------------------------------------------------------------------------------


def test_map_gives_the_results_in_order(hub):
    meter = Meter()

    def work(number):
        meter()
        sleep(0.0001 * (number % 7))
        return number * number

    assert Pool(4).map(work, range(50)) == [number * number for number in range(50)]
    assert meter.most == 4
    assert Pool(4).map(work, []) == []


def test_map_takes_as_many_iterables_as_the_function_has_arguments(hub):
    assert Pool(2).map(lambda a, b: a + b, [1, 2, 3], itertools.count(10)) == [11, 13, 15]
    assert Pool(2).map(lambda: None) == []


def test_the_first_error_kills_the_rest_and_is_raised(hub):
    meter = Meter(100)
    ran = []

    def work(number):
        ran.append(number)
        if number == 2:
            sleep(0.002)
            raise Boom(number)
        meter()

    pool = Pool(4)
    with pytest.raises(Boom, match="2"):
        pool.map(work, range(100))
    assert meter.now == 0
    assert len(ran) <= 6
    assert len(pool) == 0 or pool.join(1)


def test_an_input_that_fails_kills_the_rest_and_is_raised(hub):
    def numbers():
        yield 1
        yield 2
        raise Boom

    meter = Meter(100)
    pool = Pool(5)
    for call in (pool.map, lambda *args: list(pool.imap(*args)), lambda *a: list(pool.imap_unordered(*a))):
        with pytest.raises(Boom):
            call(meter, numbers())
        assert meter.now == 0


def test_a_caller_that_is_killed_kills_the_tasks(hub):
    for name in ("map", "imap", "imap_unordered"):
        meter, pool = Meter(100), Pool(3)
        task = spawn(lambda name=name: list(getattr(pool, name)(meter, range(10))))  # noqa: B023
        settle()
        assert meter.now == 3
        task.kill()
        with pytest.raises(TaskExit):
            task.result()
        assert (meter.now, meter.calls) == (0, 3), name


def test_a_deadline_around_map(hub):
    meter = Meter(100)
    with move_on_after(0.003) as scope:
        Pool(3).map(meter, range(10))
    assert scope.expired
    assert meter.now == 0


# ---- imap ----------------------------------------------------------------------------------------------


def test_imap_gives_the_results_in_the_order_of_the_input(hub):
    def work(number):
        sleep(0.0005 * (5 - number % 5))
        return number

    assert list(Pool(5).imap(work, range(30))) == list(range(30))


def test_imap_unordered_gives_each_as_it_comes(hub):
    gates = [Event() for _ in range(3)]
    results = Pool(3).imap_unordered(lambda n: (gates[n].wait(), n)[1], range(3))
    for number in (1, 2, 0):
        gates[number].set()
        assert next(results) == number
    with pytest.raises(StopIteration):
        next(results)


def test_an_endless_input_is_read_no_further_than_there_is_room_for(method):
    source, size = Source(), 4
    results = getattr(Pool(size), method)(lambda value: value, source)
    assert source.read == 0  # nothing before the first step
    for taken in range(1, 50):
        next(results)
        assert source.read <= taken + size
        settle()
        assert source.read <= taken + size
    results.close()


def test_results_are_computed_ahead_but_not_more_than_the_size(method):
    ran = []
    results = getattr(Pool(3), method)(ran.append, Source())
    next(results)
    settle()
    assert 3 <= len(ran) <= 4
    results.close()


def test_an_error_is_raised_in_its_turn(hub):
    def work(number):
        if number == 2:
            raise Boom
        return number

    meter = []
    with pytest.raises(Boom):
        for result in Pool(2).imap(work, range(10)):
            meter.append(result)
    assert meter == [0, 1]


def test_an_error_kills_the_rest(method):
    meter, pool = Meter(100), Pool(3)
    results = getattr(pool, method)(lambda n: fail() if n == 0 else meter(n), range(10))
    with pytest.raises(Boom):
        list(results)
    assert meter.now == 0


def test_a_generator_that_is_closed_early_kills_the_rest(method):
    meter, pool = Meter(100), Pool(3)
    results = getattr(pool, method)(lambda n: n if n == 0 else meter(n), range(10))
    assert next(results) == 0
    settle()
    assert meter.now >= 2
    results.close()
    assert meter.now == 0
    assert pool.join(1)


def test_a_generator_that_is_dropped_kills_the_rest(method):
    meter, pool = Meter(100), Pool(3)
    results = getattr(pool, method)(lambda n: n if n == 0 else meter(n), range(10))
    next(results)
    settle()
    del results
    gc.collect()
    settle()
    assert meter.now == 0


def test_a_loop_that_is_left_kills_the_rest(method):
    meter = Meter(100)
    for _ in getattr(Pool(3), method)(lambda n: n if n == 0 else meter(n), range(10)):
        break
    gc.collect()
    settle()
    assert meter.now == 0


def test_results_and_inputs_are_let_go(method):
    class Value:
        pass

    refs = []

    def values():
        for _ in range(20):
            value = Value()
            refs.append(weakref.ref(value))
            yield value
            del value

    for _ in getattr(Pool(2), method)(lambda value: value, values()):
        pass
    del _
    settle()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 20


def test_of_several_errors_the_first_is_raised_and_none_reported(hub):
    for call in (Pool(3).map, lambda *args: list(Pool(3).imap(*args))):
        with pytest.raises(Boom, match="0"):
            call(fail, range(3))
    gc.collect()  # the hub fixture checks that nothing was


# ---- shared, nested ------------------------------------------------------------------------------------


def test_several_share_one_pool(hub):
    pool, meter = Pool(3), Meter()
    tasks = [spawn(pool.map, meter, range(10)) for _ in range(5)]
    assert [task.result() for task in tasks] == [list(range(10))] * 5
    assert meter.most == 3


def test_tasks_of_the_pool_may_use_it_while_there_is_room(hub):
    pool = Pool(3)

    def outer(n):
        return sum(pool.map(lambda m: n * m, range(3)))

    assert pool.map(outer, [1, 2]) == [3, 6]


def test_a_pool_of_a_thousand(hub):
    full, meter = Event(), Meter()

    def work(n):
        meter.now += 1
        meter.most = max(meter.most, meter.now)
        if meter.now == 1000:
            full.set()
        full.wait()
        meter.now -= 1
        return n

    assert Pool(1000).map(work, range(3000)) == list(range(3000))
    assert meter.most == 1000


def test_a_pool_is_freed(hub):
    pool = Pool(2)
    ref = weakref.ref(pool)
    pool.map(abs, range(5))
    list(pool.imap(abs, range(5)))
    settle()
    del pool
    gc.collect()
    assert ref() is None


def test_signatures():
    assert list(inspect.signature(Pool).parameters) == ["size"]
    assert list(inspect.signature(Pool.spawn).parameters) == ["self", "function", "args", "kwargs"]
    assert list(inspect.signature(Pool.join).parameters) == ["self", "timeout"]


def test_a_spawn_that_finds_no_memory_takes_no_place(hub):
    pool = Pool(1)

    class Refusing(set):
        def add(self, task):
            raise MemoryError

    pool._tasks = Refusing()
    with pytest.raises(MemoryError):
        pool.spawn(sleep, 100)
    pool._tasks = set()
    assert pool.join(5)
    assert pool.map(abs, [-1, -2]) == [1, 2]
