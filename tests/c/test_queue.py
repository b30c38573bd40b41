"""queue.c: queues with the interface of module queue."""

import gc
import heapq
import inspect
import math
import queue as standard
import sys
import threading
import weakref

import pytest
from helpers import Boom, in_thread, output_of, pass_time, settle

from evergreen import EventLoop, TaskExit, sleep, spawn
from evergreen.queue import Empty, Full, LifoQueue, PriorityQueue, Queue, ShutDown
from evergreen.timeout import move_on_after

PATIENCE = 30
EVERY = [Queue, LifoQueue, PriorityQueue]


class Mine(Queue):
    """Keeps its items itself, as subclasses of the standard library's queues may."""

    def _init(self, maxsize):
        self.items = []

    def _qsize(self):
        return len(self.items)

    def _put(self, item):
        self.items.append(item)

    def _get(self):
        return self.items.pop(0)


@pytest.fixture(params=[*EVERY, Mine], ids=lambda kind: kind.__name__)
def kind(request, hub):
    return request.param


def drain(queue):
    items = []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items


def in_order(kind, items):
    return {LifoQueue: list(reversed(items)), PriorityQueue: sorted(items)}.get(kind, list(items))


# ---- items ---------------------------------------------------------------------------------------


def test_items_come_in_the_order_of_the_queue(kind):
    items = [5, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5] * 20
    queue = kind()
    for item in items:
        queue.put(item)
    assert (queue.qsize(), queue.empty(), queue.full()) == (220, False, False)
    assert drain(queue) == in_order(kind, items)
    assert (queue.qsize(), queue.empty()) == (0, True)


def test_a_ring_that_wraps_around_keeps_its_order(hub):
    queue, expected = Queue(), []
    put = got = 0
    for round in range(200):
        for _ in range(round % 13):
            queue.put(put)
            put += 1
        for _ in range(min(round % 11, queue.qsize())):
            assert queue.get() == got
            got += 1
    expected = list(range(got, put))
    assert drain(queue) == expected


def test_a_priority_queue_is_a_heap_like_heapq(hub):
    import random

    rng = random.Random(1)
    queue, heap = PriorityQueue(), []
    for _ in range(3000):
        if heap and rng.random() < 0.45:
            assert queue.get() == heapq.heappop(heap)
        else:
            item = (rng.randrange(50), rng.random())
            queue.put(item)
            heapq.heappush(heap, item)
    assert drain(queue) == [heapq.heappop(heap) for _ in range(len(heap))]


def test_a_million_comparisons_are_too_many(hub):
    class Counted:
        compared = 0

        def __init__(self, key):
            self.key = key

        def __lt__(self, other):
            Counted.compared += 1
            return self.key < other.key

    queue = PriorityQueue()
    for key in range(1000):
        queue.put(Counted(key * 7919 % 1000))
    assert [item.key for item in drain(queue)] == list(range(1000))
    assert Counted.compared < 1000 * 10 * 3


def test_items_of_any_kind(kind):
    queue = kind()
    for item in (None, (), (1, 2), StopIteration, queue.get, "text"):
        queue.put(item)
        assert queue.get() is item


def test_a_getter_that_waits_is_handed_the_item(kind):
    queue = kind()
    task = spawn(queue.get)
    settle()
    assert task.waiting[:2] == ("queue get", queue)
    queue.put("item")
    assert (queue.qsize(), task.is_alive()) == (0 if kind is not Mine else 1, True)
    assert task.result() == "item"


def test_getters_are_served_in_the_order_they_came(kind):
    queue, order = kind(), []
    tasks = [spawn(lambda n=n: order.append((n, queue.get()))) for n in range(10)]
    settle()
    for item in range(10):
        queue.put(item)
    for task in tasks:
        task.result()
    got = sorted(order)
    assert [n for n, _ in order] == list(range(10))
    if kind is not LifoQueue:
        assert [item for _, item in got] == list(range(10))


def test_put_waits_for_room(kind):
    queue = kind(2)
    queue.put(0)
    queue.put(1)
    assert queue.full()
    tasks = [spawn(queue.put, item) for item in (2, 3)]
    settle()
    assert tasks[0].waiting[:2] == ("queue put", queue)
    assert queue.qsize() == 2
    got = [queue.get() for _ in range(2)]
    for task in tasks:
        task.result()
    got += [queue.get() for _ in range(2)]
    assert sorted(got) == [0, 1, 2, 3]
    if kind in (Queue, Mine):
        assert got == [0, 1, 2, 3]


