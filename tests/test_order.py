"""What hands something over acts first and yields afterwards; what takes something yields first."""

import contextlib
import os
import socket
import ssl

import pytest
from helpers import CERTIFICATE, in_thread, pass_time, settle

import evergreen
from evergreen import Channel, patcher, spawn
from evergreen.event import Event
from evergreen.io import fs, tls
from evergreen.io.pipe import PipeStream
from evergreen.io.tcp import TCPServer
from evergreen.io.udp import UDPEndpoint
from evergreen.locks import Lock
from evergreen.queue import Queue
from evergreen.timeout import move_on_after

NAMES = b"abcdefghij"


@pytest.fixture
def patched(hub):
    with patcher.patched(socket=True, ssl=True, os=True, select=True):
        yield hub


@contextlib.contextmanager
def sockets():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, lambda: theirs.recv(100)


@contextlib.contextmanager
def pipes():
    r, w = os.pipe()
    yield w, lambda: os.read(r, 100)
    os.close(r)
    os.close(w)


@contextlib.contextmanager
def streams():
    ours, theirs = PipeStream.pair()
    with ours, theirs:
        yield ours, lambda: theirs.read(100)


@contextlib.contextmanager
def tls_streams():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    ours, theirs = PipeStream.pair()
    server = spawn(tls.wrap, theirs, context, server_side=True)
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    with tls.wrap(ours, trusting, server_hostname="localhost") as client:
        with server.result() as server:
            yield client, lambda: server.read(100)


@contextlib.contextmanager
def tls_sockets():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    ours, theirs = socket.socketpair()
    server = spawn(context.wrap_socket, theirs, server_side=True)
    client = ssl.create_default_context(cafile=CERTIFICATE).wrap_socket(ours, server_hostname="localhost")
    with client, server.result() as server:
        yield client, lambda: server.recv(100)


@contextlib.contextmanager
def datagrams():
    ours, theirs = UDPEndpoint(), UDPEndpoint()
    with ours, theirs:
        theirs.bind(("127.0.0.1", 0))
        ours.connect(theirs.sockname)
        yield ours, lambda: theirs.receive()[0]


def in_a_file(fd, name, path):
    with open(path, "rb") as file:
        os.sendfile(fd, file.fileno(), NAMES.index(name), 1)


