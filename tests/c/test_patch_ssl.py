"""patch_ssl.c: TLS connections let other tasks run."""

import fcntl
import os
import socket
import ssl
import threading
from pathlib import Path

import pytest
from helpers import in_thread, output_of, parked

import evergreen
from evergreen import patcher, spawn

# A certificate for localhost that nobody trusts but these tests; made by:
# openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj /CN=localhost
#     -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:TRUE
CERTIFICATE = Path(__file__).parent.parent / "data" / "localhost.pem"
BIG = bytes(range(256)) * 8_000


@pytest.fixture
def contexts():
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    client = ssl.create_default_context(cafile=CERTIFICATE)
    return server, client


@pytest.fixture
def patched(hub):
    with patcher.patched(socket=True, ssl=True):
        yield hub


@pytest.fixture(params=["TLS 1.2", "TLS 1.3"])
def pair(request, patched, contexts):
    """Two ends of a TLS connection: server and client."""
    for context in contexts:
        context.minimum_version = context.maximum_version = (
            ssl.TLSVersion.TLSv1_2 if request.param == "TLS 1.2" else ssl.TLSVersion.TLSv1_3
        )
    a, b = socket.socketpair()
    task = spawn(contexts[0].wrap_socket, a, server_side=True)
    with contexts[1].wrap_socket(b, server_hostname="localhost") as client:
        with task.result() as server:
            yield server, client


