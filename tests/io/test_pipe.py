"""evergreen/io/pipe.py and _evergreen_c/pipe.c: Unix sockets, pipes, descriptors."""

import os
import socket
import stat

import pytest
from helpers import output_of, settle

import evergreen
from evergreen import spawn
from evergreen.io.pipe import PipeClient, PipeError, PipeServer, PipeStream


def turns(n=5):
    for _ in range(n):
        evergreen.sleep(0.001)
    settle()


def echo(connection):
    while data := connection.read(65536):
        connection.write(data)


@pytest.fixture
def serving(hub, tmp_path):
    """An echo server at a Unix socket."""
    server = PipeServer(echo)
    server.bind(str(tmp_path / "socket"))
    task = spawn(server.serve)
    settle()
    yield server
    server.close()
    task.join()
    turns()


@pytest.fixture
def ends(hub):
    """Two connected streams that descriptors can travel over."""
    first, second = PipeStream.pair(ipc=True)
    yield first, second
    first.close()
    second.close()
    turns()


def test_a_client_talks_to_a_server(serving):
    with PipeClient() as client:
        client.write(b"early ")
        client.connect(serving.pipename)
        client.write(b"PING\n")
        assert client.read_until(b"\n") == b"early PING\n"
        assert client.peername == serving.pipename == serving.sockname
        assert client.sockname == ""


def test_the_servers_side_of_0_2(hub, tmp_path):
    class Echo(PipeServer):
        @evergreen.task
        def handle_connection(self, connection):
            while data := connection.read_until(b"\n"):
                connection.write(data)
                connection.flush()

    server = Echo()
    server.bind(tmp_path / "socket")
    task = spawn(server.serve)
    client = PipeClient()
    client.connect(tmp_path / "socket")
    client.write(b"PING\n")
    assert client.read_until(b"\n") == b"PING\n"
    client.close()
    with pytest.raises(PipeError):
        client.read_until(b"\n")
    server.close()
    task.join()
    turns()


def test_close_removes_the_socket_that_the_server_made(hub, tmp_path):
    path = tmp_path / "socket"
    server = PipeServer(echo)
    server.bind(path)
    assert stat.S_ISSOCK(path.stat().st_mode)
    server.close()
    assert not path.exists()


def test_close_leaves_a_socket_that_has_taken_its_place(hub, tmp_path):
    path = tmp_path / "socket"
    old, new = PipeServer(echo), PipeServer(echo)
    old.bind(path)
    os.rename(path, tmp_path / "away")
    new.bind(path)
    old.close()
    assert path.exists()
    new.close()
    assert not path.exists()


def test_an_abstract_name(hub):
    name = b"\0evergreen-test-%d" % os.getpid()
    server = PipeServer(echo)
    server.bind(name)
    task = spawn(server.serve)
    with PipeClient() as client:
        client.connect(name)
        client.write(b"x")
        assert client.read(1) == b"x"
        assert client.peername == name
    server.close()
    task.join()
    turns()


def test_paths_that_do_not_work(hub, tmp_path):
    with pytest.raises(PipeError, match="nobody") as caught:
        PipeClient().connect(tmp_path / "nobody")
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(PipeError, match="too long"):
        PipeServer(echo).bind("/" + "x" * 200)
    (tmp_path / "file").touch()
    with pytest.raises(PipeError) as caught:
        PipeServer(echo).bind(tmp_path / "file")
    assert caught.value.errno == 98
    with pytest.raises(ConnectionRefusedError):
        PipeClient().connect(tmp_path / "file")


def test_a_full_backlog_is_waited_for(hub, tmp_path):
    server = PipeServer(echo)
    server.bind(tmp_path / "socket")
    server._socket.listen(0)
    clients = [PipeClient() for _ in range(4)]
    tasks = [spawn(client.connect, tmp_path / "socket") for client in clients]
    turns()
    assert any(task.is_alive() for task in tasks)
    serving = spawn(server.serve)
    for task in tasks:
        task.result()
    for client in clients:
        client.close()
    server.close()
    serving.join()
    turns()


def test_connect_twice(serving):
    with PipeClient() as client:
        client.connect(serving.pipename)
        with pytest.raises(PipeError, match="already connected"):
            client.connect(serving.pipename)


def test_the_ends_of_a_pipe(hub):
    read_fd, write_fd = os.pipe()
    reader, writer = PipeStream(), PipeStream()
    reader.open(read_fd)
    writer.open(write_fd)
    task = spawn(reader.read, 10)
    settle()
    writer.write(b"through")
    assert task.result() == b"through"
    writer.close()
    assert reader.read(10) == b""
    with pytest.raises(PipeError):
        reader.write(b"backwards")
    reader.close()
    turns()


