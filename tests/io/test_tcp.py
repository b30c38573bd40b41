"""evergreen/io/tcp.py, stream.py, _connect.py: clients and servers over TCP."""

import errno
import gc
import os
import pickle
import resource
import socket
import struct
import threading
from random import Random

import pytest
from helpers import output_of, settle

import evergreen
from evergreen import spawn
from evergreen.event import Event
from evergreen.io import _connect, tcp
from evergreen.io.stream import StreamError
from evergreen.io.tcp import TCPClient, TCPConnection, TCPError, TCPServer
from evergreen.io.udp import UDPEndpoint
from evergreen.timeout import Timeout

HERE = ("127.0.0.1", 0)


def turns(n=5):
    for _ in range(n):
        evergreen.sleep(0.001)
    settle()


class Serving:
    """A server with its serve() in a task."""

    def __init__(self, handler=None, cls=TCPServer, address=HERE, **options):
        self.server = cls(handler, **options) if handler else cls(**options)
        self.server.bind(address)
        self.task = spawn(self.server.serve)
        settle()

    def client(self):
        client = TCPClient()
        client.connect(self.server.sockname)
        return client

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.server.close()
        self.task.join()
        turns()


def echo(connection):
    while data := connection.read(65536):
        connection.write(data)


# ---- clients --------------------------------------------------------------------------------------


def test_a_client_talks_to_a_server(hub):
    with Serving(echo) as serving, serving.client() as client:
        assert client.write(b"PING\n") is True
        assert client.read_until(b"\n") == b"PING\n"
        assert client.peername == serving.server.sockname
        assert client.sockname[0] == "127.0.0.1" and client.connected


def test_the_servers_side_of_0_2(hub):
    class Echo(TCPServer):
        @evergreen.task
        def handle_connection(self, connection):
            assert isinstance(connection, TCPConnection) and connection.server is self
            while data := connection.read_until(b"\n"):
                connection.write(data)
                connection.flush()
                if connection.closed:
                    break

    with Serving(cls=Echo) as serving:
        client = serving.client()
        client.write(b"one\n")
        assert client.read_until(b"\n") == b"one\n"
        assert len(serving.server.connections) == 1
        client.close()
        with pytest.raises(TCPError):
            client.read_until(b"\n")
        turns()
        assert not serving.server.connections  # read_until() has closed it


def test_what_is_written_before_connect_is_sent_then(hub):
    with Serving(echo) as serving, TCPClient() as client:
        assert client.write(b"early ") is False
        client.writelines([b"birds", b"\n"])
        client.connect(serving.server.sockname)
        assert client.readline() == b"early birds\n"


def test_connect_twice(hub):
    with Serving(echo) as serving, serving.client() as client:
        with pytest.raises(TCPError, match="already connected") as caught:
            client.connect(serving.server.sockname)
        assert caught.value.errno == errno.EISCONN
        client.close()
        with pytest.raises(TCPError, match="closed"):
            client.connect(serving.server.sockname)


def test_nobody_there(hub):
    with socket.socket() as taken:
        taken.bind(HERE)
        port = taken.getsockname()[1]
        with pytest.raises(TCPError, match=f"refused.*127.0.0.1 port {port}") as caught:
            TCPClient().connect(("127.0.0.1", port))
    assert isinstance(caught.value, ConnectionRefusedError)
    assert caught.value.errno == errno.ECONNREFUSED


def test_a_name_that_does_not_exist(hub):
    with pytest.raises(TCPError, match="no-such-host.invalid") as caught:
        TCPClient().connect(("no-such-host.invalid", 80))
    assert isinstance(caught.value, socket.gaierror)


@pytest.mark.parametrize("address", ["text", 5, ("host",), None])
def test_a_bad_address(hub, address):
    with pytest.raises(TypeError, match="tuple"):
        TCPClient().connect(address)
    with pytest.raises((TypeError, TCPError)):
        TCPServer().bind(address)