def test_nobody_overtakes_a_putter_that_waits(hub):
    queue = Queue(1)
    queue.put("first")
    waiting = spawn(queue.put, "second")
    settle()
    assert queue.get() == "first"
    with pytest.raises(Full):
        queue.put("third", block=False)  # the room is the second's
    assert queue.get() == "second"
    waiting.result()


def test_maxsize_zero_or_less_is_no_limit(kind):
    for maxsize in (0, -1):
        queue = kind(maxsize)
        for item in range(100):
            queue.put(item, False)
        assert not queue.full()


def test_maxsize_can_be_changed(hub):
    queue = Queue(maxsize=1)
    queue.put(1)
    queue.maxsize = 2
    queue.put_nowait(2)
    assert queue.full()


# ---- not waiting, and not for long ---------------------------------------------------------------


def test_without_block_it_is_empty_or_full_at_once(kind):
    queue = kind(1)
    for call in (queue.get_nowait, lambda: queue.get(False), lambda: queue.get(block=False, timeout=-5)):
        with pytest.raises(Empty):
            call()
    queue.put_nowait(1)
    for call in (queue.put_nowait, lambda item: queue.put(item, False), lambda item: queue.put(item, 0, 9)):
        with pytest.raises(Full):
            call(2)
    assert queue.get_nowait() == 1


def test_with_a_timeout_it_is_empty_or_full_when_time_is_up(kind, hub):
    queue = kind(1)
    before = hub.time()
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    with pytest.raises(Empty):
        queue.get(True, 0)
    queue.put(1)
    with pytest.raises(Full):
        queue.put(2, timeout=0.01)
    with pytest.raises(Full):
        queue.put(2, True, 0)
    assert hub.time() - before >= 0.02
    assert drain(queue) == [1]


def test_bad_arguments(kind):
    queue = kind(1)
    for timeout, error in ((-1, ValueError), (math.nan, ValueError), ("1", TypeError)):
        with pytest.raises(error):
            queue.get(timeout=timeout)
        with pytest.raises(error):
            queue.put(1, timeout=timeout)
    for call in (
        queue.put,
        lambda: queue.put(1, True, 1, 1),
        lambda: queue.get(True, 1, 1),
        lambda: queue.put(thing=1),
        lambda: queue.get(blocking=True),
        lambda: queue.put(1, item=1),
        lambda: kind("1"),
        lambda: kind(1, 2),
    ):
        with pytest.raises(TypeError):
            call()
    queue.put(item=1, block=True, timeout=None)
    assert queue.get(block=True, timeout=1) == 1


# ---- kills and timeouts --------------------------------------------------------------------------


def test_a_getter_that_is_killed_gets_nothing(kind):
    queue = kind()
    tasks = [spawn(queue.get) for _ in range(3)]
    settle()
    tasks[1].kill()
    queue.put(1)
    queue.put(2)
    with pytest.raises(TaskExit):
        tasks[1].result()
    assert sorted([tasks[0].result(), tasks[2].result()]) == [1, 2]


def test_an_item_handed_to_a_getter_that_is_killed_goes_to_the_next(kind):
    queue = kind()
    tasks = [spawn(queue.get) for _ in range(2)]
    settle()
    queue.put(1)
    tasks[0].kill()
    assert tasks[1].result() == 1
    assert queue.empty()


def test_items_handed_to_getters_that_are_killed_come_back_in_order(kind):
    import itertools

    for order in itertools.permutations(range(4)):
        queue = kind()
        tasks = [spawn(queue.get) for _ in range(4)]
        settle()
        for item in range(4):
            queue.put(item)
        for number in order[:3]:
            tasks[number].kill()
        queue.put(4)
        left = [item for item in range(4) if item in order[:3]] + [4]
        assert queue.qsize() == (4 if kind is not Mine else 5)
        settle()
        if kind is Mine:
            left = [1, 2, 3, 4]  # whoever is left gets the first
        assert drain(queue) == in_order(kind, left)
        tasks[order[3]].result()


