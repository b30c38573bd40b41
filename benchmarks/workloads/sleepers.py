"""50,000 tasks that each sleep between 10 and 200 ms, joined: what one of many timed waits costs.

The sleeps are in no order, so that a timer heap has work to do.  Wall time includes the sleep; CPU time
does not.
"""

from workloads import Workload

WORKLOADS = (Workload("sleepers", "spawn, sleep, join, 50,000 at once", per="task", counts=(50_000,)),)


def lengths(count):
    """Return *count* sleeps between 0.010 and 0.200 seconds, evenly spread, in a fixed disorder."""
    return [0.010 + 0.190 * (number * 7919 % count) / count for number in range(count)]


def on_evergreen(count, meter):
    from evergreen import sleep, spawn

    def nap(seconds):
        sleep(seconds)

    naps = lengths(count)
    with meter:
        tasks = [spawn(nap, seconds) for seconds in naps]
        for task in tasks:
            task.join()


def on_gevent(count, meter):
    from gevent import sleep, spawn

    def nap(seconds):
        sleep(seconds)

    naps = lengths(count)
    with meter:
        tasks = [spawn(nap, seconds) for seconds in naps]
        for task in tasks:
            task.join()


def on_eventlet(count, meter):
    from eventlet import sleep, spawn

    def nap(seconds):
        sleep(seconds)

    naps = lengths(count)
    with meter:
        tasks = [spawn(nap, seconds) for seconds in naps]
        for task in tasks:
            task.wait()


async def on_asyncio(count, meter):
    from asyncio import create_task, sleep

    async def nap(seconds):
        await sleep(seconds)

    naps = lengths(count)
    with meter:
        tasks = [create_task(nap(seconds)) for seconds in naps]
        for task in tasks:
            await task