@pytest.mark.parametrize("end", [TCPServer(echo).bind, UDPEndpoint().bind, UDPEndpoint().send])
def test_an_error_names_the_half_of_the_address_that_is_wrong(hub, end):
    def said(*address):
        args = (b"", address) if end.__name__ == "send" else (address,)
        with pytest.raises((OSError, TypeError, OverflowError)) as caught:
            end(*args)
        return str(caught.value)

    assert said("127.0.0.1", "no-service").endswith("port 'no-service'")
    assert said("no-host.invalid", 1).endswith(": 'no-host.invalid'")
    assert said("127.0.0.1", "70000") == "port must be 0 to 65535, not 70000"
    assert said("127.0.0.1", 1.5).startswith("port must be")


def test_an_error_names_the_source_address_if_that_is_wrong(hub):
    with TCPClient() as client, pytest.raises(TCPError, match="binding to 192.0.2.1 port 0"):
        client.connect(("127.0.0.1", 1), ("192.0.2.1", 0))


@pytest.mark.parametrize("port", [-1, 65536, 70000])
def test_a_port_that_does_not_exist(hub, port):
    with TCPClient() as client, pytest.raises(OverflowError, match=str(port)):
        client.connect(("127.0.0.1", port))
    with TCPServer(echo) as server, pytest.raises(OverflowError, match=str(port)):
        server.bind(("localhost", port))


def test_connect_by_name(hub):
    with Serving(echo) as serving, TCPClient() as client:
        client.connect(("localhost", serving.server.sockname[1]))
        client.write(b"x")
        assert client.read(1) == b"x"


def test_numeric_addresses_touch_no_thread(hub, monkeypatch):
    monkeypatch.setattr(_connect._policy, "offload_name_lookup", None)
    with Serving(echo) as serving, serving.client() as client:
        client.write(b"x")
        assert client.read(1) == b"x"


def test_the_source_address(hub):
    with Serving(lambda c: c.write(c.peername[0].encode() + b"\n")) as serving, TCPClient() as client:
        client.connect(serving.server.sockname, source_address=("127.0.0.2", 0))
        assert client.readline() == b"127.0.0.2\n"


def test_connecting_can_be_timed_out_and_leaves_nothing(hub):
    with Serving(echo) as serving:
        serving.client().close()  # the loop has what it needs to wait for descriptors
    with socket.socket() as full:
        full.bind(HERE)
        full.listen(0)
        fillers = []
        for _ in range(8):  # until the backlog is full and the kernel answers no more
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        before = os.listdir("/proc/self/fd")
        with Timeout(0.05, False):
            TCPClient().connect(full.getsockname())
            pytest.fail("connected to a full backlog")
        assert len(os.listdir("/proc/self/fd")) == len(before)
        for filler in fillers:
            filler.close()


def test_ipv6(hub):
    with Serving(echo, address=("::1", 0)) as serving, serving.client() as client:
        client.write(b"six")
        assert client.read(3) == b"six"
        assert client.peername[0] == "::1" and len(client.peername) == 4


# ---- happy eyeballs ---------------------------------------------------------------------------------


def info(address, family=socket.AF_INET):
    return (family, socket.SOCK_STREAM, 6, "", address)


def test_families_take_turns():
    six = [info((f"::{i}", 1, 0, 0), socket.AF_INET6) for i in range(3)]
    four = [info((f"10.0.0.{i}", 1)) for i in range(2)]
    assert _connect.interleave(six + four) == [six[0], four[0], six[1], four[1], six[2]]


@pytest.fixture
def silent():
    """An address that does not answer."""
    with socket.socket() as full:
        full.bind(HERE)
        full.listen(0)
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()
        for filler in fillers:
            filler.close()


def test_the_next_address_is_tried_while_the_first_is_silent(hub, silent, monkeypatch):
    monkeypatch.setattr(_connect, "ATTEMPT_DELAY", 0.02)
    with Serving(echo) as serving:
        fd = _connect.race([info(silent), info(serving.server.sockname)])
        with socket.socket(fileno=fd) as sock:
            assert sock.getpeername() == serving.server.sockname


