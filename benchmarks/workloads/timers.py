"""A timer that is started and cancelled at once, 200,000 times: what a timeout costs that is not needed."""

from programs import work

from workloads import Workload

WORKLOADS = (Workload("timers_cancel", "timer started and cancelled", per="timer", counts=(200_000,)),)


def nothing():
    pass


def on_evergreen(count, meter):
    from evergreen import EventLoop

    call_later = EventLoop.current().call_later
    with meter:
        for number in range(count):
            call_later(1 + number % 100, nothing).cancel()


def on_gevent(count, meter):
    from gevent import get_hub

    timer = get_hub().loop.timer
    with meter:
        for number in range(count):
            started = timer(1 + number % 100)
            started.start(nothing)
            started.close()


def on_eventlet(count, meter):
    from eventlet import sleep
    from eventlet.hubs import get_hub

    call_later = get_hub().schedule_call_global
    with meter:
        for number in range(count):
            call_later(1 + number % 100, nothing).cancel()
        sleep(0)  # it takes them out later


async def on_asyncio(count, meter):
    from asyncio import get_running_loop, sleep

    call_later = get_running_loop().call_later
    with meter:
        for number in range(count):
            call_later(1 + number % 100, nothing).cancel()
        await sleep(0)  # it takes them out later


def on_go(count, meter):
    work(meter, "timers_cancel", count)
