"""A socket that becomes ready beside two tasks that never stop yielding: how late is it seen?

Every 10 ms one of the busy tasks writes the time into a socket pair; a task that blocks in recv() on the
other end compares it with its own.  No second process, so no other process's scheduling is measured.
"""

import socket
import struct
from time import perf_counter

from meters import Lateness

from workloads import Workload

WORKLOADS = (
    Workload(
        "latency_socket",
        "delay of a ready socket beside 2 busy tasks",
        per="message",
        counts=(100,),
        meter=Lateness,
        warm_up=5,
    ),
)

EVERY = 0.010
TIME = struct.Struct("d")


class Metronome:
    """Writes the time into a socket every 10 ms; asked on each turn of a busy task."""

    def __init__(self, sock):
        self.sock = sock
        self.due = perf_counter() + EVERY

    def tick(self):
        now = perf_counter()
        if now >= self.due:
            self.due = now + EVERY
            self.sock.send(TIME.pack(perf_counter()))


def delay(message):
    """Return how many seconds ago a `Metronome` wrote *message*."""
    return perf_counter() - TIME.unpack(message)[0]


def on_evergreen(count, meter):
    from evergreen import patcher, sleep, spawn

    def turn():
        while busy:
            metronome.tick()
            sleep(0)

    patcher.patch(socket=True)
    ours, theirs = socket.socketpair()
    metronome, busy = Metronome(theirs), True
    pair = [spawn(turn), spawn(turn)]
    for _ in range(count):
        meter.add(delay(ours.recv(TIME.size)))
    busy = False
    for task in pair:
        task.join()
    ours.close()
    theirs.close()


def on_gevent(count, meter):
    import gevent.socket
    from gevent import sleep, spawn

    def turn():
        while busy:
            metronome.tick()
            sleep(0)

    ours, theirs = gevent.socket.socketpair()
    metronome, busy = Metronome(theirs), True
    pair = [spawn(turn), spawn(turn)]
    for _ in range(count):
        meter.add(delay(ours.recv(TIME.size)))
    busy = False
    for task in pair:
        task.join()
    ours.close()
    theirs.close()


def on_eventlet(count, meter):
    from eventlet import sleep, spawn
    from eventlet.greenio import GreenSocket

    def turn():
        while busy:
            metronome.tick()
            sleep(0)

    ours, theirs = map(GreenSocket, socket.socketpair())
    metronome, busy = Metronome(theirs), True
    pair = [spawn(turn), spawn(turn)]
    for _ in range(count):
        meter.add(delay(ours.recv(TIME.size)))
    busy = False
    for task in pair:
        task.wait()
    ours.close()
    theirs.close()


async def on_asyncio(count, meter):
    from asyncio import create_task, get_running_loop, sleep

    async def turn():
        while busy:
            metronome.tick()
            await sleep(0)

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop, metronome, busy = get_running_loop(), Metronome(theirs), True
    pair = [create_task(turn()), create_task(turn())]
    for _ in range(count):
        meter.add(delay(await loop.sock_recv(ours, TIME.size)))
    busy = False
    for task in pair:
        await task
    ours.close()
    theirs.close()
