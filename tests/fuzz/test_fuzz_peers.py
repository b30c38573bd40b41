"""Peers that send anything, and end in any way: nobody else is served worse, and nothing is left.

A peer is a native thread with a plain socket. It speaks TLS, if it does, through memory buffers, so that what
it says can be changed on its way: bytes flipped, cut off, said twice, left out.
"""

import contextlib
import hashlib
import os
import random
import re
import socket
import ssl
import struct
import time

import pytest
from helpers import CERTIFICATE, native, settle

import evergreen
from evergreen import spawn
from evergreen.io import tls
from evergreen.io.pipe import PipeClient, PipeServer
from evergreen.io.tcp import TCPClient, TCPServer
from evergreen.io.tls import TLSServer
from evergreen.io.udp import UDPEndpoint
from evergreen.timeout import fail_after, move_on_after

WITHIN = 60  # seconds: for a round that takes some milliseconds
KINDS = "tcp", "unix", "tls"


def server_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context():
    return ssl.create_default_context(cafile=CERTIFICATE)


# ---- the peer: in a native thread ---------------------------------------------------------------


class Peer:
    """One that breaks the rules, some of the time."""

    def __init__(self, rng, sock, context=None, **options):
        self.rng, self.sock = rng, sock
        sock.settimeout(0.02)
        self.tls = None
        if context:
            self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = context.wrap_bio(self.incoming, self.outgoing, **options)
        self.faulty = rng.random() < 0.5

    def changed(self, data):
        rng = self.rng
        if not data or not self.faulty or rng.random() < 0.7:
            return data
        place = rng.randrange(len(data))
        return rng.choice(
            [
                data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :],
                data[:place],
                data + data,
                b"",
                rng.randbytes(len(data)),
            ]
        )

    def send(self, data):
        data = self.changed(data)
        size = self.rng.choice([1, 7, 1000, 1 << 20]) if len(data) < 5000 else 1 << 20
        for start in range(0, len(data), size):
            self.sock.sendall(data[start : start + size])

    def step(self, call, *args):
        """Take a step of TLS, a few times."""
        for _ in range(6):
            try:
                return call(*args)
            except ssl.SSLWantReadError:
                self.send(self.outgoing.read())
                data = self.sock.recv(65536)
                self.incoming.write(data) if data else self.incoming.write_eof()
        return None

    def say(self, data):
        if self.tls:
            self.step(self.tls.write, data)
            data = self.outgoing.read()
        self.send(data)

    def hear(self):
        if self.tls:
            self.step(self.tls.read, 65536)
        else:
            self.sock.recv(self.rng.choice([1, 100, 65536]))

    def act(self):
        rng = self.rng
        what = rng.randrange(12)
        if what < 4:
            self.say(
                rng.choice([b"line\n", b"x" * 100, rng.randbytes(rng.randrange(1, 70_000)), b"\n\r\n" * 50])
            )
        elif what < 7:
            self.hear()
        elif what == 7:
            self.sock.sendall(rng.randbytes(rng.randrange(1, 300)))
        elif what == 8:
            self.sock.shutdown(rng.choice([socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR]))
        elif what == 9 and self.tls:
            self.step(self.tls.unwrap)
            self.send(self.outgoing.read())
        elif what == 10:
            time.sleep(rng.choice([0, 0.001, 0.005]))

    def end(self):
        if self.rng.random() < 0.4:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def run(self):
        """Do this and that, and go."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: from ssl, of what it was not given
            if self.tls and self.rng.random() < 0.8:
                self.step(self.tls.do_handshake)
                self.send(self.outgoing.read())
            for _ in range(self.rng.randrange(8)):
                self.act()
        self.end()


# ---- our side ---------------------------------------------------------------------------------------


def use(stream, rng):
    """Read and write as nobody would."""
    size = rng.choice([1, 10, 1000, 20_000, 100_000])
    calls = [
        lambda: stream.read(size),
        lambda: stream.read(),
        lambda: stream.readline(limit=size),
        lambda: stream.read_exactly(size),
        lambda: stream.read_bytes(size),
        lambda: stream.read_until(b"\r\n", limit=size),
        lambda: stream.read_until_regex(re.compile(b"\n+"), limit=size),
        lambda: stream.readinto(bytearray(size)),
        lambda: stream.unread(b"again"),
        lambda: stream.write(bytes(size)),
        lambda: stream.write(bytearray(size)),
        lambda: stream.writelines([b"x" * size, b"", bytearray(7)]),
        lambda: stream.flush(),
        lambda: stream.shutdown(),
        lambda: stream.peername,
        lambda: stream.unwrap() if hasattr(stream, "unwrap") else stream.abort(),
    ]
    weights = [6, 2, 4, 4, 3, 4, 4, 4, 1, 5, 2, 2, 2, 1, 1, 1]
    for _ in range(rng.randrange(1, 12)):
        with move_on_after(rng.choice([0, 0.001, 0.02])):
            try:
                rng.choices(calls, weights)[0]()
            except (OSError, EOFError):
                if rng.random() < 0.3:
                    raise


def guarded(function, failures):
    """The same function, which may raise what streams raise, and notes what else it does."""

    def call(*args):
        try:
            function(*args)
        except (OSError, EOFError):
            pass
        except Exception as exc:
            failures.append(exc)
            raise

    return call


def tagged(tag, n):
    """Bytes that no other connection has."""
    return hashlib.shake_128(b"%d" % tag).digest(n)


def echo_honestly(stream, tag):
    data = tagged(tag, 30_000)
    writer = spawn(stream.write, data)
    assert stream.read_exactly(len(data)) == data
    writer.result()


class Served:
    """A server of a kind, whose connections begin by saying what is wanted: to be echoed, or anything."""

    def __init__(self, kind, rng, path):
        self.kind, self.rng, self.failures = kind, rng, []
        handler = guarded(self.handle, self.failures)
        if kind == "unix":
            self.server, address = PipeServer(handler), path
        elif kind == "tls":
            self.server, address = TLSServer(handler, server_context(), handshake_timeout=2), ("127.0.0.1", 0)
        else:
            self.server, address = TCPServer(handler), ("127.0.0.1", 0)
        self.server.bind(address)
        self.task = spawn(self.server.serve)

    def handle(self, stream):
        if stream.read(1) == b"E":
            while data := stream.read(self.rng.choice([100, 65536])):
                stream.write(data)
        else:
            use(stream, self.rng)

    def connect(self):
        if self.kind == "tls":
            return tls.connect(self.server.sockname, client_context(), server_hostname="localhost")
        client = PipeClient() if self.kind == "unix" else TCPClient()
        client.connect(self.server.sockname)
        return client

    def peer(self, rng):
        if self.kind == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self.server.sockname)
        else:
            sock = socket.create_connection(self.server.sockname)
        if self.kind == "tls" and rng.random() < 0.8:
            return Peer(rng, sock, client_context(), server_hostname="localhost")
        return Peer(rng, sock)

    def close(self):
        self.server.close()
        self.task.join()


def be_honest(served, tag):
    with served.connect() as stream:
        stream.write(b"E")
        echo_honestly(stream, tag)


def test_servers_go_on_whatever_peers_do(hub, rounds, tmp_path):
    for rng in rounds(12):
        with fail_after(WITHIN):
            served = Served(rng.choice(KINDS), rng, str(tmp_path / "socket"))
            peers = [served.peer(random.Random(rng.random())) for _ in range(rng.randrange(1, 6))]
            calls = [native(peer.run) for peer in peers]
            honest = [spawn(be_honest, served, tag) for tag in range(2)]
            for task in honest:
                task.result()
            for call in calls:
                call.get()
            be_honest(served, 9)
            while served.server.connections:
                evergreen.sleep(0.001)
            served.close()
            assert not served.failures
            settle()


# ---- clients -----------------------------------------------------------------------------------------


def serve_badly(listener, rng, n, kind):
    """Accept so many connections; do to each this and that."""
    for _ in range(n):
        sock, _ = listener.accept()
        if kind == "tls" and rng.random() < 0.8:
            Peer(rng, sock, server_context(), server_side=True).run()
        else:
            Peer(rng, sock).run()
    listener.close()


def visit(kind, address, rng):
    if kind == "tls":
        options = {"suppress_ragged_eofs": rng.random() < 0.5, "handshake_timeout": rng.choice([0.01, 2])}
        stream = tls.connect(address, client_context(), server_hostname="localhost", **options)
    else:
        stream = PipeClient() if kind == "unix" else TCPClient()
        stream.connect(address)
    with stream:
        use(stream, rng)


def test_clients_go_on_whatever_servers_do(hub, rounds, tmp_path):
    for rng in rounds(12):
        with fail_after(WITHIN):
            kind, failures, n = rng.choice(KINDS), [], rng.randrange(1, 5)
            listener = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
            path = str(tmp_path / f"{rng.random()}")
            listener.bind(path if kind == "unix" else ("127.0.0.1", 0))
            listener.listen()
            address = listener.getsockname()
            call = native(serve_badly, listener, random.Random(rng.random()), n, kind)
            clients = [spawn(guarded(visit, failures), kind, address, rng) for _ in range(n)]
            for task in clients:
                task.join()
            call.get()
            assert not failures
            while hub.stats()["streams"]:  # those that send what is unsent
                evergreen.sleep(0.001)
            if kind == "unix":
                os.unlink(path)


# ---- datagrams -----------------------------------------------------------------------------------------


def shower(addresses, rng):
    """Send datagrams of any size to each address, with its number among them and a digest."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(rng.randrange(1, 60)):
            place = rng.randrange(len(addresses))
            body = bytes([place]) + rng.randbytes(rng.choice([0, 1, 100, 1400, 60_000]))
            sock.sendto(rng.choice([hashlib.md5(body).digest() + body, b""]), addresses[place])


