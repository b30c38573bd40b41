"""An echo server on plain blocking sockets, as libraries use them.

Evergreen's are the standard library's `socket.socket` with everything patched; gevent's and eventlet's are
what their patches put in its place; asyncio's and uvloop's the loop's ``sock_recv()`` and ``sock_sendall()``.
"""

import socket

from meters import Served
from serving import BACKLOG, PAUSE, Run

from workloads import Workload

WORKLOADS = (
    Workload(
        "sockets1k",
        "echo server on blocking sockets, 50 connections, 1 KiB",
        per="message",
        counts=(20_000,),
        meter=Served,
        options={"kind": "tcp", "size": 1024, "connections": 50},
    ),
)


def handle(sock, run):
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        run.begun += 1
        while data := sock.recv(65536):
            sock.sendall(data)
    run.ended()


def listen(sock):
    sock.bind(("127.0.0.1", 0))
    sock.listen(BACKLOG)
    return sock.getsockname()[1]


def on_evergreen(count, meter, **options):
    from evergreen import event, patcher, sleep, spawn

    patcher.patch()
    done = event.Event()
    run = Run(count, meter, ended=done.set, **options)
    with socket.socket() as listening, run.connecting(listen(listening)):
        for _ in range(run.connections):
            spawn(handle, listening.accept()[0], run)
        while not run.ready():
            sleep(PAUSE)
    with run.messages():
        done.wait()
    run.finish()


def on_gevent(count, meter, **options):
    from gevent import sleep, spawn
    from gevent.event import Event
    from gevent.socket import socket as gevent_socket

    done = Event()
    run = Run(count, meter, ended=done.set, **options)
    with gevent_socket() as listening, run.connecting(listen(listening)):
        for _ in range(run.connections):
            spawn(handle, listening.accept()[0], run)
        while not run.ready():
            sleep(PAUSE)
    with run.messages():
        done.wait()
    run.finish()


def on_eventlet(count, meter, **options):
    from eventlet import Event, sleep, spawn
    from eventlet.green.socket import socket as eventlet_socket

    done = Event()
    run = Run(count, meter, ended=done.send, **options)
    with eventlet_socket() as listening, run.connecting(listen(listening)):
        for _ in range(run.connections):
            spawn(handle, listening.accept()[0], run)
        while not run.ready():
            sleep(PAUSE)
    with run.messages():
        done.wait()
    run.finish()


async def on_asyncio(count, meter, **options):
    import asyncio

    async def serve(sock):
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            run.begun += 1
            while data := await loop.sock_recv(sock, 65536):
                await loop.sock_sendall(sock, data)
        run.ended()

    loop, done = asyncio.get_running_loop(), asyncio.Event()
    run = Run(count, meter, ended=done.set, **options)
    with socket.socket() as listening:
        listening.setblocking(False)
        with run.connecting(listen(listening)):
            tasks = [
                asyncio.create_task(serve((await loop.sock_accept(listening))[0]))
                for _ in range(run.connections)
            ]
            while not run.ready():
                await asyncio.sleep(PAUSE)
    with run.messages():
        await done.wait()
    run.finish()
    await asyncio.gather(*tasks)


def on_threads(count, meter, **options):
    import threading

    done = threading.Event()
    run = Run(count, meter, ended=done.set, **options)
    with socket.socket() as listening, run.connecting(listen(listening)):
        for _ in range(run.connections):
            threading.Thread(target=handle, args=(listening.accept()[0], run)).start()
        while not run.ready():
            done.wait(PAUSE)
    with run.messages():
        done.wait()
    run.finish()
