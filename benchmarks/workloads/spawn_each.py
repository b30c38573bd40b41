"""Start a task and join it, one after the other: what it costs to hand a single job to a task."""

from programs import work

from workloads import Workload

WORKLOADS = (Workload("spawn_each", "spawn + join, one after the other", per="task", counts=(20_000,)),)


def job():
    pass


async def async_job():
    pass


def on_evergreen(count, meter):
    from evergreen import spawn

    with meter:
        for _ in range(count):
            spawn(job).join()


def on_gevent(count, meter):
    from gevent import spawn

    with meter:
        for _ in range(count):
            spawn(job).join()


def on_eventlet(count, meter):
    from eventlet import spawn

    with meter:
        for _ in range(count):
            spawn(job).wait()


async def on_asyncio(count, meter):
    from asyncio import create_task

    with meter:
        for _ in range(count):
            await create_task(async_job())


def on_greenlet(count, meter):
    from greenlet import greenlet

    with meter:
        for _ in range(count):
            greenlet(job).switch()


def on_threads(count, meter):
    from threading import Thread

    def nothing():
        pass

    with meter:
        for _ in range(count):
            thread = Thread(target=nothing)
            thread.start()
            thread.join()


def on_go(count, meter):
    work(meter, "spawn_each", count)
