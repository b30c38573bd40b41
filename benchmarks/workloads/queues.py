"""Queues: put and get by one task alone, and between two tasks with room for one item.

Alone nobody waits; with room for one, each item is a wait of the producer and one of the consumer.
"""

from programs import work

from workloads import Workload

WORKLOADS = (
    Workload("queue", "queue, put and get alone", per="item", counts=(200_000,), options={"maxsize": 0}),
    Workload("queue1", "queue with room for one item", per="item", counts=(50_000,), options={"maxsize": 1}),
)


def alone(count, put, get):
    for number in range(count):
        put(number)
        get()


def on_evergreen(count, meter, maxsize):
    from evergreen import queue, spawn

    def produce():
        for number in range(count):
            items.put(number)

    items = queue.Queue(maxsize)
    with meter:
        if not maxsize:
            alone(count, items.put, items.get)
            return
        task = spawn(produce)
        for _ in range(count):
            items.get()
        task.join()


def on_gevent(count, meter, maxsize):
    from gevent import queue, spawn

    def produce():
        for number in range(count):
            items.put(number)

    items = queue.Queue(maxsize or None)
    with meter:
        if not maxsize:
            alone(count, items.put, items.get)
            return
        task = spawn(produce)
        for _ in range(count):
            items.get()
        task.join()


async def on_asyncio(count, meter, maxsize):
    from asyncio import Queue, create_task

    async def produce():
        for number in range(count):
            await items.put(number)

    items = Queue(maxsize)
    with meter:
        if not maxsize:
            for number in range(count):
                await items.put(number)
                await items.get()
            return
        task = create_task(produce())
        for _ in range(count):
            await items.get()
        await task


def on_threads(count, meter, maxsize):
    from queue import Queue
    from threading import Thread

    def produce():
        for number in range(count):
            items.put(number)

    items = Queue(maxsize)
    with meter:
        if not maxsize:
            alone(count, items.put, items.get)
            return
        thread = Thread(target=produce)
        thread.start()
        for _ in range(count):
            items.get()
        thread.join()


def on_go(count, meter, maxsize):
    work(meter, "queue1" if maxsize else "queue", count, maxsize)