def is_blocking(sock):
    return not fcntl.fcntl(sock.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK


def receive(sock, size):
    got = bytearray()
    while len(got) < size:
        got += sock.recv(65536)
    return bytes(got)


def test_recv_lets_other_tasks_run_until_data_comes(pair):
    server, client = pair
    task = parked(server.recv, 10)
    client.send(b"hello")
    assert task.result() == b"hello"


def test_recv_into_a_buffer_lets_other_tasks_run(pair):
    server, client = pair
    buffer = bytearray(10)
    task = parked(server.recv_into, buffer)
    client.send(b"hello")
    assert task.result() == 5
    assert buffer == b"hello\0\0\0\0\0"


def test_recv_returns_what_is_pending_without_waiting(pair):
    server, client = pair
    client.send(b"hello")
    assert server.recv(2) == b"he"
    assert server.pending() == 3
    assert server.recv(10) == b"llo"


def test_recv_returns_nothing_at_the_end(pair):
    server, client = pair
    task = parked(server.recv, 10)
    closing = spawn(client.unwrap)
    assert task.result() == b""
    server.unwrap()
    closing.join()


def test_sendall_waits_until_all_is_taken(pair):
    server, client = pair
    task = parked(server.sendall, BIG)
    assert receive(client, len(BIG)) == BIG
    task.join()


def test_both_ends_may_send_and_receive_at_once(pair):
    server, client = pair
    tasks = [spawn(end.sendall, BIG) for end in pair]
    readers = [spawn(receive, end, len(BIG)) for end in pair]
    assert [task.result() for task in readers] == [BIG, BIG]
    for task in tasks:
        task.join()


def test_two_tasks_may_write_to_one_connection(pair):
    server, client = pair
    tasks = [parked(server.sendall, letter * 1_000_000) for letter in (b"a", b"b")]
    got = receive(client, 2_000_000)
    assert (got.count(b"a"), got.count(b"b")) == (1_000_000, 1_000_000)
    for task in tasks:
        task.join()


def test_a_killed_recv_leaves_the_connection_usable(pair):
    server, client = pair
    task = parked(server.recv, 10)
    task.kill()
    task.join()
    client.send(b"hello")
    assert server.recv(10) == b"hello"


def test_the_timeout_of_the_socket_is_honoured(pair):
    server, _ = pair
    server.settimeout(0.01)
    with pytest.raises(TimeoutError, match="The read operation timed out"):
        server.recv(1)
    with pytest.raises(TimeoutError, match="The write operation timed out"):
        while True:
            server.send(bytes(65536))
    assert server.gettimeout() == 0.01


def test_the_timeout_holds_during_the_handshake(patched, contexts):
    a, b = socket.socketpair()
    with a, b:
        b.settimeout(0.01)
        with pytest.raises(TimeoutError, match="The handshake operation timed out"):
            contexts[1].wrap_socket(b, server_hostname="localhost")


def test_a_non_blocking_socket_does_not_wait(pair):
    server, _ = pair
    server.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        server.recv(1)


def test_the_mode_of_the_socket_is_not_touched(pair):
    server, client = pair
    task = parked(server.recv, 1)
    assert server.gettimeout() is None
    assert is_blocking(server)
    client.send(b"x")
    task.join()
    assert is_blocking(server)
    assert is_blocking(client)


def test_closing_wakes_who_waits(pair):
    task = parked(pair[0].recv, 1)
    pair[0].close()
    with pytest.raises(OSError):
        task.result()


def test_a_certificate_that_nobody_signed_is_refused(patched, contexts):
    a, b = socket.socketpair()
    with a, b:
        server = spawn(contexts[0].wrap_socket, a, True)
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(b, server_hostname="localhost")
        with pytest.raises(ssl.SSLError):
            server.result()


def test_memory_bios_are_left_alone(patched, contexts):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    engine = contexts[1].wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        engine.do_handshake()
    assert outgoing.pending


@pytest.mark.parametrize("arguments", [{}, {"cafile": CERTIFICATE}, {"cadata": CERTIFICATE.read_text()}])
def test_loading_the_authorities_of_a_context_lets_others_run(patched, arguments):
    ran = []
    others = spawn(ran.append, True)
    context = ssl.create_default_context(**arguments)
    assert ran == [True]
    others.join()
    assert len(context.get_ca_certs()) == 1 or not arguments


def test_loading_authorities_leaves_loops_a_processor(patched):
    lane = evergreen._threads.compute
    tasks = [spawn(ssl.create_default_context) for _ in range(5)]
    most = []
    while any(task.is_alive() for task in tasks):
        most.append(lane._threads)
        evergreen.sleep(0.001)
    assert 1 <= max(most) <= max(1, len(os.sched_getaffinity(0)) - 1)


def test_authorities_that_are_not_there_are_an_error(patched):
    with pytest.raises(FileNotFoundError):
        ssl.create_default_context(cafile="/no/such/file")
    with pytest.raises(ssl.SSLError):
        ssl.create_default_context(cadata="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(TypeError):
        ssl.create_default_context().load_verify_locations()
    with pytest.raises(TypeError):
        ssl.create_default_context().load_verify_locations(no_such_argument=1)


def test_connections_made_before_the_patch_cooperate(hub, contexts):
    a, b = socket.socketpair()
    ends = []
    thread = threading.Thread(target=lambda: ends.append(contexts[0].wrap_socket(a, server_side=True)))
    thread.start()
    client = contexts[1].wrap_socket(b, server_hostname="localhost")
    thread.join()
    with client, ends[0] as server, patcher.patched(ssl=True):
        task = parked(server.recv, 5)
        client.send(b"hello")
        assert task.result() == b"hello"


def test_native_threads_wait_natively(pair):
    server, client = pair
    client.send(b"hello")
    assert in_thread(server.recv, 5) == b"hello"


SERVER = """
    import http.server, ssl, sys, threading, time

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            time.sleep(0.2)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://localhost:{server.server_port}/"
"""


@pytest.mark.parametrize("library", ["requests", "urllib.request"])
@pytest.mark.parametrize("where", ["first", "last"])
def test_https_requests_of_many_tasks_run_together(library, where):
    pytest.importorskip(library)
    patch = "from evergreen import patcher; patcher.patch()"
    code = f"""
    {patch if where == "first" else ""}
    import ssl, time
    import {library}
    {patch if where == "last" else ""}
    import evergreen
    {SERVER}

    def get(_):
        if "{library}" == "requests":
            return requests.get(url, verify=sys.argv[1]).text
        context = ssl.create_default_context(cafile=sys.argv[1])
        return urllib.request.urlopen(url, context=context).read().decode()

    start = time.monotonic()
    tasks = [evergreen.spawn(get, n) for n in range(10)]
    print([task.result() for task in tasks] == ["ok"] * 10, time.monotonic() - start < 1.9)
    """
    assert output_of(code, CERTIFICATE) == "True True\n"


def test_ready_connections_let_others_have_their_turn(pair):
    server, client = pair
    ran = []
    task = spawn(ran.append, 1)
    for _ in range(100):
        client.send(b"x")
        server.recv(1)
    assert ran
    task.join()
    evergreen.sleep(0)