WAYS = {
    "write": (streams, lambda stream, name: stream.write(name)),
    "write of a bytearray": (streams, lambda stream, name: stream.write(bytearray(name))),
    "writelines": (streams, lambda stream, name: stream.writelines([name])),
    "TLS write": (tls_streams, lambda stream, name: stream.write(name)),
    "TLS write of a bytearray": (tls_streams, lambda stream, name: stream.write(bytearray(name))),
    "UDP send": (datagrams, lambda endpoint, name: endpoint.send(name)),
    "fs.write": (pipes, lambda fd, name: fs.write(fd, name)),
    "send": (sockets, lambda sock, name: sock.send(name)),
    "sendall": (sockets, lambda sock, name: sock.sendall(name)),
    "sendmsg": (sockets, lambda sock, name: sock.sendmsg([name])),
    "ssl send": (tls_sockets, lambda sock, name: sock.send(name)),
    "os.write": (pipes, lambda fd, name: os.write(fd, name)),
    "os.writev": (pipes, lambda fd, name: os.writev(fd, [name])),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_tasks_write_arrives_in_the_order_in_which_they_did(patched, way):
    make, write = WAYS[way]
    with make() as (end, read):
        order = bytearray()

        def work(name):
            if name in b"acegi":
                pass_time(0.001)  # its turn is over, the next one's is not
            order.extend(name)
            write(end, name)

        tasks = [spawn(work, NAMES[i : i + 1]) for i in range(len(NAMES))]
        for task in tasks:
            task.result()
        got = b""
        while len(got) < len(NAMES):
            got += read()
        assert got == order


def test_sendto_of_several_tasks_arrives_in_order(patched):
    a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with a, b:
        b.bind(("127.0.0.1", 0))
        order = []

        def work(name):
            if int(name) % 2 == 0:
                pass_time(0.001)
            order.append(name)
            a.sendto(name, b.getsockname())

        for task in [spawn(work, b"%d" % i) for i in range(10)]:
            task.result()
        assert [b.recv(10) for _ in range(10)] == order


def test_sendfile_of_several_tasks_arrives_in_order(patched, tmp_path):
    path = tmp_path / "names"
    path.write_bytes(NAMES)
    with sockets() as (sock, read):
        order = bytearray()

        def work(name):
            if name in b"acegi":
                pass_time(0.001)
            order.extend(name)
            in_a_file(sock.fileno(), name, path)

        for task in [spawn(work, NAMES[i : i + 1]) for i in range(len(NAMES))]:
            task.result()
        assert read() == order


def test_sends_keep_their_order_however_many_they_are(patched):
    with sockets() as (sock, read):
        order = bytearray()

        def work(name):
            for _ in range(70):  # more than a task may do before it yields
                order.extend(name)
                sock.send(name)

        for task in [spawn(work, NAMES[i : i + 1]) for i in range(3)]:
            task.result()
        got = b""
        while len(got) < 210:
            got += read()
        assert got == order


def test_a_write_that_need_not_wait_has_a_result_though_its_task_is_killed_while_others_run(hub):
    with streams() as (stream, read):
        wrote = []

        def work():
            pass_time(0.001)
            wrote.append(stream.write(b"x"))
            wrote.append(stream.write(b"y"))  # begins with the kill

        task = spawn(work)
        spawn(task.kill)
        task.join()
        assert wrote == [True]
        stream.write(b"z")
        assert read() == b"xz"


def test_a_task_that_only_writes_can_be_killed(patched):
    for make, write in ((streams, lambda end: end.write(b"x")), (sockets, lambda end: end.send(b"x"))):
        with make() as (end, read):

            def work(write=write, end=end):
                while True:
                    write(end)

            task = spawn(work)
            reader = spawn(lambda read=read: [read() for _ in iter(int, 1)])
            evergreen.sleep(0.01)
            task.kill()
            assert task.join(10)
            reader.kill()
            reader.join()


def test_a_task_that_only_writes_meets_its_deadline(hub):
    with streams() as (stream, read):
        reader = spawn(lambda: [read() for _ in iter(int, 1)])
        with move_on_after(0.02) as scope:
            while True:
                stream.write(b"x")
        assert scope
        reader.kill()
        reader.join()


def test_a_bytearray_may_be_changed_while_others_run_in_a_write(hub):
    with streams() as (stream, read):
        data = bytearray(b"x")
        spawn(lambda: data.extend(b"more"))  # a BufferError, were it still exported
        pass_time(0.001)
        stream.write(data)
        settle()
        assert (data, read()) == (b"xmore", b"x")


def test_what_takes_yields_first_so_a_kill_loses_nothing(patched):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"kept")

        def work():
            pass_time(0.001)
            ours.recv(10)

        task = spawn(work)
        spawn(task.kill)
        task.join()
        assert ours.recv(10) == b"kept"


def test_hand_overs_among_tasks_that_need_not_wait_do_not_switch(hub):
    queue, channel, event, lock = Queue(), Channel(), Event(), Lock()
    receiver = spawn(channel.receive)
    settle()
    lock.acquire()
    ran = []
    spawn(ran.append, 1)
    pass_time(0.001)
    queue.put(1)
    queue.put_nowait(2)
    channel.send(3)
    event.set()
    lock.release()
    assert not ran
    settle()
    assert (ran, receiver.result()) == ([1], 3)


def test_the_chat_of_a_busy_server_is_in_order(hub):
    with contextlib.ExitStack() as stack:
        arrivals, others = [], []

        def handler(connection):
            if len(arrivals) % 2:
                pass_time(0.001)
            arrivals.append(connection)
            for other in others:
                other.write(b"%d\n" % len(arrivals))
            others.append(connection)
            connection.read()

        server = TCPServer(handler)
        server.bind(("127.0.0.1", 0))
        task = spawn(server.serve)
        clients = [stack.enter_context(socket.create_connection(server.sockname)) for _ in range(5)]
        while len(others) < 5:
            evergreen.sleep(0.001)
        first = arrivals[0].peername
        client = next(client for client in clients if client.getsockname() == first)
        assert in_thread(lambda: client.recv(100)) == b"2\n3\n4\n5\n"
        server.close()
        task.join()
