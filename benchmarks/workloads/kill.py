"""Kill 10,000 tasks that are asleep for an hour, and join them: what cancellation costs.

Starting the tasks and letting each fall asleep is not measured.  The tasks count themselves, so that none
is killed before it ran.
"""

from itertools import count as counter

from workloads import Workload

WORKLOADS = (Workload("kill", "kill + join of parked tasks, 10,000 at once", per="task", counts=(10_000,)),)

HOUR = 3600


def on_evergreen(count, meter):
    from evergreen import sleep, spawn

    def park():
        next(parked)
        sleep(HOUR)

    parked = counter()
    tasks = [spawn(park) for _ in range(count)]
    sleep(0)
    assert next(parked) == count
    with meter:
        for task in tasks:
            task.kill()
        for task in tasks:
            task.join()


def on_gevent(count, meter):
    from gevent import killall, sleep, spawn

    def park():
        next(parked)
        sleep(HOUR)

    parked = counter()
    tasks = [spawn(park) for _ in range(count)]
    sleep(0)
    assert next(parked) == count
    with meter:
        killall(tasks)  # joins them; a little faster than kill(block=False) and join() of each


def on_eventlet(count, meter):
    from eventlet import sleep, spawn
    from greenlet import GreenletExit

    def park():
        next(parked)
        sleep(HOUR)

    parked = counter()
    tasks = [spawn(park) for _ in range(count)]
    sleep(0)
    assert next(parked) == count
    with meter:
        for task in tasks:
            task.kill()
        for task in tasks:
            try:
                task.wait()
            except GreenletExit:
                pass


async def on_asyncio(count, meter):
    from asyncio import create_task, sleep, wait

    async def park():
        next(parked)
        await sleep(HOUR)

    parked = counter()
    tasks = [create_task(park()) for _ in range(count)]
    await sleep(0)
    assert next(parked) == count
    with meter:
        for task in tasks:
            task.cancel()
        await wait(tasks)  # faster than awaiting each, which raises each CancelledError once more


def on_greenlet(count, meter):
    from greenlet import getcurrent, greenlet

    main = getcurrent()

    def park():
        next(parked)
        main.switch()

    parked = counter()
    tasks = [greenlet(park) for _ in range(count)]
    for task in tasks:
        task.switch()
    assert next(parked) == count
    with meter:
        for task in tasks:
            task.throw()
