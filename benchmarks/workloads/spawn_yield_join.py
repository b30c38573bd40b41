"""Start many tasks at once that each yield once: the whole life of a task that had to wait.

Every task is alive when the first one goes on, so none can take over the greenlet of another.
"""

from programs import work

from workloads import Workload

WORKLOADS = (
    Workload("spawn_yield_join", "spawn, yield once, join, 25,000 at once", per="task", counts=(25_000,)),
)


def on_evergreen(count, meter):
    from evergreen import sleep, spawn

    def job():
        sleep(0)

    with meter:
        tasks = [spawn(job) for _ in range(count)]
        for task in tasks:
            task.join()


def on_gevent(count, meter):
    from gevent import sleep, spawn

    def job():
        sleep(0)

    with meter:
        tasks = [spawn(job) for _ in range(count)]
        for task in tasks:
            task.join()


def on_eventlet(count, meter):
    from eventlet import sleep, spawn

    def job():
        sleep(0)

    with meter:
        tasks = [spawn(job) for _ in range(count)]
        for task in tasks:
            task.wait()


async def on_asyncio(count, meter):
    from asyncio import create_task, sleep

    async def job():
        await sleep(0)

    with meter:
        tasks = [create_task(job()) for _ in range(count)]
        for task in tasks:
            await task


def on_greenlet(count, meter):
    from greenlet import getcurrent, greenlet

    main = getcurrent()

    def job():
        main.switch()

    with meter:
        tasks = [greenlet(job) for _ in range(count)]
        for _ in range(2):
            for task in tasks:
                task.switch()


def on_go(count, meter):
    work(meter, "spawn_yield_join", count)
