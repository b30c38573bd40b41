"""Echo servers: 50 connections, each of which sends a message when the one before has come back.

The clients are one other process, in C on plain epoll, so the CPU time is the server's alone; it is measured
from when all are connected until all have left.  Each framework uses its own streams; gevent, eventlet and
threads have none but their sockets.  libuv is a server in C with nothing on top of it: a floor.
"""

from meters import Served
from programs import serve
from serving import BACKLOG, PAUSE, Run

from workloads import Workload

CONNECTIONS = 50
WORKLOADS = (
    Workload(
        "echo1k",
        "echo server, 50 connections, 1 KiB",
        per="message",
        counts=(20_000,),
        meter=Served,
        options={"kind": "tcp", "size": 1024, "connections": CONNECTIONS},
    ),
    Workload(
        "echo64k",
        "echo server, 50 connections, 64 KiB",
        per="message",
        counts=(10_000,),
        meter=Served,
        options={"kind": "tcp", "size": 65536, "connections": CONNECTIONS},
    ),
    Workload(
        "unix1k",
        "echo server at a Unix socket, 50 connections, 1 KiB",
        per="message",
        counts=(20_000,),
        meter=Served,
        options={"kind": "unix", "size": 1024, "connections": CONNECTIONS},
    ),
)


def on_evergreen(count, meter, **options):
    from evergreen import event, sleep, spawn
    from evergreen.io import PipeServer, TCPServer

    def handle(connection):
        run.begun += 1
        while data := connection.read(65536):
            connection.write(data)
        run.ended()

    done = event.Event()
    run = Run(count, meter, ended=done.set, **options)
    if run.kind == "tls":
        import ssl

        from evergreen.io.tls import TLSServer

        server = TLSServer(handle, run.configure_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)))
    else:
        server = PipeServer(handle) if run.kind == "unix" else TCPServer(handle)
    server.bind(run.path if run.kind == "unix" else ("127.0.0.1", 0))
    serving = spawn(server.serve, BACKLOG)
    with run.connecting(run.path if run.kind == "unix" else server.sockname[1]):
        while not run.ready():
            sleep(PAUSE)
    with run.messages():
        done.wait()
    run.finish()
    while not run.over():
        sleep(PAUSE)
    server.close()
    serving.join()


def on_gevent(count, meter, **options):
    import gevent.socket
    from gevent import sleep
    from gevent.event import Event
    from gevent.server import StreamServer

    def handle(sock, address):
        run.begun += 1
        if run.kind != "unix":
            sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        while data := sock.recv(65536):
            sock.sendall(data)
        run.ended()

    done = Event()
    run = Run(count, meter, ended=done.set, **options)
    listening = gevent.socket.socket(gevent.socket.AF_UNIX if run.kind == "unix" else gevent.socket.AF_INET)
    listening.bind(run.path if run.kind == "unix" else ("127.0.0.1", 0))
    listening.listen(BACKLOG)
    if run.kind == "tls":
        from gevent import ssl

        context = run.configure_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        server = StreamServer(listening, handle, ssl_context=context)
    else:
        server = StreamServer(listening, handle)
    server.start()
    with run.connecting(run.path if run.kind == "unix" else listening.getsockname()[1]):
        while not run.ready():
            sleep(PAUSE)
    with run.messages():
        done.wait()
    run.finish()
    while not run.over():
        sleep(PAUSE)
    server.stop()


def on_eventlet(count, meter, **options):
    import eventlet
    from eventlet.green import socket

    def handle(sock):
        if run.kind == "tls":
            sock = context.wrap_socket(sock, server_side=True)
        run.begun += 1
        if run.kind != "unix":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(65536):
            sock.sendall(data)
        run.ended()

    def accept():
        while True:
            eventlet.spawn_n(handle, listening.accept()[0])

    done = eventlet.Event()
    run = Run(count, meter, ended=done.send, **options)
    if run.kind == "tls":
        from eventlet.green import ssl

        context = run.configure_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    family = socket.AF_UNIX if run.kind == "unix" else socket.AF_INET
    listening = eventlet.listen(run.path if run.kind == "unix" else ("127.0.0.1", 0), family, backlog=BACKLOG)
    accepting = eventlet.spawn(accept)
    with run.connecting(run.path if run.kind == "unix" else listening.getsockname()[1]):
        while not run.ready():
            eventlet.sleep(PAUSE)
    with run.messages():
        done.wait()
    run.finish()
    while not run.over():
        eventlet.sleep(PAUSE)
    accepting.kill()
    listening.close()


async def on_asyncio(count, meter, **options):
    import asyncio

    async def handle(reader, writer):
        run.begun += 1
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        run.ended()

    done = asyncio.Event()
    run = Run(count, meter, ended=done.set, **options)
    if run.kind == "unix":
        server = await asyncio.start_unix_server(handle, run.path, backlog=BACKLOG)
    else:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context_of(run), backlog=BACKLOG)
    await serve_asyncio(server, run, done)


async def on_protocol(count, meter, **options):
    import asyncio

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            run.begun += 1

        def data_received(self, data):
            self.transport.write(data)

        def connection_lost(self, exc):
            run.ended()

    loop, done = asyncio.get_running_loop(), asyncio.Event()
    run = Run(count, meter, ended=done.set, **options)
    if run.kind == "unix":
        server = await loop.create_unix_server(Echo, run.path, backlog=BACKLOG)
    else:
        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=context_of(run), backlog=BACKLOG)
    await serve_asyncio(server, run, done)


def context_of(run):
    import ssl

    return run.configure_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) if run.kind == "tls" else None


async def serve_asyncio(server, run, done):
    import asyncio

    with run.connecting(run.path if run.kind == "unix" else server.sockets[0].getsockname()[1]):
        while not run.ready():
            await asyncio.sleep(PAUSE)
    with run.messages():
        await done.wait()
    run.finish()
    while not run.over():
        await asyncio.sleep(PAUSE)
    server.close()


def on_threads(count, meter, **options):
    import socket
    import threading
    import time

    def handle(sock):
        if context:
            sock = context.wrap_socket(sock, server_side=True)
        with sock:
            if run.kind != "unix":
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            run.begun += 1
            while data := sock.recv(65536):
                sock.sendall(data)
        run.ended()

    done = threading.Event()
    run = Run(count, meter, ended=done.set, **options)
    context = context_of(run)
    with socket.socket(socket.AF_UNIX if run.kind == "unix" else socket.AF_INET) as listening:
        listening.bind(run.path if run.kind == "unix" else ("127.0.0.1", 0))
        listening.listen(BACKLOG)
        with run.connecting(run.path if run.kind == "unix" else listening.getsockname()[1]):
            for _ in range(run.connections):
                threading.Thread(target=handle, args=(listening.accept()[0],)).start()
            while not run.ready():
                time.sleep(PAUSE)
        with run.messages():
            done.wait()
        run.finish()
        while not run.over():
            time.sleep(PAUSE)


def on_go(count, meter, kind, size, connections):
    serve("go", meter, kind, size, count, connections)


def on_libuv(count, meter, kind, size, connections):
    serve("libuv", meter, kind, size, count, connections)
