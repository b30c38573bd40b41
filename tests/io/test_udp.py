"""evergreen/io/udp.py and _evergreen_c/udp.c: datagrams."""

import errno
import gc
import os
import socket

import pytest
from helpers import in_thread, output_of, settle

import evergreen
from evergreen import spawn
from evergreen.io.udp import UDPEndpoint, UDPError
from evergreen.timeout import Timeout

HERE = ("127.0.0.1", 0)


@pytest.fixture
def endpoint(hub):
    with UDPEndpoint() as endpoint:
        endpoint.bind(HERE)
        yield endpoint


def test_ping_pong_as_in_0_2(hub):
    server = UDPEndpoint()
    server.bind(HERE)
    address = server.sockname

    def serve():
        try:
            while True:
                data, addr = server.receive()
                server.send(data, addr)
                server.flush()
        except UDPError:
            pass

    task = spawn(serve)
    client = UDPEndpoint()
    client.send(b"PING", address)
    client.flush()
    assert client.receive() == (b"PING", address)
    client.close()
    for call in (client.receive, client.flush, client.fileno, lambda: client.sockname):
        with pytest.raises(UDPError, match="closed") as caught:
            call()
        assert caught.value.errno == errno.EBADF
    settle()
    server.close()
    task.join()


def test_receive_waits_and_can_be_killed_or_timed_out(endpoint):
    task = spawn(endpoint.receive)
    settle()
    assert task.waiting[0] == "readable"
    task.kill()
    task.join()
    with Timeout(0.005, False):
        endpoint.receive()
        pytest.fail("received what nobody sent")
    endpoint.send(b"late", endpoint.sockname)
    assert endpoint.receive()[0] == b"late"


def test_datagrams_keep_their_bounds(endpoint):
    for data in (b"one", b"", b"x" * 60_000):
        endpoint.send(bytearray(data), endpoint.sockname)
        assert endpoint.receive() == (data, endpoint.sockname)


def test_a_datagram_that_is_too_large(endpoint):
    with pytest.raises(UDPError) as caught:
        endpoint.send(b"x" * 70_000, endpoint.sockname)
    assert caught.value.errno == errno.EMSGSIZE


def test_receive_many_takes_what_is_there(endpoint):
    for i in range(20):
        endpoint.send(b"%d" % i, endpoint.sockname)
    first = endpoint.receive_many()
    second = endpoint.receive_many()
    assert [data for data, _ in first + second] == [b"%d" % i for i in range(20)]
    assert len(first) == 16 and first[0][1] == endpoint.sockname
    task = spawn(endpoint.receive_many)
    settle()
    endpoint.send(b"one", endpoint.sockname)
    assert task.result() == [(b"one", endpoint.sockname)]


@pytest.mark.parametrize("action", ["receive", "sleep"])
def test_a_finaliser_that_runs_while_datagrams_are_received_does_not_change_them(hub, action):
    script = """
        import gc, socket, sys
        import evergreen
        from evergreen.io.udp import UDPEndpoint

        class Finalised:
            def __init__(self):
                self.me = self

            def __del__(self):
                if sys.argv[1] == "receive":
                    others.extend(b.receive_many())
                else:
                    try:
                        evergreen.sleep(0)
                    except RuntimeError:
                        pass  # it may not wait everywhere

        def receive():
            while True:
                others.extend(b.receive_many())

        a, b, others = UDPEndpoint(), UDPEndpoint(), []
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        task = None
        if sys.argv[1] == "sleep":
            task = evergreen.spawn(receive)
        for turn in range(20):
            for i in range(16):
                sender.sendto(b"A%d" % i, a.sockname)
                sender.sendto(b"B%d" % i, b.sockname)
            gc.collect()
            Finalised()
            gc.set_threshold(1)
            try:
                got = a.receive_many()
            finally:
                gc.set_threshold(700)
            gc.collect()
            assert [data for data, _ in got] == [b"A%d" % i for i in range(len(got))]
            while len(others) % 16:
                evergreen.sleep(0.001)
            a.close()
            a = UDPEndpoint()
            a.bind(("127.0.0.1", 0))
        while task and task.is_alive():
            task.kill()  # a finaliser may get it
            evergreen.sleep(0.001)
        print("end")
    """
    assert output_of(script, action, options=["-W", "ignore"]) == "end\n"


def test_senders_are_told_apart_though_they_are_remembered(endpoint):
    """By ports with the same rest, too; and one who has the port of another."""
    where = endpoint.sockname
    senders = []
    for port in range(20_000, 60_000, 256):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.bind(("127.0.0.1", port))
            sock.settimeout(10)
        except OSError:  # it is taken
            sock.close()
            continue
        senders.append(sock)
        if len(senders) == 5:
            break
    for _ in range(3):
        for sock in senders:
            sock.sendto(b"%d" % sock.getsockname()[1], where)
    heard = [endpoint.receive() for _ in range(15)]
    for data, sender in heard:
        assert sender == ("127.0.0.1", int(data))
    for data, sender in heard:
        endpoint.send(data, sender)  # also to those who were not the last to send
    for sock in senders:
        assert {sock.recv(100) for _ in range(3)} == {b"%d" % sock.getsockname()[1]}
        sock.close()


def test_connected_mode(endpoint):
    with UDPEndpoint() as client, UDPEndpoint() as stranger:
        client.connect(endpoint.sockname)
        assert client.peername == endpoint.sockname
        client.send(b"hello")
        data, sender = endpoint.receive()
        assert sender == client.sockname
        stranger.send(b"from elsewhere", client.sockname)
        endpoint.send(b"answer", sender)
        assert client.receive() == (b"answer", endpoint.sockname)
        client.connect(None)
        with pytest.raises(UDPError) as caught:
            client.send(b"to whom?")
        assert caught.value.errno == errno.EDESTADDRREQ


