"""An echo server for 50 connections, each of which sends a message when the one before has come back.

The clients are one other process, in C on plain epoll, so the CPU time is the server's alone.  Each framework
uses its own streams; gevent and eventlet have none but their sockets.
"""

import subprocess
from pathlib import Path

from workloads import Workload

CONNECTIONS = 50
WORKLOADS = (
    Workload(
        "echo1k",
        "echo server, 50 connections, 1 KiB",
        per="message",
        counts=(20_000,),
        options={"size": 1024},
    ),
    Workload(
        "echo64k",
        "echo server, 50 connections, 64 KiB",
        per="message",
        counts=(10_000,),
        options={"size": 65536},
    ),
)

SOURCE = Path(__file__).parent.parent / "load.c"
PROGRAM = SOURCE.parent.parent / "build" / "load"


def clients(port, size, count):
    """Start the clients; they are compiled when their source is newer."""
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        PROGRAM.parent.mkdir(exist_ok=True)
        subprocess.run(["cc", "-O2", "-o", PROGRAM, SOURCE], check=True)
    return subprocess.Popen(list(map(str, (PROGRAM, port, CONNECTIONS, size, count))))


def on_evergreen(count, meter, size):
    from evergreen import event, spawn
    from evergreen.io import TCPServer

    def handle(connection):
        while data := connection.read(65536):
            connection.write(data)
        left.pop()
        if not left:
            done.set()

    done, left = event.Event(), list(range(CONNECTIONS))
    server = TCPServer(handle)
    server.bind(("127.0.0.1", 0))
    serving = spawn(server.serve)
    child = clients(server.sockname[1], size, count)
    with meter:
        done.wait()
    server.close()
    serving.join()
    child.wait()


def on_gevent(count, meter, size):
    import socket

    from gevent.event import Event
    from gevent.server import StreamServer

    def handle(sock, address):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(65536):
            sock.sendall(data)
        left.pop()
        if not left:
            done.set()

    done, left = Event(), list(range(CONNECTIONS))
    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    child = clients(server.server_port, size, count)
    with meter:
        done.wait()
    server.stop()
    child.wait()


def on_eventlet(count, meter, size):
    import socket

    import eventlet

    def handle(sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(65536):
            sock.sendall(data)

    listening = eventlet.listen(("127.0.0.1", 0))
    child = clients(listening.getsockname()[1], size, count)
    with meter:
        handlers = [eventlet.spawn(handle, listening.accept()[0]) for _ in range(CONNECTIONS)]
        for handler in handlers:
            handler.wait()
    listening.close()
    child.wait()


async def on_asyncio(count, meter, size):
    import asyncio

    async def handle(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        left.pop()
        if not left:
            done.set()

    done, left = asyncio.Event(), list(range(CONNECTIONS))
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    child = clients(server.sockets[0].getsockname()[1], size, count)
    with meter:
        await done.wait()
    server.close()
    child.wait()
