"""evergreen.lib.socket: sockets whose calls let other tasks run, unpatched."""

import _socket
import os as native_os
import pickle
import socket as standard

import pytest
from helpers import settle

from evergreen import spawn
from evergreen.lib import socket

LOCALHOST = "127.0.0.1"
BIG = bytes(range(256)) * 8_000


@pytest.fixture
def pair(either):
    a, b = socket.socketpair()
    with a, b:
        yield a, b


@pytest.fixture
def listener(either):
    with socket.create_server((LOCALHOST, 0)) as listener:
        yield listener


def receive(sock, size):
    got = bytearray()
    while len(got) < size:
        got += sock.recv(65536)
    return bytes(got)


def test_many_clients_talk_to_one_server_beside_a_ticker(listener, ticks):
    def serve():
        with listener.accept()[0] as connection:
            connection.sendall(connection.recv(100).upper())

    def ask(text):
        with socket.create_connection(listener.getsockname()) as connection:
            connection.sendall(text)
            return connection.recv(100)

    clients = [spawn(ask, text) for text in (b"one", b"two", b"three")]
    servers = [spawn(serve) for _ in clients]
    assert [client.result() for client in clients] == [b"ONE", b"TWO", b"THREE"]
    for server in servers:
        server.join()


def test_accept_gives_sockets_of_the_same_class(listener, parked):
    task = parked(listener.accept)
    with socket.create_connection(listener.getsockname()) as client:
        connection, address = task.result()
        with connection:
            assert type(connection) is type(client) is socket.socket
            assert address == client.getsockname()


@pytest.mark.parametrize(
    ("method", "args", "first"),
    [
        ("recv", (10,), b"hello"),
        ("recv_into", (bytearray(10),), 5),
        ("recvfrom", (10,), b"hello"),
        ("recvfrom_into", (bytearray(10),), 5),
        ("recvmsg", (10,), b"hello"),
        ("recvmsg_into", ([bytearray(10)],), 5),
    ],
)
def test_receiving_lets_other_tasks_run(pair, parked, method, args, first):
    task = parked(getattr(pair[0], method), *args)
    pair[1].send(b"hello")
    result = task.result()
    assert (result[0] if isinstance(result, tuple) else result) == first


def test_sendall_waits_until_all_is_taken(pair, parked):
    task = parked(pair[0].sendall, BIG)
    assert receive(pair[1], len(BIG)) == BIG
    task.join()


def test_datagrams(either, parked):
    with socket.socket(type=socket.SOCK_DGRAM) as a, socket.socket(type=socket.SOCK_DGRAM) as b:
        a.bind((LOCALHOST, 0))
        task = parked(a.recvfrom, 10)
        b.sendto(b"hello", a.getsockname())
        assert task.result() == (b"hello", (LOCALHOST, b.getsockname()[1]))


