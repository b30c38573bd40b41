"""Start many tasks at once, then join them all: what a burst of small jobs costs."""

from programs import work

from workloads import Workload

WORKLOADS = (Workload("spawn_join", "spawn + join, 25,000 at once", per="task", counts=(25_000,)),)


def job():
    pass


async def async_job():
    pass


def on_evergreen(count, meter):
    from evergreen import spawn

    with meter:
        tasks = [spawn(job) for _ in range(count)]
        for task in tasks:
            task.join()


def on_gevent(count, meter):
    from gevent import spawn

    with meter:
        tasks = [spawn(job) for _ in range(count)]
        for task in tasks:  # a little faster than gevent.joinall(tasks)
            task.join()


def on_eventlet(count, meter):
    from eventlet import spawn

    with meter:
        tasks = [spawn(job) for _ in range(count)]
        for task in tasks:
            task.wait()


async def on_asyncio(count, meter):
    from asyncio import create_task

    with meter:
        tasks = [create_task(async_job()) for _ in range(count)]
        for task in tasks:  # faster than gather(), wait() and TaskGroup
            await task


def on_greenlet(count, meter):
    from greenlet import greenlet

    with meter:
        tasks = [greenlet(job) for _ in range(count)]
        for task in tasks:
            task.switch()


def on_go(count, meter):
    work(meter, "spawn_join", count)