def test_descriptors_travel(ends):
    first, second = ends
    read_fd, write_fd = os.pipe()
    first.write(b"before ")
    assert first.send_fds(b"two fds", [read_fd, write_fd]) is True
    data = second.read_exactly(7)
    data, fds = second.recv_fds(100, 10)
    assert (data, len(fds)) == (b"two fds", 2)
    os.close(read_fd)
    os.close(write_fd)
    os.write(fds[1], b"it works")
    assert os.read(fds[0], 100) == b"it works"
    for fd in fds:
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_a_file_travels(ends, tmp_path):
    first, second = ends
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with open(path, "rb") as file:
        first.send_fds(b"!", [file])
    data, (fd,) = second.recv_fds(1, 1)
    with open(fd, "rb") as file:
        assert file.read() == b"content"


def test_descriptors_are_waited_for_in_order(ends):
    first, second = ends
    task = spawn(second.recv_fds, 100, 1)
    settle()
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    first.send_fds(b"abc", fds)
    got = [task.result()]
    while len(got) < 3:
        first.write(b".")
        got.append(second.recv_fds(100, 1))
    assert got[0][0] == b"abc"
    for _, taken in got:
        assert len(taken) == 1 and os.fstat(taken[0]).st_rdev == os.fstat(fds[0]).st_rdev
        os.close(taken[0])
    for fd in fds:
        os.close(fd)
    first.close()
    second.read()
    assert second.recv_fds(1, 1) == (b"", [])


def test_descriptors_that_nobody_took_are_closed_with_the_stream(ends):
    first, second = ends
    read_fd, write_fd = os.pipe()
    first.send_fds(b"x", [write_fd])
    os.close(write_fd)
    second.read(1)
    second.close()
    turns()
    assert os.read(read_fd, 1) == b""  # no copy of the other end is left
    os.close(read_fd)


def test_a_stream_without_ipc_takes_no_descriptors(hub):
    first, second = PipeStream.pair()
    read_fd, write_fd = os.pipe()
    first.send_fds(b"x", [write_fd])
    os.close(write_fd)
    assert second.read(1) == b"x"
    assert os.read(read_fd, 1) == b""  # the kernel has closed it
    os.close(read_fd)
    with pytest.raises(ValueError, match="ipc"):
        second.recv_fds(1, 1)
    first.close()
    second.close()
    turns()


def test_send_fds_waits_for_room(ends):
    first, second = ends
    first.high_water = 1 << 30
    size = 0
    while first.write(b"x" * 65536):
        size += 65536
    size += 65536
    fd = os.open("/dev/null", os.O_RDONLY)
    task = spawn(first.send_fds, b"!" * 300_000, [fd])
    settle()
    assert task.is_alive()
    got, fds = 0, []
    while got < size + 300_000:
        data, more = second.recv_fds(65536, 1)
        got += len(data)
        fds += more
    task.join()
    assert len(fds) == 1
    os.close(fd)
    os.close(fds[0])


def test_bad_arguments_of_send_and_recv_fds(ends):
    first, second = ends
    for data, fds, error in (
        (b"x", [], ValueError),
        (b"", [0], ValueError),
        (b"x", [0] * 65, ValueError),
        (b"x", 5, TypeError),
        (b"x", ["text"], TypeError),
        ("text", [0], TypeError),
        (b"x", [9999], PipeError),
    ):
        with pytest.raises(error):
            first.send_fds(data, fds)
    for n, most in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(ValueError):
            second.recv_fds(n, most)


def test_a_server_hands_its_listening_socket_to_another_process():
    out = output_of("""
        import os, sys, tempfile, evergreen
        from evergreen.io.pipe import PipeServer, PipeClient, PipeStream
        from evergreen.io.tcp import TCPServer, TCPClient
        first, second = PipeStream.pair(ipc=True)
        server = TCPServer(lambda c: c.write(b"parent"))
        server.bind(("127.0.0.1", 0))
        address = server.sockname
        pid = os.fork()
        if not pid:
            first.close(); server.close()
            data, (fd,) = second.recv_fds(1, 1)
            heir = TCPServer(lambda c: c.write(b"child"))
            heir.open(fd)
            heir.serve()
        second.close()
        first.send_fds(b"!", [server])
        server.close()
        with TCPClient() as client:
            client.connect(address)
            print(client.read())
        os.kill(pid, 9); os.waitpid(pid, 0)
        first.close()
    """)
    assert out == "b'child'\n"


def test_peers_of_the_socket_module(serving):
    """The other side is any program."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(serving.pipename)
        sock.send(b"hello")
        turns()
        assert sock.recv(10) == b"hello"
