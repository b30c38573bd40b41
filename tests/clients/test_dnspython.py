"""dnspython against a small name server, over UDP and TCP."""

import socketserver
import struct
import time

import pytest
import servers
from beside import beside_a_ticker

library = pytest.importorskip("dns.version", reason="dnspython is not installed")


def answer(query, truncated=False):
    """The reply of RFC 1035 to one question: 10.0.0.N for host-N.example, in 40 records for many-N."""
    end = query.index(b"\0", 12) + 5
    question = query[12:end]
    name = question[1 : 1 + question[0]].decode()
    what, number = name.split("-")
    if what == "slow":
        time.sleep(0.3)
    count = 0 if truncated else 40 if what == "many" else 1
    flags = 0x8180 | (0x0200 if truncated else 0)
    head = query[:2] + struct.pack(">HHHHH", flags, 1, count, 0, 0)
    records = [struct.pack(">HHHIH4B", 0xC00C, 1, 1, 60, 4, 10, 0, i, int(number)) for i in range(count)]
    return head + question + b"".join(records)


class Udp(socketserver.BaseRequestHandler):
    def handle(self):
        query, sock = self.request
        if b"lost-" not in query:
            sock.sendto(answer(query, truncated=b"many-" in query), self.client_address)


class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        while head := self.rfile.read(2):
            reply = answer(self.rfile.read(struct.unpack(">H", head)[0]))
            self.wfile.write(struct.pack(">H", len(reply)) + reply)


class UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = True


class TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


@pytest.fixture(scope="module")
def port():
    for _ in range(20):
        udp = UdpServer(("127.0.0.1", 0), Udp)
        try:
            tcp = TcpServer(udp.server_address, Tcp)
        except OSError:  # somebody has this port for TCP
            udp.server_close()
            continue
        break
    with servers.threaded(udp) as port, servers.threaded(tcp):
        yield port


HEAD = """
import dns.exception, dns.resolver
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers, resolver.port, resolver.lifetime = ["127.0.0.1"], int(ARGS[0]), 20

def addresses(name, **kwargs):
    return [record.address for record in resolver.resolve(name, "A", search=False, **kwargs)]
"""

QUERIES = (
    HEAD
    + """
def work(n):
    assert addresses(f"slow-{n}.example") == [f"10.0.0.{n}"]
    for i in range(10):
        assert addresses(f"host-{n + i}.example") == [f"10.0.0.{n + i}"]
    assert addresses(f"host-{n}.example", tcp=True) == [f"10.0.0.{n}"]
    # The answer does not fit into a datagram, so this one asks twice.
    assert addresses(f"many-{n}.example") == [f"10.0.{i}.{n}" for i in range(40)]
"""
)


def test_queries_over_udp_and_tcp(port, patch):
    beside_a_ticker("dnspython", QUERIES, port, slow=0.3, patch=patch, version=library.version)


LOST = (
    HEAD
    + """
def work(n):
    try:
        addresses(f"lost-{n}.example", lifetime=0.3)
    except dns.exception.Timeout:
        return True

def check(results):
    assert all(results)
"""
)


def test_an_answer_that_never_comes_times_out(port):
    beside_a_ticker("dnspython, lost", LOST, port, slow=0.3, version=library.version)
