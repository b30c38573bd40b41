"""A UDP echo server: 50 sockets, each of which sends a datagram when the one before has come back.

The clients are one other process, in C.  One task receives and answers, as a datagram needs no task of its
own; asyncio and uvloop have datagram protocols.  A datagram of one byte is the last.
"""

from meters import Served
from programs import serve
from serving import PAUSE, Run

from workloads import Workload

WORKLOADS = (
    Workload(
        "udp1k",
        "UDP echo, 50 sockets, 1 KiB",
        per="datagram",
        counts=(20_000,),
        meter=Served,
        options={"kind": "udp", "size": 1024, "connections": 50},
    ),
)


def on_evergreen(count, meter, **options):
    from evergreen import event, sleep, spawn
    from evergreen.io import UDPEndpoint

    def echo():
        receive, send = endpoint.receive, endpoint.send
        while True:
            data, sender = receive()
            send(data, sender)
            if len(data) == 1:
                done.set()
                return

    done = event.Event()
    run = Run(count, meter, ended=done.set, **options)
    with UDPEndpoint() as endpoint:
        endpoint.bind(("127.0.0.1", 0))
        task = spawn(echo)
        with run.connecting(endpoint.sockname[1]):
            while not run.ready():
                sleep(PAUSE)
        with run.messages():
            done.wait()
        run.finish()
        task.join()


def echo_on(sock, done):
    """The same on a socket object that cooperates, or blocks a thread."""
    receive, send = sock.recvfrom, sock.sendto
    while True:
        data, sender = receive(65536)
        send(data, sender)
        if len(data) == 1:
            done()
            return


def on_gevent(count, meter, **options):
    from gevent import sleep, socket, spawn
    from gevent.event import Event

    done = Event()
    run = Run(count, meter, ended=done.set, **options)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        task = spawn(echo_on, sock, done.set)
        with run.connecting(sock.getsockname()[1]):
            while not run.ready():
                sleep(PAUSE)
        with run.messages():
            done.wait()
        run.finish()
        task.join()


def on_eventlet(count, meter, **options):
    import eventlet
    from eventlet.green import socket

    done = eventlet.Event()
    run = Run(count, meter, ended=done.send, **options)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        task = eventlet.spawn(echo_on, sock, done.send)
        with run.connecting(sock.getsockname()[1]):
            while not run.ready():
                eventlet.sleep(PAUSE)
        with run.messages():
            done.wait()
        run.finish()
        task.wait()


def on_threads(count, meter, **options):
    import socket
    import threading

    done = threading.Event()
    run = Run(count, meter, ended=done.set, **options)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=echo_on, args=(sock, done.set))
        thread.start()
        with run.connecting(sock.getsockname()[1]):
            while not run.ready():
                done.wait(PAUSE)
        with run.messages():
            done.wait()
        run.finish()
        thread.join()


async def on_asyncio(count, meter, **options):
    import asyncio

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, sender):
            self.transport.sendto(data, sender)
            if len(data) == 1:
                done.set()

    loop, done = asyncio.get_running_loop(), asyncio.Event()
    run = Run(count, meter, ended=done.set, **options)
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    with run.connecting(transport.get_extra_info("sockname")[1]):
        while not run.ready():
            await asyncio.sleep(PAUSE)
    with run.messages():
        await done.wait()
    run.finish()
    transport.close()


def on_go(count, meter, kind, size, connections):
    serve("go", meter, kind, size, count, connections)


def on_libuv(count, meter, kind, size, connections):
    serve("libuv", meter, kind, size, count, connections)
