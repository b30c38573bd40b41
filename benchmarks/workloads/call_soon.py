"""Ask the event loop for 100,000 callbacks, and wait until it has made them: what a callback costs."""

from workloads import Workload

WORKLOADS = (Workload("call_soon", "call_soon, 100,000 callbacks", per="callback", counts=(100_000,)),)


def callback():
    pass


def on_evergreen(count, meter):
    from evergreen import EventLoop, sleep

    loop, last = EventLoop.current(), []
    with meter:
        for _ in range(count):
            loop.call_soon(callback)
        loop.call_soon(last.append, True)
        while not last:
            sleep(0)


def on_gevent(count, meter):
    from gevent import get_hub, sleep

    loop, last = get_hub().loop, []
    with meter:
        for _ in range(count):
            loop.run_callback(callback)
        loop.run_callback(last.append, True)
        while not last:
            sleep(0)


def on_eventlet(count, meter):
    from eventlet import sleep
    from eventlet.hubs import get_hub

    hub, last = get_hub(), []
    with meter:
        for _ in range(count):
            hub.schedule_call_global(0, callback)
        hub.schedule_call_global(0, last.append, True)
        while not last:
            sleep(0)


async def on_asyncio(count, meter):
    from asyncio import get_running_loop, sleep

    loop, last = get_running_loop(), []
    with meter:
        for _ in range(count):
            loop.call_soon(callback)
        loop.call_soon(last.append, True)
        while not last:
            await sleep(0)
