"""Tasks that only yield to each other: what a switch costs.

Between two tasks everything stays in the processor's caches; among 1,000 it does not.  greenlet_c is the bare
switch between greenlets whose bodies are in C (``native/switch.c``): a floor.
"""

from programs import switch, work

from workloads import Workload

WORKLOADS = (
    Workload("yield2", "yield between 2 tasks", per="yield", counts=(200_000,), options={"tasks": 2}),
    Workload("yield1000", "yield among 1,000 tasks", per="yield", counts=(200_000,), options={"tasks": 1000}),
)


def on_evergreen(count, meter, tasks):
    from evergreen import sleep, spawn

    def turn():
        for _ in range(count // tasks):
            sleep(0)

    with meter:
        turning = [spawn(turn) for _ in range(tasks)]
        for task in turning:
            task.join()


def on_gevent(count, meter, tasks):
    from gevent import sleep, spawn

    def turn():
        for _ in range(count // tasks):
            sleep(0)

    with meter:
        turning = [spawn(turn) for _ in range(tasks)]
        for task in turning:
            task.join()


def on_eventlet(count, meter, tasks):
    from eventlet import sleep, spawn

    def turn():
        for _ in range(count // tasks):
            sleep(0)

    with meter:
        turning = [spawn(turn) for _ in range(tasks)]
        for task in turning:
            task.wait()


async def on_asyncio(count, meter, tasks):
    from asyncio import create_task, sleep

    async def turn():
        for _ in range(count // tasks):
            await sleep(0)

    with meter:
        turning = [create_task(turn()) for _ in range(tasks)]
        for task in turning:
            await task


def on_greenlet(count, meter, tasks):
    from greenlet import getcurrent, greenlet

    main = getcurrent()

    def turn(following):
        main.switch()
        for _ in range(count // tasks):
            ring[following].switch()

    ring = [greenlet(turn) for _ in range(tasks)]
    for number, task in enumerate(ring):
        task.switch((number + 1) % tasks)
    with meter:
        ring[0].switch()  # returns when the first has had all its turns


def on_greenlet_c(count, meter, tasks):
    turns = switch().turns
    with meter:
        turns(tasks, count)


def on_go(count, meter, tasks):
    work(meter, "yield", count, tasks)
