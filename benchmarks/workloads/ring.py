"""A token that goes round 1,000 tasks, each with a channel to the next: what a hand-over costs.

gevent and asyncio have no rendezvous of their own; a queue with room for one item (gevent's Channel is a
Queue with none) is the nearest.
"""

from programs import work

from workloads import Workload

WORKLOADS = (Workload("ring", "token around a ring of 1,000 tasks", per="hop", counts=(100_000,)),)

SIZE = 1000


def on_evergreen(count, meter):
    from evergreen import Channel, spawn

    def pass_on(source, sink):
        for token in source:
            sink.send(token)

    ring = [Channel() for _ in range(SIZE)]
    tasks = [spawn(pass_on, ring[place], ring[place + 1]) for place in range(SIZE - 1)]
    with meter:
        for token in range(count // SIZE):
            ring[0].send(token)
            ring[-1].receive()
    for channel in ring:
        channel.close()
    for task in tasks:
        task.join()


def on_gevent(count, meter):
    from gevent import killall, spawn
    from gevent.queue import Channel

    def pass_on(source, sink):
        while True:
            sink.put(source.get())

    ring = [Channel() for _ in range(SIZE)]
    tasks = [spawn(pass_on, ring[place], ring[place + 1]) for place in range(SIZE - 1)]
    with meter:
        for token in range(count // SIZE):
            ring[0].put(token)
            ring[-1].get()
    killall(tasks)


async def on_asyncio(count, meter):
    from asyncio import Queue, create_task, wait

    async def pass_on(source, sink):
        while True:
            await sink.put(await source.get())

    ring = [Queue(1) for _ in range(SIZE)]
    tasks = [create_task(pass_on(ring[place], ring[place + 1])) for place in range(SIZE - 1)]
    with meter:
        for token in range(count // SIZE):
            await ring[0].put(token)
            await ring[-1].get()
    for task in tasks:
        task.cancel()
    await wait(tasks)


def on_go(count, meter):
    work(meter, "ring", count, SIZE)