def test_items_that_went_through_many_hands_keep_their_order(hub):
    queue = Queue()
    tasks = [spawn(queue.get) for _ in range(4)]
    settle()
    queue.put("first")
    queue.put("second")
    tasks[0].kill()  # the third has the first now
    tasks[1].kill()  # and the fourth the second
    tasks[3].kill()
    tasks[2].kill()
    settle()
    assert drain(queue) == ["first", "second"]


def test_a_value_given_back_after_others_were_handed_on_keeps_its_place(hub):
    queue = Queue()
    tasks = [spawn(queue.get) for _ in range(3)]
    settle()
    queue.put("first")
    queue.put("second")
    tasks[0].kill()  # "first" is the third's
    tasks[1].kill()
    tasks[2].kill()
    settle()
    assert drain(queue) == ["first", "second"]


def test_a_killed_putter_has_put_nothing(kind):
    queue = kind(1)
    queue.put(0)
    tasks = [spawn(queue.put, item) for item in (1, 2)]
    settle()
    tasks[0].kill()
    settle()
    assert queue.get() == 0
    tasks[1].result()
    assert drain(queue) == [2]
    assert queue.unfinished_tasks == 2


def test_a_putter_killed_after_it_was_let_in_has_put_its_item(hub):
    queue = Queue(1)
    queue.put(0)
    task = spawn(queue.put, 1)
    settle()
    queue.get()
    task.kill()
    with pytest.raises(TaskExit):
        task.result()
    assert drain(queue) == [1]


def test_room_that_a_killed_putter_of_a_subclass_was_told_of_goes_to_the_next(hub):
    queue = Mine(1)
    queue.put(0)
    tasks = [spawn(queue.put, item) for item in (1, 2)]
    settle()
    queue.get()
    tasks[0].kill()
    tasks[1].result()
    assert drain(queue) == [2]


def test_a_deadline_around_a_get_that_passes_with_the_item_in_hand(kind):
    def get():
        with move_on_after(0.002) as scope:
            queue.get()
            sleep(100)
        return scope.expired

    queue = kind()
    task = spawn(get)
    settle()
    pass_time()
    queue.put(1)
    assert task.result() is True
    assert drain(queue) in ([], [1])


def test_a_timeout_leaves_the_queue_of_waiters(kind, hub):
    queue = kind()
    hasty = spawn(queue.get, True, 0.001)
    patient = spawn(queue.get)
    with pytest.raises(Empty):
        hasty.result()
    queue.put(1)
    assert patient.result() == 1
    assert hub.stats()["timers"] == 0


# ---- comparing -----------------------------------------------------------------------------------


class Item:
    """Compares as it is told, and may do something meanwhile."""

    def __init__(self, key, meanwhile=None):
        self.key, self.meanwhile = key, meanwhile

    def __lt__(self, other):
        for item in (self, other):
            if item.meanwhile:
                meanwhile, item.meanwhile = item.meanwhile, None
                meanwhile()
        return self.key < other.key


def test_an_item_that_cannot_be_compared_is_the_putters_error(hub):
    queue = PriorityQueue()
    queue.put(1)
    with pytest.raises(TypeError):
        queue.put("text")
    assert (queue.qsize(), queue.unfinished_tasks) == (1, 1)
    assert drain(queue) == [1]


def test_the_same_for_a_putter_that_waits(hub):
    queue = PriorityQueue(2)
    queue.put(1)
    queue.put(2)
    bad, good = spawn(queue.put, "text"), spawn(queue.put, 0)
    settle()
    assert queue.get() == 1
    with pytest.raises(TypeError):
        bad.result()
    good.result()
    assert queue.unfinished_tasks == 3
    assert drain(queue) == [0, 2]


def test_a_comparison_that_fails_in_get_leaves_the_queue_as_it_was(hub):
    def fail():
        raise Boom

    queue = PriorityQueue()
    for key in range(6):
        queue.put(Item(key))
    bad = Item(7)
    queue.put(bad)
    bad.meanwhile = fail
    with pytest.raises(Boom):
        for _ in range(7):
            queue.get()
    left = [item.key for item in drain(queue)]
    assert left == sorted(left)
    assert left[-1] == 7


