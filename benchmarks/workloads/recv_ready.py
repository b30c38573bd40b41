"""Receive 8 bytes that are there already: what a call costs that need not wait.

The sender's side is not measured: 100,000 bytes at a time are put into a socket pair.
"""

import socket

from workloads import Workload

WORKLOADS = (Workload("recv_ready", "recv of a socket that has data", per="call", counts=(100_000,)),)

SIZE, AT_ONCE = 8, 100_000


def receive(count, meter, pair):
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * AT_ONCE)
    recv = ours.recv
    with ours, theirs:
        while count:
            calls = min(count, AT_ONCE // SIZE)
            theirs.sendall(bytes(calls * SIZE))
            with meter:
                for _ in range(calls):
                    recv(SIZE)
            count -= calls


def on_evergreen(count, meter):
    from evergreen import patcher

    patcher.patch()
    receive(count, meter, socket.socketpair())


def on_gevent(count, meter):
    from gevent.socket import socketpair

    receive(count, meter, socketpair())


def on_eventlet(count, meter):
    from eventlet.greenio import GreenSocket

    receive(count, meter, tuple(map(GreenSocket, socket.socketpair())))


async def on_asyncio(count, meter):
    from asyncio import get_running_loop

    loop = get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * AT_ONCE)
    with ours, theirs:
        while count:
            calls = min(count, AT_ONCE // SIZE)
            theirs.sendall(bytes(calls * SIZE))
            with meter:
                for _ in range(calls):
                    await loop.sock_recv(ours, SIZE)
            count -= calls


def on_plain(count, meter):
    receive(count, meter, socket.socketpair())
