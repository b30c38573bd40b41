"""A channel without room: each value is handed from one task to another, 50,000 of them.

asyncio has no such thing; its queue with room for one is in ``queue1``.
"""

from programs import work

from workloads import Workload

WORKLOADS = (Workload("channel", "channel, from one task to another", per="value", counts=(50_000,)),)


def on_evergreen(count, meter):
    from evergreen import Channel, spawn

    def produce():
        for number in range(count):
            channel.send(number)

    channel = Channel()
    with meter:
        task = spawn(produce)
        for _ in range(count):
            channel.receive()
        task.join()


def on_gevent(count, meter):
    from gevent import spawn
    from gevent.queue import Channel

    def produce():
        for number in range(count):
            channel.put(number)

    channel = Channel()
    with meter:
        task = spawn(produce)
        for _ in range(count):
            channel.get()
        task.join()


def on_eventlet(count, meter):
    from eventlet import spawn
    from eventlet.queue import LightQueue

    def produce():
        for number in range(count):
            channel.put(number)

    channel = LightQueue(0)
    with meter:
        task = spawn(produce)
        for _ in range(count):
            channel.get()
        task.wait()


def on_go(count, meter):
    work(meter, "channel", count)