def test_nobody_at_the_other_end(hub):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(HERE)
        address = sock.getsockname()
    with UDPEndpoint() as client:
        client.connect(address)
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError) as caught:
            client.receive()
        assert isinstance(caught.value, UDPError)


def test_by_name(endpoint):
    with UDPEndpoint() as client:
        client.send(b"x", ("localhost", endpoint.sockname[1]))
        assert endpoint.receive()[0] == b"x"
        with pytest.raises(UDPError, match="no-such-host.invalid"):
            client.send(b"x", ("no-such-host.invalid", 1))


@pytest.mark.parametrize("address", ["text", 5, ("127.0.0.1",), ("127.0.0.1", "x"), ("127.0.0.1", 70000)])
def test_bad_addresses(hub, address):
    with UDPEndpoint() as client:
        with pytest.raises((TypeError, ValueError, OverflowError, UDPError)):
            client.send(b"x", address)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_does_not_exist(endpoint, port):
    for call in (endpoint.bind, endpoint.connect, lambda address: endpoint.send(b"x", address)):
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(OverflowError, match="port must be"):
                call((host, port))


def test_sending_needs_somebody_to_send_to(hub):
    with UDPEndpoint() as client:
        with pytest.raises(UDPError) as caught:
            client.send(b"x")
        assert caught.value.errno == errno.EDESTADDRREQ
        with pytest.raises(TypeError):
            client.send("text", ("127.0.0.1", 1))


def test_ipv6(hub):
    with UDPEndpoint() as one:
        one.bind(("::1", 0))
        one.send(b"six", one.sockname)
        data, sender = one.receive()
        assert data == b"six" and sender == one.sockname and len(sender) == 4
        one.set_ttl(3)
        one.set_multicast_ttl(2)
        one.set_multicast_loop(True)
        one.set_multicast_interface("lo")


def test_multicast(hub):
    group = "239.255.17.5"
    with UDPEndpoint() as one, UDPEndpoint() as two, UDPEndpoint() as sender:
        one.bind(("0.0.0.0", 0), reuse_addr=True)
        port = one.sockname[1]
        two.bind(("0.0.0.0", port), reuse_addr=True)
        one.join_group(group, "127.0.0.1")
        two.join_group(group, "127.0.0.1")
        sender.bind(HERE)
        sender.set_multicast_interface("127.0.0.1")
        sender.set_multicast_ttl(1)
        sender.set_multicast_loop(True)
        sender.send(b"all", (group, port))
        assert (one.receive()[0], two.receive()[0]) == (b"all", b"all")
        one.leave_group(group, "127.0.0.1")
        with pytest.raises(UDPError):
            one.leave_group(group, "127.0.0.1")


def test_options(endpoint):
    sock = socket.socket(fileno=os.dup(endpoint.fileno()))
    endpoint.set_ttl(7)
    assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 7
    endpoint.set_broadcast(True)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
    sock.close()
    for bad in (0, 256):
        with pytest.raises(ValueError, match="TTL"):
            endpoint.set_ttl(bad)


def test_two_endpoints_share_a_port(endpoint):
    with UDPEndpoint() as one, UDPEndpoint() as two:
        one.bind(HERE, reuse_port=True)
        two.bind(one.sockname, reuse_port=True)
        with pytest.raises(UDPError), UDPEndpoint() as three:
            three.bind(endpoint.sockname)


def test_close_wakes_who_waits(hub):
    endpoint = UDPEndpoint()
    endpoint.bind(HERE)
    task = spawn(endpoint.receive)
    settle()
    endpoint.close()
    endpoint.close()
    with pytest.raises(UDPError, match="closed"):
        task.result()
    assert "closed" in repr(endpoint)


def test_a_dropped_endpoint_is_closed_with_a_warning(hub):
    endpoint = UDPEndpoint()
    endpoint.bind(HERE)
    fd = endpoint.fileno()
    with pytest.warns(ResourceWarning, match="unclosed <UDPEndpoint"):
        del endpoint
        gc.collect()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_thread_without_a_loop_may_use_it(hub):
    def talk():
        with UDPEndpoint() as one, UDPEndpoint() as two:
            one.bind(HERE)
            two.send(b"x", one.sockname)
            return one.receive()[0]

    assert in_thread(talk) == b"x"


def test_many_senders_lose_nothing_on_loopback(endpoint):
    def ping(i):
        with UDPEndpoint() as client:
            client.send(b"%d" % i, endpoint.sockname)
            return client.receive()[0]

    def serve():
        for _ in range(100):
            endpoint.send(*endpoint.receive())

    server = spawn(serve)
    tasks = [spawn(ping, i) for i in range(100)]
    assert [task.result() for task in tasks] == [b"%d" % i for i in range(100)]
    server.join()


def test_an_endpoint_in_a_forked_child():
    out = output_of("""
        import os
        from evergreen.io.udp import UDPEndpoint
        endpoint = UDPEndpoint(); endpoint.bind(("127.0.0.1", 0))
        client = UDPEndpoint()
        pid = os.fork()
        if not pid:
            endpoint.send(*endpoint.receive())
            os._exit(0)
        client.send(b"hello", endpoint.sockname)
        print(client.receive()[0])
        os.waitpid(pid, 0)
        client.close(); endpoint.close()
    """)
    assert out == "b'hello'\n"
    assert evergreen.current.loop is not None