def test_the_next_address_is_tried_at_once_when_one_fails(hub, monkeypatch):
    monkeypatch.setattr(_connect, "ATTEMPT_DELAY", 30)
    with Serving(echo) as serving, socket.socket() as taken:
        taken.bind(HERE)
        fd = _connect.race([info(taken.getsockname()), info(serving.server.sockname)])
        with socket.socket(fileno=fd) as sock:
            assert sock.getpeername() == serving.server.sockname


def test_if_all_fail_the_first_error_is_raised_with_the_others(hub):
    with socket.socket() as one, socket.socket() as two:
        one.bind(HERE)
        two.bind(HERE)
        with pytest.raises(ConnectionRefusedError) as caught:
            _connect.race([info(one.getsockname()), info(two.getsockname())])
        assert str(one.getsockname()[1]) in str(caught.value)
        assert str(two.getsockname()[1]) in caught.value.__notes__[0]


# ---- errors -------------------------------------------------------------------------------------------


def test_errors_are_of_both_kinds_and_can_be_pickled():
    exc = TCPError(errno.ECONNRESET, "reset")
    assert isinstance(exc, ConnectionResetError) and isinstance(exc, StreamError)
    assert (exc.errno, exc.strerror) == (errno.ECONNRESET, "reset")
    again = pickle.loads(pickle.dumps(exc))
    assert type(again) is type(exc) and again.args == exc.args
    assert type(TCPError("text")) is TCPError


def test_a_reset_reaches_the_reader(hub):
    def reset(connection):
        connection.read(1)
        connection.abort()

    with Serving(reset) as serving, serving.client() as client:
        client.write(b"xy")
        with pytest.raises(ConnectionResetError) as caught:
            client.read(10)
        assert isinstance(caught.value, TCPError)
        with pytest.raises(TCPError):
            client.read(10)


def test_data_before_a_reset_is_still_read(hub):
    listening = socket.create_server(HERE)
    client = TCPClient()
    client.connect(listening.getsockname())
    peer, _ = listening.accept()
    reader = spawn(client.read_exactly, 5)
    settle()
    peer.send(b"hel")
    turns()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    with pytest.raises(ConnectionResetError):
        reader.result()
    client.close()
    listening.close()
    turns()


def test_half_close(hub):
    def answer_at_the_end(connection):
        data = connection.read()
        connection.write(data[::-1])

    with Serving(answer_at_the_end) as serving, serving.client() as client:
        client.write(b"abc")
        client.shutdown()
        assert client.read() == b"cba"


