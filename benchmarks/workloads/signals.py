"""A signal that the process sends itself, 5,000 times: from kill() until a task that waits for it runs.

eventlet has no way of its own to handle signals.
"""

import os
import signal

from workloads import Workload

WORKLOADS = (
    Workload("signals", "signal, from kill() to a waiting task", per="signal", counts=(5_000,), warm_up=100),
)


def on_evergreen(count, meter):
    from evergreen import EventLoop, event

    loop, came, pid = EventLoop.current(), event.Event(), os.getpid()
    handler = loop.add_signal_handler(signal.SIGUSR1, came.set)
    with meter:
        for _ in range(count):
            os.kill(pid, signal.SIGUSR1)
            came.wait()
            came.clear()
    handler.cancel()


def on_gevent(count, meter):
    from gevent import signal_handler, sleep, spawn
    from gevent.event import Event

    came, pid = Event(), os.getpid()
    handler = signal_handler(signal.SIGUSR1, came.set)
    awake = spawn(sleep, 3600)  # a handler alone does not keep its hub from giving up
    with meter:
        for _ in range(count):
            os.kill(pid, signal.SIGUSR1)
            came.wait()
            came.clear()
    handler.cancel()
    awake.kill()


async def on_asyncio(count, meter):
    from asyncio import Event, get_running_loop

    loop, came, pid = get_running_loop(), Event(), os.getpid()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    with meter:
        for _ in range(count):
            os.kill(pid, signal.SIGUSR1)
            await came.wait()
            came.clear()
    loop.remove_signal_handler(signal.SIGUSR1)