def take(endpoint, place, rng):
    while True:
        got = endpoint.receive_many() if rng.random() < 0.5 else [endpoint.receive()]
        for data, sender in got:
            assert not data or (data[16] == place and hashlib.md5(data[16:]).digest() == data[:16])
            if rng.random() < 0.3:
                with contextlib.suppress(OSError):
                    endpoint.send(data[:100], sender)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_endpoints_get_their_own_datagrams_whole(hub, rounds):
    for rng in rounds(12):
        with fail_after(WITHIN):
            endpoints = [UDPEndpoint() for _ in range(rng.randrange(1, 4))]
            for endpoint in endpoints:
                endpoint.bind(("127.0.0.1", 0))
            tasks = [spawn(take, endpoint, place, rng) for place, endpoint in enumerate(endpoints)]
            addresses = [endpoint.sockname for endpoint in endpoints]
            calls = [
                native(shower, addresses, random.Random(rng.random())) for _ in range(rng.randrange(1, 4))
            ]
            for call in calls:
                call.get()
            evergreen.sleep(0.002)
            for task, endpoint in zip(tasks, endpoints, strict=True):
                assert task.is_alive() or task.result()
                rng.choice([task.kill, endpoint.close])()
                with contextlib.suppress(OSError, evergreen.TaskExit):
                    task.result()
                endpoint.close()