def test_options(hub):
    with Serving(echo) as serving, serving.client() as client:
        sock = socket.socket(fileno=os.dup(client.fileno()))
        get = sock.getsockopt
        assert get(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        client.nodelay(False)
        assert get(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        client.keepalive(True, 30)
        assert get(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert get(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        client.keepalive(False)
        assert get(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
        with pytest.raises(ValueError):
            client.keepalive(True, 0)
        sock.close()


# ---- servers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound_by", ["bind()", "somebody else"])
def test_a_servers_connections_send_each_write_at_once(hub, bound_by):
    seen = []

    def look(connection):
        sock = socket.socket(fileno=connection.fileno())
        seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        sock.detach()

    server = TCPServer(look)
    if bound_by == "bind()":
        server.bind(HERE)
    else:
        server.open(socket.create_server(HERE).detach())
    task = spawn(server.serve)
    with TCPClient() as client:
        client.connect(server.sockname)
        assert client.read() == b""
    server.close()
    task.join()
    assert seen[0] != 0


def test_what_has_come_before_the_first_read_is_not_waited_for(hub):
    """It can be read where nothing may wait: in a callback."""
    got, refused = [], []

    def read(client):
        for call in (lambda: client.read(1), lambda: client.read_exactly(1), client.readline):
            got.append(call())
        try:
            client.read(1)
        except RuntimeError as exc:
            refused.append(exc)

    with socket.create_server(HERE) as listening, TCPClient() as client:
        client.connect(listening.getsockname())
        with listening.accept()[0] as peer:
            peer.sendall(b"12line\n")
            hub.call_soon(read, client)
            settle()
            assert got == [b"1", b"2", b"line\n"]
            assert "block the event loop" in str(refused[0])
            peer.sendall(b"more")
            assert client.read(10) == b"more"


def test_a_server_needs_a_handler_and_an_address(hub):
    with pytest.raises(TypeError):
        TCPServer(5)
    with pytest.raises(ValueError):
        TCPServer(echo, max_connections=0)
    server = TCPServer(echo)
    for call in (server.serve, lambda: server.sockname, server.fileno):
        with pytest.raises(TCPError, match="not bound"):
            call()
    server.bind(HERE)
    with pytest.raises(TCPError, match="already bound"):
        server.bind(HERE)
    server.close()
    server.close()
    for call in (server.serve, lambda: server.sockname, lambda: server.bind(HERE)):
        with pytest.raises(TCPError, match="closed"):
            call()


def test_a_server_without_a_handler_says_so(hub):
    reported = []
    hub.excepthook = reported.append
    with Serving() as serving, serving.client() as client:
        assert client.read(1) == b""
        gc.collect()
    assert [args.exc_type for args in reported] == [NotImplementedError]
    hub.excepthook = None


def test_an_address_that_is_taken(hub):
    with Serving(echo) as serving:
        with pytest.raises(TCPError, match="127.0.0.1 port") as caught:
            TCPServer(echo).bind(serving.server.sockname)
        assert caught.value.errno == errno.EADDRINUSE


def test_a_failing_handler_closes_its_connection_and_is_reported(hub):
    reported = []
    hub.excepthook = reported.append

    def fail(connection):
        raise LookupError("in the handler")

    with Serving(fail) as serving, serving.client() as client:
        assert client.read(1) == b""
        gc.collect()
    assert [args.exc_type for args in reported] == [LookupError]
    hub.excepthook = None


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize(
    "handler",
    [
        echo,
        lambda connection: [connection.write(line) for line in connection],
        lambda connection: connection.read_exactly(100),
        lambda connection: [connection.write(bytes(65536)) for _ in iter(int, 1)],
        lambda connection: (evergreen.sleep(0.01), connection.peername),
        lambda connection: (evergreen.sleep(0.01), connection.flush(), connection.shutdown()),
    ],
)
def test_a_client_that_resets_its_connection_is_a_debug_record_and_no_more(hub, handler, caplog):
    caplog.set_level("DEBUG", "evergreen.io")
    with Serving(handler) as serving:
        for sent in (b"", b"some"):
            client = socket.create_connection(serving.server.sockname)
            client.send(sent)
            turns(2)
            reset(client)
            while serving.server.connections:
                evergreen.sleep(0.001)
    gc.collect()  # reports tasks that failed, and the fixture looks
    assert all(record.levelname == "DEBUG" for record in caplog.records)
    assert len(caplog.records) == 2 or handler is not echo


def test_a_client_that_resets_its_connection_in_a_group_of_tasks_is_quiet(hub):
    def handler(connection):
        with evergreen.TaskGroup() as group:
            group.spawn(connection.read_exactly, 5)
            group.spawn(evergreen.sleep, 10)

    with Serving(handler) as serving:
        client = socket.create_connection(serving.server.sockname)
        turns(2)
        reset(client)
        turns()


def test_an_error_of_another_connection_is_reported_though_it_is_a_reset(hub):
    reported = []
    hub.excepthook = reported.append

    def handler(connection):
        raise ConnectionResetError(errno.ECONNRESET, "from a database")

    with Serving(handler) as serving, serving.client() as client:
        assert client.read(1) == b""
        gc.collect()
    assert [args.exc_type for args in reported] == [ConnectionResetError]
    hub.excepthook = None


def test_close_ends_serve_and_the_connections(hub):
    with Serving(echo) as serving:
        client = serving.client()
        client.write(b"x")
        client.read(1)
        serving.server.close()
        serving.task.join()
        assert client.read(1) == b""
        client.close()


def test_close_gives_connections_time_to_end(hub):
    finish = Event()

    def slow(connection):
        connection.write(connection.read(1))
        finish.wait()
        connection.write(b"done")

    with Serving(slow) as serving:
        client = serving.client()
        client.write(b"x")
        client.read(1)
        closing = spawn(serving.server.close, 10)
        turns()
        assert closing.is_alive()
        with pytest.raises(ConnectionRefusedError):
            serving.client_address = TCPClient()
            serving.client_address.connect(client.peername)
        finish.set()
        assert client.read() == b"done"
        closing.join()
        client.close()


def test_close_closes_what_does_not_end_in_time(hub):
    with Serving(echo) as serving, serving.client() as client:
        client.write(b"x")
        client.read(1)
        serving.server.close(0.01)
        assert client.read(1) == b""


def test_at_most_so_many_connections(hub):
    with Serving(echo, max_connections=2) as serving:
        clients = [serving.client() for _ in range(3)]  # the third waits in the backlog
        for client in clients:
            client.write(b"x")
        assert [clients[0].read(1), clients[1].read(1)] == [b"x", b"x"]
        third = spawn(clients[2].read, 1)
        turns()
        assert third.is_alive() and len(serving.server.connections) == 2
        clients[0].close()
        assert third.result() == b"x"
        for client in clients:
            client.close()


def test_running_out_of_descriptors_is_reported_once_and_survived(hub):
    reported = []
    hub.excepthook = reported.append
    with Serving(echo) as serving:
        turns()
        client = socket.socket()
        client.settimeout(10)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            client.connect(serving.server.sockname)
            client.send(b"x")
            turns(40)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert in_thread_while_running(client.recv, 1) == b"x"
        client.close()
        turns()
    assert [(args.exc_type, args.exc_value.errno) for args in reported] == [(OSError, errno.EMFILE)]
    hub.excepthook = None


def in_thread_while_running(function, *args):
    """Call in a native thread, with the loop going on."""
    done = Event()
    box = []

    def work():
        try:
            box.append(function(*args))
        finally:
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    done.wait(20)
    thread.join()
    return box[0]


def test_many_connections_at_once(hub):
    with Serving(echo) as serving:

        def talk(i):
            with serving.client() as client:
                for _ in range(3):
                    client.write(b"%d\n" % i)
                    assert client.readline() == b"%d\n" % i

        tasks = [spawn(talk, i) for i in range(300)]
        for task in tasks:
            task.result()


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_whatever_the_sizes_and_whatever_read_is_ended(hub, seed):
    """Little is received onto the hub's slab, much by the reader; reads of all kinds, ended at any time."""
    random = Random(seed)

    def echo(connection):
        while data := connection.read(random.choice([1, 10, 1000, 65536, 200_000])):
            connection.write(data)

    def read_somehow(client, left):
        kind = random.randrange(5)
        if kind == 0:
            return client.read(random.choice([1, 7, 65536, 1 << 20]))
        if kind == 1:
            return client.read_exactly(min(left, random.choice([1, 100, 40_000])))
        if kind == 2:
            buffer = bytearray(random.choice([1, 100, 20_000, 100_000]))
            return buffer[: client.readinto(buffer)]
        if kind == 3:
            client.unread(client.read(100_000))
        evergreen.sleep(random.random() * 0.002)
        return b""

    def talk(size):
        data = random.randbytes(size)
        with serving.client() as client:
            client.high_water = 1 << 30
            for _ in range(3):
                client.write(data)
                got = b""
                while len(got) < size:
                    with evergreen.move_on_after(random.random() * 0.003):
                        got += read_somehow(client, size - len(got))
                assert got == data

    with Serving(echo) as serving:
        sizes = [1, 100, 1024, 16383, 16384, 16385, 65536, 70_000, 300_000] * 2
        for task in [spawn(talk, size) for size in sizes]:
            task.join()
            task.result()


def test_two_servers_share_a_port(hub):
    one, two = TCPServer(echo), TCPServer(echo)
    one.bind(HERE, reuse_port=True)
    two.bind(one.sockname, reuse_port=True)
    assert one.sockname == two.sockname
    with pytest.raises(TCPError):
        TCPServer(echo).bind(one.sockname)
    one.close()
    two.close()


def test_a_server_for_ipv6_takes_ipv4_too_unless_told(hub):
    with Serving(echo, address=("::", 0)) as serving, TCPClient() as client:
        client.connect(("127.0.0.1", serving.server.sockname[1]))
        client.write(b"4")
        assert client.read(1) == b"4"
    only = TCPServer(echo)
    only.bind(("::", 0), ipv6_only=True)
    with pytest.raises(ConnectionRefusedError):
        TCPClient().connect(("127.0.0.1", only.sockname[1]))
    only.close()


def test_a_server_takes_over_a_listening_socket(hub):
    sock = socket.create_server(HERE)
    address = sock.getsockname()
    server = TCPServer(echo)
    server.open(sock.detach())
    task = spawn(server.serve)
    with TCPClient() as client:
        client.connect(address)
        client.write(b"x")
        assert client.read(1) == b"x"
    server.close()
    task.join()
    turns()


def test_a_killed_serve_can_be_started_again(hub):
    with Serving(echo) as serving:
        settle()
        serving.task.kill()
        serving.task.join()
        serving.task = spawn(serving.server.serve)
        with serving.client() as client:
            client.write(b"x")
            assert client.read(1) == b"x"


def test_servers_in_forked_children_share_a_listening_socket():
    out = output_of("""
        import os, evergreen
        from evergreen.io.tcp import TCPServer, TCPClient
        def pid(connection):
            connection.write(b"%d" % os.getpid())
        server = TCPServer(pid)
        server.bind(("127.0.0.1", 0))
        children = []
        for _ in range(2):
            child = os.fork()
            if not child:
                server.serve()
                os._exit(0)
            children.append(child)
        seen = set()
        while len(seen) < 2:
            with TCPClient() as client:
                client.connect(server.sockname)
                seen.add(int(client.read()))
        print(seen == set(children))
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)
        server.close()
    """)
    assert out == "True\n"


def test_a_server_in_a_thread_with_its_own_loop(hub):
    started, box = threading.Event(), []

    def serve():
        loop = evergreen.EventLoop()
        server = TCPServer(echo)
        server.bind(HERE)
        box.append((loop, server))
        started.set()
        server.serve()
        evergreen.sleep(0.005)
        left = loop.stats()["streams"]
        loop.destroy()
        return left

    result = []
    thread = threading.Thread(target=lambda: result.append(serve()))
    thread.start()
    started.wait(10)
    loop, server = box[0]
    with TCPClient() as client:
        client.connect(server.sockname)
        client.write(b"across")
        assert client.read_exactly(6) == b"across"
    turns()
    loop.call_from_thread(spawn, server.close)
    thread.join(10)
    assert result == [0]
    turns()


@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="what a sanitizer keeps beside each block is memory, too",
)
def test_idle_connections_are_small():
    kilobytes = float(
        output_of("""
        import gc, socket, evergreen
        from evergreen.io.tcp import TCPServer
        def handler(connection):
            while data := connection.read(65536):
                connection.write(data)
        def rss():
            with open("/proc/self/statm") as f:
                return int(f.read().split()[1]) * 4096
        import resource
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        n = min(2000, (hard - 100) // 2)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, n * 2 + 100), hard))
        server = TCPServer(handler); server.bind(("127.0.0.1", 0))
        evergreen.spawn(server.serve)
        def connect(n):
            clients = []
            for _ in range(n):
                c = socket.create_connection(server.sockname); c.send(b"x"); clients.append(c)
                evergreen.sleep(0)
            evergreen.sleep(0.05)
            return clients
        first = connect(100); gc.collect(); before = rss()
        more = connect(n); gc.collect(); after = rss()
        assert len(server.connections) == n + 100
        print((after - before) / n / 1024)
        server.close()
        for c in first + more: c.close()
    """)
    )
    assert kilobytes < 6.0


def test_tcp_module_exports_what_0_2_did():
    assert set(tcp.__all__) >= {"TCPServer", "TCPClient", "TCPConnection", "TCPError"}
