"""A 10 ms timer beside two tasks that never stop yielding: how late is it seen?

A loop that keeps serving what is ready, and looks at its timers when nothing is, lets it wait for ever.
"""

from time import perf_counter

from meters import Lateness

from workloads import Workload

WORKLOADS = (
    Workload(
        "latency_timer",
        "delay of a 10 ms timer beside 2 busy tasks",
        per="timer",
        counts=(100,),
        meter=Lateness,
        warm_up=5,
    ),
)

TIMER = 0.010


def on_evergreen(count, meter):
    from evergreen import sleep, spawn

    def turn():
        while busy:
            sleep(0)

    busy = True
    pair = [spawn(turn), spawn(turn)]
    for _ in range(count):
        due = perf_counter() + TIMER
        sleep(TIMER)
        meter.add(perf_counter() - due)
    busy = False
    for task in pair:
        task.join()


def on_gevent(count, meter):
    from gevent import sleep, spawn

    def turn():
        while busy:
            sleep(0)

    busy = True
    pair = [spawn(turn), spawn(turn)]
    for _ in range(count):
        due = perf_counter() + TIMER
        sleep(TIMER)
        meter.add(perf_counter() - due)
    busy = False
    for task in pair:
        task.join()


def on_eventlet(count, meter):
    from eventlet import sleep, spawn

    def turn():
        while busy:
            sleep(0)

    busy = True
    pair = [spawn(turn), spawn(turn)]
    for _ in range(count):
        due = perf_counter() + TIMER
        sleep(TIMER)
        meter.add(perf_counter() - due)
    busy = False
    for task in pair:
        task.wait()


async def on_asyncio(count, meter):
    from asyncio import create_task, sleep

    async def turn():
        while busy:
            await sleep(0)

    busy = True
    pair = [create_task(turn()), create_task(turn())]
    for _ in range(count):
        due = perf_counter() + TIMER
        await sleep(TIMER)
        meter.add(perf_counter() - due)
    busy = False
    for task in pair:
        await task