def test_an_item_that_comes_back_and_cannot_be_compared_comes_first(hub):
    queue = PriorityQueue()
    task = spawn(queue.get)
    settle()
    queue.put("text")
    queue.put(2)
    queue.put(1)
    task.kill()
    assert [queue.get() for _ in range(3)] == ["text", 1, 2]


@pytest.mark.parametrize("what", ["put", "get", "sleep", "shutdown"])
def test_comparing_may_use_the_queue(hub, what):
    def meanwhile():
        if what == "put":
            queue.put(Item(2.5))
        elif what == "get":
            got.append(queue.get().key)
        elif what == "sleep":
            other = spawn(lambda: (got.append(queue.get().key), queue.put(Item(-1))))
            sleep(0)
            other.join()
        else:
            queue.shutdown(immediate=True)

    queue, got = PriorityQueue(), []
    for key in (1, 3, 2):
        queue.put(Item(key))
    try:
        queue.put(Item(0, meanwhile))
    except ShutDown:
        assert what == "shutdown"
    left = [item.key for item in drain(queue)]
    assert (
        left
        == {
            "put": [0, 1, 2, 2.5, 3],
            "get": [0, 2, 3],
            "sleep": [-1, 0, 2, 3],
            "shutdown": [],
        }[what]
    )
    queue = PriorityQueue()
    items = [Item(key) for key in (1, 3, 2, 4)]
    for item in items:
        queue.put(item)
    items[3].meanwhile = meanwhile
    keys = []
    try:
        while not queue.empty():
            keys.append(queue.get_nowait().key)
    except ShutDown:
        assert what == "shutdown"
    assert keys == sorted(keys)


def test_a_bounded_queue_holds_no_more_although_comparing_lets_others_in(hub):
    queue = PriorityQueue(3)
    queue.put(Item(1))
    queue.put(Item(2))
    with pytest.raises(Full):
        queue.put(Item(0, lambda: queue.put(Item(5))), block=False)
    assert [item.key for item in drain(queue)] == [1, 2, 5]


def test_priorities_compared_in_python_by_many_threads(hub):
    queue, got, total = PriorityQueue(10), [], 1200
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    class Slow:
        def __init__(self, key):
            self.key = key

        def __lt__(self, other):
            for _ in range(5):
                pass
            return self.key < other.key

    def produce(keys):
        for key in keys:
            queue.put(Slow(key))

    def consume():
        while True:
            item = queue.get()
            if item.key is math.inf:
                return
            got.append(item.key)

    def with_loop(function, *args):
        loop = EventLoop()
        spawn(function, *args).result(PATIENCE)
        loop.destroy()

    try:
        parts = [range(start, total, 4) for start in range(4)]
        producers = [threading.Thread(target=produce, args=(parts[0],))]
        producers += [threading.Thread(target=with_loop, args=(produce, parts[1]))]
        consumers = [threading.Thread(target=consume), threading.Thread(target=with_loop, args=(consume,))]
        for thread in producers + consumers:
            thread.start()
        tasks = [spawn(produce, part) for part in parts[2:]]
        mine = spawn(consume)
        for task in tasks:
            task.result(PATIENCE)
        while any(thread.is_alive() for thread in producers):
            sleep(0.001)
        for _ in range(3):
            queue.put(Slow(math.inf))
        mine.result(PATIENCE)
        for thread in consumers:
            thread.join(PATIENCE)
    finally:
        sys.setswitchinterval(interval)
    assert sorted(got) == list(range(total))


# ---- subclasses ----------------------------------------------------------------------------------


def test_a_subclass_keeps_its_items_where_it_likes(hub):
    queue = Mine(2)
    queue.put((1, 2))
    assert queue.items == [(1, 2)]
    assert queue.get() == (1, 2)
    task = spawn(queue.get)
    settle()
    queue.put("x")
    assert task.result() == "x"


