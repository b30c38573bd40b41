"""Locks and semaphores: taken and given back alone, and among 100 tasks that all want the same one.

Alone nobody waits, so it is the cost of the two calls.  Contended, each holder yields inside, so that all
others queue: it is the cost of handing the lock on.
"""

from programs import work

from workloads import Workload

WORKLOADS = (
    Workload(
        "lock", "lock, taken and released alone", per="pair", counts=(200_000,), options={"kind": "Lock"}
    ),
    Workload(
        "semaphore",
        "semaphore, taken and released alone",
        per="pair",
        counts=(200_000,),
        options={"kind": "Semaphore"},
    ),
    Workload(
        "lock100",
        "lock wanted by 100 tasks",
        per="turn",
        counts=(100_000,),
        options={"kind": "Lock", "tasks": 100},
    ),
)


def alone(count, lock):
    acquire, release = lock.acquire, lock.release
    for _ in range(count):
        acquire()
        release()


def on_evergreen(count, meter, kind, tasks=0):
    from evergreen import locks, sleep, spawn

    def turn():
        for _ in range(count // tasks):
            with lock:
                sleep(0)

    lock = getattr(locks, kind)()
    if not tasks:
        with meter:
            alone(count, lock)
        return
    with meter:
        turning = [spawn(turn) for _ in range(tasks)]
        for task in turning:
            task.join()


def on_gevent(count, meter, kind, tasks=0):
    from gevent import lock as locks
    from gevent import sleep, spawn

    def turn():
        for _ in range(count // tasks):
            with lock:
                sleep(0)

    lock = locks.Semaphore()  # what gevent's own lock is
    if not tasks:
        with meter:
            alone(count, lock)
        return
    with meter:
        turning = [spawn(turn) for _ in range(tasks)]
        for task in turning:
            task.join()


async def on_asyncio(count, meter, kind, tasks=0):
    import asyncio

    async def turn():
        for _ in range(count // tasks):
            async with lock:
                await asyncio.sleep(0)

    lock = getattr(asyncio, kind)()
    if not tasks:
        with meter:
            for _ in range(count):
                await lock.acquire()
                lock.release()
        return
    with meter:
        turning = [asyncio.create_task(turn()) for _ in range(tasks)]
        for task in turning:
            await task


def on_threads(count, meter, kind, tasks=0):
    import threading
    from os import sched_yield

    def turn():
        for _ in range(count // tasks):
            with lock:
                sched_yield()

    lock = getattr(threading, kind)()
    if not tasks:
        with meter:
            alone(count, lock)
        return
    with meter:
        turning = [threading.Thread(target=turn) for _ in range(tasks)]
        for thread in turning:
            thread.start()
        for thread in turning:
            thread.join()


def on_go(count, meter, kind, tasks=0):
    # Go has no semaphore: a channel with room for one stands for it
    work(meter, "lock100" if tasks else "lock" if kind == "Lock" else "queue", count, tasks)
