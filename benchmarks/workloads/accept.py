"""Connections that are made for one byte: accepted, answered, closed; 50 at a time.

The clients are one other process, in C; they close with a reset, so that no port is left waiting.
"""

from meters import Served
from programs import serve
from serving import BACKLOG, PAUSE, Run

from workloads import Workload

WORKLOADS = (
    Workload(
        "accept",
        "connections that are made for one byte, 50 at a time",
        per="connection",
        counts=(5_000,),
        meter=Served,
        options={"kind": "accept", "size": 1, "connections": 50},
        warm_up=200,
    ),
)


def on_evergreen(count, meter, **options):
    from evergreen import event, sleep, spawn
    from evergreen.io import TCPServer

    def handle(connection):
        connection.write(connection.read(1))
        run.ended()

    done = event.Event()
    run = Run(count, meter, ends=count, ended=done.set, **options)
    server = TCPServer(handle)
    server.bind(("127.0.0.1", 0))
    serving = spawn(server.serve, BACKLOG)
    with run.connecting(server.sockname[1]):
        while not run.ready():
            sleep(PAUSE)
    with run.messages():
        done.wait()
    run.finish()
    server.close()
    serving.join()


def on_gevent(count, meter, **options):
    from gevent import sleep
    from gevent.event import Event
    from gevent.server import StreamServer

    def handle(sock, address):
        sock.sendall(sock.recv(1))
        run.ended()

    done = Event()
    run = Run(count, meter, ends=count, ended=done.set, **options)
    server = StreamServer(("127.0.0.1", 0), handle, backlog=BACKLOG)
    server.start()
    with run.connecting(server.server_port):
        while not run.ready():
            sleep(PAUSE)
    with run.messages():
        done.wait()
    run.finish()
    server.stop()


def on_eventlet(count, meter, **options):
    import eventlet

    def handle(sock):
        sock.sendall(sock.recv(1))
        sock.close()
        run.ended()

    def accept():
        while True:
            eventlet.spawn_n(handle, listening.accept()[0])

    done = eventlet.Event()
    run = Run(count, meter, ends=count, ended=done.send, **options)
    listening = eventlet.listen(("127.0.0.1", 0), backlog=BACKLOG)
    accepting = eventlet.spawn(accept)
    with run.connecting(listening.getsockname()[1]):
        while not run.ready():
            eventlet.sleep(PAUSE)
    with run.messages():
        done.wait()
    run.finish()
    accepting.kill()
    listening.close()


async def on_asyncio(count, meter, **options):
    import asyncio

    async def handle(reader, writer):
        writer.write(await reader.read(1))
        writer.close()
        run.ended()

    done = asyncio.Event()
    run = Run(count, meter, ends=count, ended=done.set, **options)
    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=BACKLOG)
    await _serve(server, run, done)


async def on_protocol(count, meter, **options):
    import asyncio

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)
            self.transport.close()

        def connection_lost(self, exc):
            run.ended()

    done = asyncio.Event()
    run = Run(count, meter, ends=count, ended=done.set, **options)
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=BACKLOG)
    await _serve(server, run, done)


async def _serve(server, run, done):
    import asyncio

    with run.connecting(server.sockets[0].getsockname()[1]):
        while not run.ready():
            await asyncio.sleep(PAUSE)
    with run.messages():
        await done.wait()
    run.finish()
    server.close()


def on_threads(count, meter, **options):
    import socket
    import threading
    import time

    def handle(sock):
        with sock:
            sock.sendall(sock.recv(1))
        run.ended()

    def accept():
        for _ in range(count):
            threading.Thread(target=handle, args=(listening.accept()[0],)).start()

    done = threading.Event()
    run = Run(count, meter, ends=count, ended=done.set, **options)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(BACKLOG)
        accepting = threading.Thread(target=accept)
        accepting.start()
        with run.connecting(listening.getsockname()[1]):
            while not run.ready():
                time.sleep(PAUSE)
        with run.messages():
            done.wait()
        run.finish()
        accepting.join()


def on_go(count, meter, kind, size, connections):
    serve("go", meter, kind, size, count, connections, ends=count)


def on_libuv(count, meter, kind, size, connections):
    serve("libuv", meter, kind, size, count, connections, ends=count)