def test_the_methods_of_a_subclass_are_called_by_one_at_a_time(hub):
    class Careful(Mine):
        inside = 0

        def enter(self):
            assert self.inside == 0
            self.inside += 1
            sleep(0.0001) if threading.current_thread() is threading.main_thread() else pass_time(0.0001)
            self.inside -= 1

        def _qsize(self):
            self.enter()
            return super()._qsize()

        def _put(self, item):
            self.enter()
            super()._put(item)
            assert len(self.items) <= self.maxsize

        def _get(self):
            self.enter()
            return super()._get()

    queue, got = Careful(2), []

    def produce(values):
        for value in values:
            queue.put(value)

    def consume(times):
        for _ in range(times):
            got.append(queue.get())

    threads = [
        threading.Thread(target=produce, args=(range(100, 140),)),
        threading.Thread(target=consume, args=(40,)),
    ]
    for thread in threads:
        thread.start()
    tasks = [spawn(produce, range(0, 40)), spawn(produce, range(40, 80))]
    tasks += [spawn(consume, 40), spawn(consume, 40)]
    for task in tasks:
        task.result(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(got) == [*range(80), *range(100, 140)]
    assert (queue.qsize(), queue.full()) == (0, False)


def test_an_error_of_a_subclass_comes_out_and_wakes_the_next(hub):
    class Failing(Mine):
        fail = False

        def _get(self):
            if self.fail:
                self.fail = False
                raise Boom
            return super()._get()

    queue = Failing()
    tasks = [spawn(queue.get) for _ in range(2)]
    settle()
    queue.fail = True
    queue.put(1)
    with pytest.raises(Boom):
        tasks[0].result()
    assert tasks[1].result() == 1


def test_methods_of_a_subclass_may_call_the_others(hub):
    class Talkative(PriorityQueue):
        def _put(self, item):
            assert self.qsize() == self._qsize()
            super()._put((item, self.empty()))

        def _get(self):
            assert not self.empty()
            return super()._get()[0]

    queue = Talkative()
    for item in (3, 1, 2):
        queue.put(item)
    assert drain(queue) == [1, 2, 3]


def test_a_subclass_with_an_init_of_its_own(hub):
    class Named(Queue):
        def __init__(self, name):
            self.name = name

    queue = Named("name")
    queue.put(1)
    assert (queue.name, queue.get(), queue.maxsize) == ("name", 1, 0)


# ---- task_done, join -------------------------------------------------------------------------------


def test_join_waits_until_all_is_done(kind):
    queue = kind()
    queue.join()
    for item in range(3):
        queue.put(item)
    task = spawn(queue.join)
    settle()
    for left in (2, 1, 0):
        assert task.is_alive()
        queue.get()
        queue.task_done()
        assert queue.unfinished_tasks == left
    task.result()
    with pytest.raises(ValueError):
        queue.task_done()


def test_a_killed_joiner_and_a_queue_that_fills_again(hub):
    queue = Queue()
    queue.put(1)
    tasks = [spawn(queue.join) for _ in range(2)]
    settle()
    tasks[0].kill()
    queue.task_done()
    queue.put(2)  # before the other could run
    settle()
    assert tasks[1].is_alive()
    queue.task_done()
    tasks[1].result()


# ---- shutdown ----------------------------------------------------------------------------------------


def test_a_queue_that_was_shut_down_takes_nothing_and_gives_what_it_has(kind):
    queue = kind(5)
    queue.put(1)
    queue.put(2)
    queue.shutdown()
    queue.shutdown()
    assert queue.is_shutdown
    for call in (queue.put, queue.put_nowait, lambda item: queue.put(item, timeout=1)):
        with pytest.raises(ShutDown):
            call(3)
    assert sorted(drain(queue)) == [1, 2]
    for call in (queue.get, queue.get_nowait, lambda: queue.get(timeout=1)):
        with pytest.raises(ShutDown):
            call()


def test_shutdown_wakes_all_who_wait(kind):
    queue = kind(1)
    getters = [spawn(queue.get) for _ in range(3)]
    settle()
    queue.shutdown()
    for task in getters:
        with pytest.raises(ShutDown):
            task.result()
    queue = kind(1)
    queue.put(0)
    putters = [spawn(queue.put, item) for item in range(3)]
    settle()
    queue.shutdown()
    for task in putters:
        with pytest.raises(ShutDown):
            task.result()
    assert drain(queue) == [0]
    assert queue.unfinished_tasks == 1


def test_an_immediate_shutdown_drops_the_items(kind):
    queue = kind(3)
    for item in range(3):
        queue.put(item)
    task = spawn(queue.join)
    settle()
    queue.shutdown(immediate=True)
    task.result()
    assert (queue.qsize(), queue.unfinished_tasks) == (0, 0)
    with pytest.raises(ShutDown):
        queue.get_nowait()


def test_an_item_handed_over_before_the_shutdown_is_not_lost(kind):
    queue = kind()
    tasks = [spawn(queue.get) for _ in range(2)]
    settle()
    queue.put(1)
    queue.shutdown()
    tasks[0].kill()
    settle()
    assert tasks[1].result() == 1
    with pytest.raises(ShutDown):
        queue.get()


def test_a_task_killed_after_the_shutdown_woke_it(kind):
    queue = kind(1)
    getter = spawn(queue.get)
    settle()
    queue.shutdown()
    getter.kill()
    with pytest.raises(TaskExit):
        getter.result()


def test_shut_down_in_the_standard_librarys_way(hub):
    if hasattr(standard, "ShutDown"):
        assert ShutDown is standard.ShutDown
    assert (Empty, Full) == (standard.Empty, standard.Full)


# ---- threads and loops ---------------------------------------------------------------------------------


def test_items_between_threads_loops_and_tasks(kind):
    queue, got, total = kind(7), [], 900

    def produce(values):
        for value in values:
            queue.put(value)

    def consume():
        while True:
            try:
                got.append(queue.get())
            except ShutDown:
                return
            queue.task_done()

    def with_loop(function, *args):
        loop = EventLoop()
        for task in [spawn(function, *args) for _ in range(2 if function is consume else 1)]:
            task.result(PATIENCE)
        loop.destroy()

    threads = [threading.Thread(target=produce, args=(range(0, 300),))]
    threads += [threading.Thread(target=with_loop, args=(produce, range(300, 600)))]
    consumers = [threading.Thread(target=consume), threading.Thread(target=with_loop, args=(consume,))]
    for thread in threads + consumers:
        thread.start()
    mine = [spawn(consume) for _ in range(3)]
    spawn(produce, range(600, 900)).result(PATIENCE)
    while any(thread.is_alive() for thread in threads):
        sleep(0.001)
    queue.join()
    queue.shutdown()
    for task in mine:
        task.result(PATIENCE)
    for thread in consumers:
        thread.join(PATIENCE)
    assert sorted(got) == list(range(total))
    assert queue.unfinished_tasks == 0


def test_a_queue_works_in_native_threads_alone():
    queue = Queue(1)

    def thread():
        queue.put(1)
        with pytest.raises(Full):
            queue.put(2, timeout=0.002)
        assert queue.get() == 1
        with pytest.raises(Empty):
            queue.get(timeout=0.002)
        return "done"

    assert in_thread(thread) == "done"


def test_a_callback_may_put_and_get_what_is_there_but_not_wait(hub):
    queue, seen = Queue(1), []

    def callback():
        queue.put(1)
        seen.append(queue.get())
        for call in (queue.get, lambda: (queue.put(1), queue.put(2))):
            try:
                call()
            except RuntimeError as exc:
                seen.append(str(exc)[:26])

    hub.call_soon(callback)
    settle()
    assert seen == [1, "this would block the event", "this would block the event"]


# ---- the object ------------------------------------------------------------------------------------------


class Value:
    pass


@pytest.mark.parametrize("returned", [False, True])
def test_a_queue_that_holds_itself_is_collected(kind, returned):
    queue = kind()
    ref = weakref.ref(queue)
    task = spawn(queue.get) if returned else None
    settle()
    queue.put(queue)
    if task:
        task.kill()
        task.join()
    del queue, task
    gc.collect()
    assert ref() is None


def test_items_are_freed_wherever_they_end(kind):
    refs = []

    def value():
        thing = Value()
        refs.append(weakref.ref(thing))
        return (len(refs), thing)

    queue = kind(1)
    queue.put(value())
    putter = spawn(queue.put, value())
    settle()
    putter.kill()
    putter.join()
    late = spawn(queue.put, value())
    settle()
    queue.get()
    settle()
    queue.shutdown(immediate=True)
    assert refs[0]() is None and refs[2]() is None
    queue = kind()
    getter = spawn(queue.get)
    settle()
    queue.put(value())
    getter.kill()
    getter.join()
    queue.put(value())
    del queue, getter, putter, late
    settle()
    gc.collect()
    assert [ref() for ref in refs] == [None] * len(refs)


def test_finalisers_of_items_may_use_the_queue(hub):
    class Noisy:
        def __del__(self):
            queue.put("from a finaliser") if not queue.is_shutdown else seen.append(queue.qsize())

    queue, seen = Queue(), []
    queue.put(Noisy())
    queue.get()
    assert queue.get() == "from a finaliser"
    for _ in range(3):
        queue.put(Noisy())
    queue.shutdown(immediate=True)
    assert len(seen) == 3


def test_no_reference_is_lost_or_kept(kind):
    item = (0, Value())
    queue = kind(1)
    before = sys.getrefcount(queue), sys.getrefcount(item)
    for _ in range(20):
        getter, other = spawn(queue.get), spawn(queue.get, True, 0.0001)
        settle()
        queue.put(item)
        getter.kill()
        settle()
        other.join()
        drain(queue)
        queue.put(item)
        putters = [spawn(queue.put, item) for _ in range(2)]
        settle()
        putters[0].kill()
        queue.get()
        settle()
        queue.get()
    del getter, other, putters
    settle()
    gc.collect()
    assert (sys.getrefcount(queue), sys.getrefcount(item)) == before


def test_repr_and_weak_references(kind):
    queue = kind(3)
    queue.put(1)
    assert repr(queue).startswith(f"<evergreen.{kind.__name__} at 0x")
    assert repr(queue).endswith(": 1 items, maxsize=3>")
    queue.shutdown()
    assert repr(queue).endswith(", shut down>")
    ref = weakref.ref(queue)
    del queue
    assert ref() is None


def test_signatures():
    signatures = {
        Queue: "(maxsize=0)",
        LifoQueue: "(maxsize=0)",
        PriorityQueue: "(maxsize=0)",
        Queue.put: "(self, /, item, block=True, timeout=None)",
        Queue.get: "(self, /, block=True, timeout=None)",
        Queue.put_nowait: "(self, item, /)",
        Queue.get_nowait: "(self, /)",
        Queue.qsize: "(self, /)",
        Queue.empty: "(self, /)",
        Queue.full: "(self, /)",
        Queue.task_done: "(self, /)",
        Queue.join: "(self, /)",
        Queue.shutdown: "(self, /, immediate=False)",
    }
    assert {method: str(inspect.signature(method)) for method in signatures} == signatures


@pytest.mark.parametrize("kind", EVERY)
def test_an_idle_one_is_small(kind):
    gc_header = 16
    assert sys.getsizeof(kind()) <= 120
    assert kind.__basicsize__ + gc_header <= 120


def test_a_queue_gives_back_the_memory_of_many_items(hub):
    import tracemalloc

    queue = Queue()
    tracemalloc.start()
    for _ in range(100_000):
        queue.put(None)
    full = tracemalloc.get_traced_memory()[0]
    drain(queue)
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert full > 500_000
    assert left < 100_000


def test_a_killed_child_of_fork_does_not_take_items_for_dead_waiters():
    out = output_of(
        """
        import os, threading
        from evergreen import sleep, spawn
        from evergreen.queue import Queue

        queue, up = Queue(), threading.Event()
        thread = threading.Thread(target=lambda: (up.set(), queue.get()), daemon=True)
        thread.start()
        up.wait()
        spawn(queue.get)
        sleep(0.05)
        pid = os.fork()
        if not pid:
            queue.put(1)
            os._exit(queue.qsize())
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        queue.put(1)
        queue.put(2)
        thread.join()
        sleep(0.001)
    """,
        options=("-W", "ignore::DeprecationWarning"),  # Python warns of forks beside threads
    )
    assert out == "1\n"


def test_a_negative_size_of_a_subclass_is_a_value_error(hub):
    class Odd(Queue):
        def _qsize(self):
            return -1

    queue = Odd(1)
    for call in queue.qsize, queue.get_nowait, lambda: queue.put_nowait(1), queue.full:
        with pytest.raises(ValueError, match="_qsize"):
            call()
