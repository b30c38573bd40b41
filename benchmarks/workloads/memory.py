"""50,000 tasks parked on one event: resident memory of each: its stack, frames and place in the queue.

The task's body is a Python function: one frame is the least that any real task has.
"""

from itertools import count as counter

from meters import Memory

from workloads import Workload

WORKLOADS = (
    Workload("memory", "memory of a parked task, 50,000 of them", per="task", counts=(50_000,), meter=Memory),
)


def on_evergreen(count, meter):
    from evergreen import event, sleep, spawn

    def park():
        next(parked)
        gate.wait()

    parked, gate = counter(), event.Event()
    with meter:
        tasks = [spawn(park) for _ in range(count)]
        sleep(0)
        assert next(parked) == count
    gate.set()
    for task in tasks:
        task.join()


def on_gevent(count, meter):
    from gevent import sleep, spawn
    from gevent.event import Event

    def park():
        next(parked)
        gate.wait()

    parked, gate = counter(), Event()
    with meter:
        tasks = [spawn(park) for _ in range(count)]
        sleep(0)
        assert next(parked) == count
    gate.set()
    for task in tasks:
        task.join()


def on_eventlet(count, meter):
    from eventlet import Event, sleep, spawn

    def park():
        next(parked)
        gate.wait()

    parked, gate = counter(), Event()
    with meter:
        tasks = [spawn(park) for _ in range(count)]
        sleep(0)
        assert next(parked) == count
    gate.send()
    for task in tasks:
        task.wait()


async def on_asyncio(count, meter):
    from asyncio import Event, create_task, sleep

    async def park():
        next(parked)
        await gate.wait()

    parked, gate = counter(), Event()
    with meter:
        tasks = [create_task(park()) for _ in range(count)]
        await sleep(0)
        assert next(parked) == count
    gate.set()
    for task in tasks:
        await task


def on_greenlet(count, meter):
    from greenlet import getcurrent, greenlet

    main = getcurrent()

    def park():
        next(parked)
        main.switch()

    parked = counter()
    with meter:
        tasks = [greenlet(park) for _ in range(count)]
        for task in tasks:
            task.switch()
        assert next(parked) == count
    for task in tasks:
        task.switch()
