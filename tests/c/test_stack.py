"""stack.c: the memory of Python frames in small greenlets."""

import gc
import sys
import traceback

import pytest
from helpers import output_of, settle

from evergreen import sleep, spawn
from evergreen.event import Event


def chunks(hub):
    return hub.stats()["memory"]


def test_parked_tasks_have_small_chunks_where_python_is_known(hub):
    if not hub.stats()["small_chunks_on"]:
        assert chunks(hub)["small_chunks"] == 0
        return
    before = chunks(hub)["small_chunks"]
    tasks = [spawn(sleep, 100) for _ in range(100)]
    settle()
    assert chunks(hub)["small_chunks"] >= before + 99
    for task in tasks:
        task.kill()
        task.join()


def test_this_python_is_known(hub):
    assert hub.stats()["small_chunks_on"] is (sys.version_info < (3, 16))


def test_small_chunks_go_with_their_greenlets(hub):
    tasks = [spawn(sleep, 0) for _ in range(500)]
    for task in tasks:
        task.join()
    deadline = hub.time() + 20
    while hub.stats()["greenlets_idle"] > 32 and hub.time() < deadline:
        sleep(0.1)
    assert chunks(hub)["small_chunks"] <= 40


def test_deep_and_shallow_frames_come_back_right(hub):
    def dive(depth, number):
        local = [depth, number]
        if depth:
            below = dive(depth - 1, number)
        else:
            sleep(0)
            below = 0
        assert local == [depth, number]
        return below + 1

    tasks = [spawn(dive, depth, number) for number, depth in enumerate([0, 1, 5, 20, 100, 300] * 20)]
    assert [task.result() for task in tasks] == [1, 2, 6, 21, 101, 301] * 20


def test_frames_outlive_the_task_that_ran_them(hub):
    def fail(number):
        local = f"local {number}"
        sleep(0)
        raise ValueError(local)

    failures = []
    for number in range(20):
        with pytest.raises(ValueError) as info:
            spawn(fail, number).result()
        failures.append(info.value)
    for _ in range(100):
        spawn(sleep, 0).join()
    gc.collect()
    for number, failure in enumerate(failures):
        frames = [frame for frame, _ in traceback.walk_tb(failure.__traceback__)]
        assert frames[-1].f_locals["local"] == f"local {number}"


def test_a_generator_made_in_one_task_goes_on_in_another(hub):
    def generate():
        for number in range(10):
            sleep(0)
            yield number

    generator = spawn(lambda: (it := generate(), next(it)) and it).result()
    assert spawn(next, generator).result() == 1
    assert next(generator) == 2
    assert spawn(list, generator).result() == [3, 4, 5, 6, 7, 8, 9]


def test_a_frame_of_a_parked_task_can_be_looked_at(hub):
    event = Event()

    def outer():
        value = "seen"
        event.wait()
        return value

    task = spawn(outer)
    settle()
    assert task.greenlet.gr_frame.f_locals["value"] == "seen"
    event.set()
    assert task.result() == "seen"


def test_tasks_call_c_functions_that_call_python(hub):
    def key(value):
        sleep(0)
        return -value

    tasks = [spawn(sorted, [3, 1, 2], key=key) for _ in range(50)]
    assert all(task.result() == [3, 2, 1] for task in tasks)


def test_many_parked_tasks_are_cheap_in_memory():
    out = output_of(
        """
        import evergreen, os
        from evergreen.event import Event

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

        event = Event()
        def wait():
            event.wait()

        def park(number):
            tasks = [evergreen.spawn(wait) for _ in range(number)]
            evergreen.sleep(0)
            return tasks

        first = park(1000)
        before = resident()
        tasks = park(20000)
        small = evergreen.current.loop.stats()["small_chunks_on"]
        print(small, (resident() - before) / 20000)
        event.set()
        for task in tasks:
            task.join()
        """
    )
    small, cost = out.split()
    assert float(cost) < (10_000 if small == "True" else 30_000)  # a chunk of CPython alone is 16 KiB


def test_greenlets_of_others_share_the_allocator(hub):
    import greenlet

    def plain(depth):
        return plain(depth - 1) + 1 if depth else (sleep(0), 0)[1]

    for _ in range(20):
        assert greenlet.greenlet(plain).switch(100) == 100
        assert spawn(lambda: greenlet.greenlet(plain).switch(50)).result() == 50


def test_native_threads_use_the_allocator_while_tasks_do(hub):
    import threading

    def dive(depth):
        return dive(depth - 1) + 1 if depth else 0

    results = []
    threads = [threading.Thread(target=lambda: results.append(dive(500))) for _ in range(20)]
    tasks = [spawn(lambda: (sleep(0.001), dive(300))[1]) for _ in range(100)]
    for thread in threads:
        thread.start()
    assert [task.result() for task in tasks] == [300] * 100
    for thread in threads:
        thread.join()
    assert results == [500] * 20


def test_tracemalloc_does_not_mind(hub):
    import tracemalloc

    tracemalloc.start()
    try:
        tasks = [spawn(sleep, 0) for _ in range(100)]
        for task in tasks:
            task.join()
    finally:
        tracemalloc.stop()
