"""5,000 tasks that wait for one event, woken: from set() until the last has ended.

Starting the tasks and letting each fall asleep is not measured.
"""

from workloads import Workload

WORKLOADS = (Workload("event", "wake 5,000 waiters of an event", per="waiter", counts=(5_000,)),)


def on_evergreen(count, meter):
    from evergreen import sleep, spawn
    from evergreen.event import Event

    gate = Event()
    tasks = [spawn(gate.wait) for _ in range(count)]
    sleep(0)
    with meter:
        gate.set()
        for task in tasks:
            task.join()


def on_gevent(count, meter):
    from gevent import sleep, spawn
    from gevent.event import Event

    gate = Event()
    tasks = [spawn(gate.wait) for _ in range(count)]
    sleep(0)
    with meter:
        gate.set()
        for task in tasks:
            task.join()


async def on_asyncio(count, meter):
    from asyncio import Event, create_task, sleep

    gate = Event()
    tasks = [create_task(gate.wait()) for _ in range(count)]
    await sleep(0)
    with meter:
        gate.set()
        for task in tasks:
            await task
