"""arena.c: memory that CPython gives back and soon wants again."""

import os

from helpers import output_of

from evergreen import sleep, spawn


def wait_until(hub, condition):
    """Return whether it came true; what it is about happens while the loop is idle."""
    deadline = hub.time() + 20
    while not condition() and hub.time() < deadline:
        sleep(0.1)
    return condition()


def deep(depth):
    return deep(depth - 1) if depth else sleep(0.001)


def test_frame_chunks_are_kept_up_to_a_bound_and_given_back_when_idle(hub):
    tasks = [spawn(deep, 60) for _ in range(2000)]
    for task in tasks:
        task.result()
    assert 16 < hub.stats()["memory"]["cached_chunks"] <= 512
    assert wait_until(hub, lambda: hub.stats()["memory"]["cached_chunks"] <= 16)


def test_arenas_of_objects_are_kept_up_to_a_bound_and_given_back_when_idle():
    # In a process of its own: elsewhere an object of others may live in each arena.
    out = output_of(
        """
        from evergreen import EventLoop, sleep
        loop = EventLoop.current()
        for n in (50_000, 1_000_000):
            for _ in range(n):
                loop.call_soon(int)
            sleep(0)
            print(0 < loop.stats()["memory"]["cached_arenas"] <= 16)
        end = loop.time() + 20
        while loop.stats()["memory"]["cached_arenas"] and loop.time() < end:
            sleep(0.1)
        print(loop.stats()["memory"]["cached_arenas"])
        """,
        env={name: value for name, value in os.environ.items() if name != "PYTHONMALLOC"},
    )
    assert out.split() == ["True", "True", "0"]