def test_timeouts_are_the_standard_exception(pair, ticks):
    pair[0].settimeout(0.01)
    with pytest.raises(standard.timeout, match="timed out"):
        pair[0].recv(1)
    assert ticks[0]
    pair[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[0].recv(1)


def test_makefile_reads_lines_while_others_run(pair, parked):
    with pair[0].makefile("r") as reader, pair[1].makefile("w") as writer:
        task = parked(reader.readline)
        writer.write("hello\n")
        writer.flush()
        assert task.result() == "hello\n"


def test_two_tasks_may_read_from_one_buffered_file(pair, parked):
    with pair[0].makefile("rb") as reader:
        tasks = [parked(reader.readline), parked(reader.readline)]
        pair[1].sendall(b"a\nb\n")
        assert [task.result() for task in tasks] == [b"a\n", b"b\n"]


def test_sendfile_waits_for_the_peer(pair, parked, tmp_path):
    path = tmp_path / "big"
    path.write_bytes(BIG)
    with path.open("rb") as file:
        task = parked(pair[0].sendfile, file)
        assert receive(pair[1], len(BIG)) == BIG
        assert task.result() == len(BIG)


def test_dup_and_fromfd_give_sockets_of_this_module(pair, parked):
    with pair[0].dup() as a, socket.fromfd(pair[0].fileno(), pair[0].family, pair[0].type) as b:
        assert type(a) is type(b) is socket.socket
        tasks = [parked(end.recv, 1) for end in (a, b)]
        pair[1].send(b"xx")
        assert "".join(task.result().decode() for task in tasks) in ("xx", "xxxx")


def test_names_are_looked_up_while_others_run(either):
    ran = []
    task = spawn(ran.append, 1)
    found = socket.getaddrinfo("localhost", "http", type=socket.SOCK_STREAM)
    assert ran
    task.join()
    assert found == standard.getaddrinfo("localhost", "http", type=socket.SOCK_STREAM)
    assert isinstance(found[0][0], standard.AddressFamily)
    with pytest.raises(standard.gaierror):
        socket.getaddrinfo("localhost", "no-such-service")


def test_connecting_by_name_looks_up_while_others_run(listener):
    ran = []
    task = spawn(ran.append, 1)
    with socket.socket() as sock:
        sock.setblocking(True)
        sock.connect(("localhost", listener.getsockname()[1]))
        assert sock.getpeername() == listener.getsockname()
    assert ran
    task.join()


def test_closing_ends_the_waits_of_others(pair, parked):
    task = parked(pair[0].recv, 1)
    pair[0].close()
    with pytest.raises(OSError):
        task.result()


def test_detach_leaves_the_descriptor_open(either):
    a, b = socket.socketpair()
    with b:
        with standard.socket(fileno=a.detach()) as again:
            assert a.fileno() == -1
            again.send(b"x")
            assert b.recv(1) == b"x"


def test_a_number_that_was_closed_natively_may_be_a_socket_again(hub, parked):
    """Nobody tells the hub of native closes, so it must not believe what it knew of the number."""
    for close in (_socket.socket.close, lambda end: native_os.close(_socket.socket.detach(end))) * 2:
        a, b = socket.socketpair()
        task = parked(a.recv, 1)
        b.send(b"x")
        assert task.result() == b"x"
        for end in (a, b):
            close(end)


def test_sockets_of_both_modules_talk_to_each_other(pair, either):
    a, b = standard.socketpair()
    with a, b, socket.socket(fileno=standard.dup(b.fileno())) as c:
        task = spawn(c.recv, 1)
        settle()
        a.send(b"x")
        assert task.result() == b"x"


def test_in_a_native_thread_sockets_block_natively(either, natively):
    def work():
        a, b = socket.socketpair()
        with a, b, socket.create_server((LOCALHOST, 0)) as listener:
            a.settimeout(0.001)
            with pytest.raises(TimeoutError):
                a.recv(1)
            b.send(b"x")
            with socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
                assert type(connection) is socket.socket
            return a.recv(1)

    assert natively(work) == b"x"


def test_classes_and_constants_are_those_of_the_standard_library(hub):
    assert issubclass(socket.socket, standard.socket)
    assert issubclass(socket.socket, _socket.socket)
    assert socket.timeout is standard.timeout
    assert socket.gaierror is standard.gaierror
    assert socket.AddressFamily is standard.AddressFamily
    assert socket.AF_INET is standard.AF_INET
    assert pickle.loads(pickle.dumps(socket.AF_INET)) is standard.AF_INET
    assert set(standard.__all__) <= set(dir(socket))
    with socket.socket() as sock:
        assert repr(sock).startswith("<evergreen.lib.socket.socket fd=")
        assert sock.family is standard.AF_INET
        assert not hasattr(sock, "__dict__")
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(sock)


def test_a_subclass_cooperates_too(either, parked):
    class Counted(socket.socket):
        count = 0

        def recv(self, *args):
            self.count += 1
            return super().recv(*args)

    a, b = socket.socketpair()
    with b, Counted(fileno=a.detach()) as counted:
        task = parked(counted.recv, 1)
        b.send(b"x")
        assert task.result() == b"x"
        assert counted.count == 1
