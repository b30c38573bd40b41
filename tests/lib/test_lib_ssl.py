"""evergreen.lib.ssl: TLS connections that let other tasks run, unpatched."""

import socket as standard_socket
import ssl as standard

import pytest
from helpers import CERTIFICATE

from evergreen import _evergreen_c as core
from evergreen import offload, spawn
from evergreen.lib import socket, ssl

BIG = bytes(range(256)) * 2_000


@pytest.fixture
def contexts():
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    return server, ssl.create_default_context(cafile=str(CERTIFICATE))


@pytest.fixture
def pair(either, contexts):
    """Two ends of a TLS connection: server and client."""
    a, b = socket.socketpair()
    task = spawn(contexts[0].wrap_socket, a, server_side=True)
    with contexts[1].wrap_socket(b, server_hostname="localhost") as client:
        with task.result() as server:
            yield server, client


def receive(sock, size):
    got = bytearray()
    while len(got) < size:
        got += sock.recv(65536)
    return bytes(got)


def test_many_clients_talk_to_one_server_beside_a_ticker(either, contexts, ticks):
    def serve(listener):
        with listener.accept()[0] as connection:
            assert type(connection) is ssl.SSLSocket
            connection.sendall(connection.recv(100).upper())

    def ask(address, text):
        with socket.create_connection(address) as plain:
            with contexts[1].wrap_socket(plain, server_hostname="localhost") as connection:
                connection.sendall(text)
                return connection.recv(100)

    with contexts[0].wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as listener:
        clients = [spawn(ask, listener.getsockname(), text) for text in (b"one", b"two", b"three")]
        servers = [spawn(serve, listener) for _ in clients]
        assert [client.result() for client in clients] == [b"ONE", b"TWO", b"THREE"]
        for server in servers:
            server.join()
    assert ticks[0]


def test_recv_lets_other_tasks_run(pair, parked):
    task = parked(pair[0].recv, 10)
    pair[1].send(b"hello")
    assert task.result() == b"hello"


def test_sendall_waits_until_all_is_taken(pair, parked):
    task = parked(pair[0].sendall, BIG)
    assert receive(pair[1], len(BIG)) == BIG
    task.join()


def test_makefile(pair, parked):
    with pair[0].makefile("rb") as reader:
        task = parked(reader.readline)
        pair[1].send(b"hello\n")
        assert task.result() == b"hello\n"


def test_timeouts_are_the_standard_exception(pair, ticks):
    pair[0].settimeout(0.01)
    with pytest.raises(TimeoutError, match="The read operation timed out"):
        pair[0].recv(1)
    assert ticks[0]
    pair[0].setblocking(False)
    with pytest.raises(standard.SSLWantReadError):
        pair[0].recv(1)


def test_unwrap_gives_back_a_plain_connection(pair, parked):
    task = parked(pair[0].unwrap)
    plain = pair[1].unwrap()
    task.join()
    assert plain is pair[1]
    with pytest.raises(ValueError, match="No SSL wrapper"):
        pair[1].unwrap()


def test_what_a_connection_tells_of_itself(pair, contexts):
    server, client = pair
    assert client.version() == "TLSv1.3"
    assert client.cipher() == server.cipher()
    assert client.getpeercert()["subject"] == ((("commonName", "localhost"),),)
    assert client.server_hostname == "localhost"
    assert client.context is contexts[1]
    assert isinstance(client.session, standard.SSLSession)
    client.context = contexts[1]
    assert client.pending() == 0


def test_a_session_may_be_used_again(either, contexts):
    for context in contexts:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    session = None
    for reused in (False, True):
        a, b = socket.socketpair()
        task = spawn(contexts[0].wrap_socket, a, server_side=True)
        with contexts[1].wrap_socket(b, server_hostname="localhost", session=session) as client:
            with task.result():
                assert client.session_reused is reused
                session = client.session


def test_a_native_socket_may_be_wrapped(either, contexts, parked):
    a, b = standard_socket.socketpair()
    task = parked(contexts[0].wrap_socket, a, server_side=True)
    with contexts[1].wrap_socket(b, server_hostname="localhost") as client, task.result() as server:
        assert isinstance(server, ssl.SSLSocket)
        task = parked(server.recv, 1)
        client.send(b"x")
        assert task.result() == b"x"


def test_a_servers_callback_may_choose_another_context(either, contexts):
    chosen = []

    def choose(connection, name, context):
        chosen.append((type(connection), name, context))
        connection.context = context

    contexts[0].sni_callback = choose
    a, b = socket.socketpair()
    task = spawn(contexts[0].wrap_socket, a, server_side=True)
    with contexts[1].wrap_socket(b, server_hostname="localhost"), task.result():
        assert chosen == [(ssl.SSLSocket, "localhost", contexts[0])]


def test_a_certificate_that_nobody_trusts_is_refused(either, contexts):
    a, b = socket.socketpair()
    task = spawn(contexts[0].wrap_socket, a, server_side=True)
    with pytest.raises(standard.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(b, server_hostname="localhost")
    b.close()
    with pytest.raises(standard.SSLError):
        task.result()
    a.close()


def test_the_settings_of_a_context_do_not_recurse(hub):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    assert context.minimum_version is standard.TLSVersion.TLSv1_2
    assert context.options & standard.OP_NO_TICKET
    assert context.verify_mode is standard.CERT_NONE


def test_classes_and_constants_are_those_of_the_standard_library(hub):
    assert ssl.SSLError is standard.SSLError
    assert ssl.CertificateError is standard.CertificateError
    assert ssl.TLSVersion is standard.TLSVersion
    assert issubclass(ssl.SSLContext, standard.SSLContext)
    assert issubclass(ssl.SSLSocket, standard.SSLSocket)
    assert issubclass(ssl.SSLSocket, socket.socket)
    assert type(ssl.create_default_context()) is ssl.SSLContext
    assert type(standard.create_default_context()) is standard.SSLContext
    with pytest.raises(TypeError, match="does not have a public constructor"):
        ssl.SSLSocket()


def test_in_a_native_thread_connections_block_natively(either, contexts):
    a, b = socket.socketpair()

    def client():
        with contexts[1].wrap_socket(b, server_hostname="localhost") as connection:
            connection.send(b"x")
            return connection.recv(1), core.loop_here()

    def server():
        with contexts[0].wrap_socket(a, server_side=True) as connection:
            connection.send(connection.recv(1))

    task = spawn(server)
    assert offload(client) == (b"x", None)
    task.join()
