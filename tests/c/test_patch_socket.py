"""patch_socket.c: the socket methods and the resolver let other tasks run."""

import _socket
import array
import ctypes
import errno
import fcntl
import gc
import io
import os
import socket
import struct
import sys
import termios
import threading
import time
import tracemalloc

import pytest
from helpers import in_thread, parked, refusal, settle

import evergreen
from evergreen import TaskExit, _policy, patcher, spawn

LOCALHOST = "127.0.0.1"


@pytest.fixture
def patched(hub):
    with patcher.patched(socket=True):
        yield hub


@pytest.fixture
def pair(patched):
    a, b = socket.socketpair()
    with a, b:
        yield a, b


@pytest.fixture
def listener(patched):
    with socket.create_server((LOCALHOST, 0)) as server:
        yield server


def tcp_pair(listener):
    """Two ends of a connection; both socket objects were never anything else."""
    client = socket.socket()
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    return client, server


def is_blocking(sock):
    return not fcntl.fcntl(sock.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK


def fill(sock):
    """Send until the kernel takes no more; return how much that was."""
    sock.setblocking(False)
    sent = 0
    try:
        while True:
            sent += sock.send(bytes(65536))
    except BlockingIOError:
        sock.setblocking(True)
        return sent


# ---- receiving -------------------------------------------------------------------------


def test_recv_lets_other_tasks_run_until_data_comes(pair):
    a, b = pair
    task = parked(a.recv, 10)
    b.send(b"hello")
    assert task.result() == b"hello"


def test_recv_is_woken_by_a_native_thread(pair):
    a, b = pair
    task = parked(a.recv, 10)
    in_thread(b.send, b"hello")
    assert task.result() == b"hello"


def test_recv_returns_what_is_there_without_letting_others_run(pair):
    a, b = pair
    b.send(b"hello")
    ran = []
    evergreen.sleep(0)  # so that this task's turn has just begun
    task = spawn(ran.append, 1)
    assert a.recv(3) == b"hel"
    assert a.recv(10) == b"lo"
    assert not ran
    task.join()


def test_recv_returns_nothing_at_the_end(pair):
    a, b = pair
    task = parked(a.recv, 10)
    b.close()
    assert task.result() == b""
    assert a.recv(10) == b""


def test_recv_of_zero_bytes_waits_for_nothing(pair):
    assert pair[0].recv(0) == b""


def test_recv_honours_the_timeout(pair):
    a, _ = pair
    a.settimeout(0.002)
    assert refusal(a.recv, 10) == (TimeoutError, "timed out")


def test_each_recv_has_the_whole_timeout(pair):
    a, b = pair
    a.settimeout(30)
    for _ in range(3):
        task = parked(a.recv, 10)
        assert 29 < task.waiting[2] - evergreen.current.loop.time() <= 30.001  # a whole millisecond
        b.send(b"x")
        assert task.result() == b"x"


def test_recv_on_a_non_blocking_socket_raises_at_once(pair):
    a, _ = pair
    a.setblocking(False)
    assert refusal(a.recv, 10)[0] is BlockingIOError


def test_recv_raises_at_once_where_the_program_made_the_descriptor_non_blocking(pair):
    a, _ = pair
    os.set_blocking(a.fileno(), False)
    assert refusal(a.recv, 10)[0] is BlockingIOError
    assert not is_blocking(a)


def test_a_stream_of_a_mebibyte_arrives_whole(pair):
    a, b = pair
    data = os.urandom(1 << 20)
    task = spawn(b.sendall, data)
    received = bytearray()
    while len(received) < len(data):
        received += a.recv(1 << 18)
    assert received == data
    task.join()


def test_a_datagram_is_received_whole_or_cut_as_the_size_says(patched):
    a, b = socket.socketpair(type=socket.SOCK_DGRAM)
    with a, b:
        for size in (1, 1000, 60000, 65536, 100000):
            data = os.urandom(size)
            task = parked(a.recv, 200000)
            b.send(data)
            assert task.result() == data
            b.send(data)
            assert a.recv(10) == data[:10]


DONTWAIT = socket.MSG_DONTWAIT
LOCAL = socket.AF_UNIX, socket.SOCK_DGRAM


@pytest.mark.parametrize(
    "name, args",
    [
        ("recv", (1, DONTWAIT)),
        ("recv", (1, DONTWAIT | socket.MSG_PEEK)),
        ("recv", (1, DONTWAIT | socket.MSG_WAITALL)),
        ("recv_into", (bytearray(1), 1, DONTWAIT)),
        ("recvfrom", (1, DONTWAIT)),
        ("recvfrom", (1, DONTWAIT | socket.MSG_WAITALL)),
        ("recvfrom_into", (bytearray(1), 1, DONTWAIT)),
        ("recvmsg", (1, 0, DONTWAIT)),
        ("recvmsg_into", ([bytearray(1)], 0, DONTWAIT)),
    ],
)
def test_a_receiver_that_says_dontwait_does_not_wait(pair, name, args):
    a, b = pair
    with evergreen.fail_after(10):
        assert refusal(getattr(a, name), *args)[0] is BlockingIOError
    b.send(b"x")
    assert getattr(a, name)(*args)


@pytest.mark.parametrize(
    "name, args",
    [
        ("send", (b"x", DONTWAIT)),
        ("sendall", (b"x", DONTWAIT)),
        ("sendmsg", ([b"x"], (), DONTWAIT)),
    ],
)
def test_a_sender_that_says_dontwait_does_not_wait(pair, name, args):
    a, _ = pair
    fill(a)
    with evergreen.fail_after(10):
        assert refusal(getattr(a, name), *args)[0] is BlockingIOError


def test_a_datagram_that_says_dontwait_does_not_wait_for_room(patched, tmp_path):
    with socket.socket(*LOCAL) as server, socket.socket(*LOCAL) as client:
        server.bind(str(tmp_path / "server"))
        with evergreen.fail_after(10), pytest.raises(BlockingIOError):
            while True:
                client.sendto(b"x", DONTWAIT, server.getsockname())


@pytest.mark.parametrize("name", ["send", "sendmsg"])
def test_a_stream_takes_what_fits_of_a_sender_that_says_dontwait(pair, name):
    a, b = pair
    data = bytes(1 << 22)
    with evergreen.fail_after(10):
        sent = a.send(data, DONTWAIT) if name == "send" else a.sendmsg([data], (), DONTWAIT)
    assert 0 < sent < len(data)


def test_dontwait_waits_where_the_socket_has_a_timeout(pair):
    a, b = pair
    a.settimeout(30)
    task = parked(a.recv, 1, DONTWAIT)
    b.send(b"x")
    assert task.result() == b"x"


def test_recv_with_msg_peek_leaves_the_data(pair):
    a, b = pair
    task = parked(a.recv, 10, socket.MSG_PEEK)
    b.send(b"hello")
    assert task.result() == b"hello"
    assert a.recv(10) == b"hello"


@pytest.mark.parametrize("into", [False, True])
def test_recv_with_msg_waitall_waits_for_all_of_it(pair, into):
    a, b = pair
    buffer = bytearray(6)
    receive = (
        (lambda: a.recv_into(buffer, 0, socket.MSG_WAITALL))
        if into
        else lambda: a.recv(6, socket.MSG_WAITALL)
    )
    task = parked(receive)
    for part in (b"ab", b"cd"):
        b.send(part)
        settle()
        evergreen.sleep(0.001)
        assert task.is_alive()
    b.send(b"efgh")
    assert task.result() == (6 if into else b"abcdef")
    assert a.recv(10) == b"gh"


def test_recv_with_msg_waitall_returns_less_at_the_end(pair):
    a, b = pair
    task = parked(a.recv, 6, socket.MSG_WAITALL)
    b.send(b"abc")
    b.close()
    assert task.result() == b"abc"


def test_urgent_data_is_received_out_of_band(listener):
    client, server = tcp_pair(listener)
    with client, server:
        client.send(b"x")
        client.send(b"!", socket.MSG_OOB)
        assert server.recv(10) == b"x"
        assert server.recv(1, socket.MSG_OOB) == b"!"


@pytest.mark.parametrize("kwargs", [{}, {"nbytes": 3}, {"flags": socket.MSG_PEEK}, {"nbytes": 3, "flags": 0}])
def test_recv_into_fills_the_buffer(pair, kwargs):
    a, b = pair
    buffer = bytearray(10)
    task = parked(lambda: a.recv_into(buffer, **kwargs))
    b.send(b"hello")
    size = kwargs.get("nbytes", 5)
    assert task.result() == size
    assert buffer[:size] == b"hello"[:size]


def test_recv_into_takes_its_buffer_by_name_and_any_that_can_be_written(pair):
    a, b = pair
    numbers = array.array("H", [0, 0])
    b.send(b"\1\0\2\0\3")
    assert a.recv_into(buffer=numbers) == 4
    assert numbers.tolist() == [1, 2]
    view = memoryview(bytearray(4))
    assert a.recv_into(view[1:2]) == 1
    assert view.tolist() == [0, 3, 0, 0]


def test_a_buffer_cannot_be_resized_while_recv_into_waits(pair):
    a, b = pair
    buffer = bytearray(10)
    task = parked(a.recv_into, buffer)
    with pytest.raises(BufferError):
        buffer.extend(b"more")
    b.send(b"x")
    task.join()
    buffer.extend(b"more")


def test_a_task_that_waits_for_data_holds_no_buffer(pair):
    a, b = pair
    tracemalloc.start()
    try:
        task = parked(a.recv, 1 << 24)
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
    b.send(b"x")
    assert task.result() == b"x"


BAD_CALLS = [
    ("recv", ()),
    ("recv", (-1,)),
    ("recv", (1.5,)),
    ("recv", (10**30,)),
    ("recv", (1, "x")),
    ("recv", (1, 2**40)),
    ("recv", (1, 2, 3)),
    ("recv_into", ()),
    ("recv_into", (b"constant",)),
    ("recv_into", ("text",)),
    ("recv_into", (bytearray(3), 4)),
    ("recv_into", (bytearray(3), -1)),
    ("recv_into", (bytearray(3), 1, 1, 1)),
    ("recvfrom", (-1,)),
    ("recvfrom", (1, "x")),
    ("recvfrom_into", (bytearray(3), 4)),
    ("recvmsg", (-1,)),
    ("recvmsg", (1, -1)),
    ("recvmsg_into", (1,)),
    ("recvmsg_into", ([b"constant"],)),
    ("send", ()),
    ("send", ("text",)),
    ("send", (b"x", "y")),
    ("sendall", ("text",)),
    ("sendall", (b"x", 1, 2)),
    ("sendto", (b"x",)),
    ("sendto", ("text", "address")),
    ("sendto", (b"x", 1, 2, 3)),
    ("sendmsg", (1,)),
    ("sendmsg", (["text"],)),
    ("sendmsg", ([b"x"], 1)),
    ("sendmsg", ([b"x"], [1])),
    ("_accept", (1,)),
    ("_accept", ()),
    ("connect", ()),
    ("connect", (1,)),
    ("connect", (b"\0" * 500,)),
    ("connect_ex", (("a", "b"),)),
    ("close", (1,)),
    ("detach", (1,)),
]


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
@pytest.mark.parametrize(("name", "args"), BAD_CALLS)
def test_what_the_original_refuses_is_refused_in_its_own_words(hub, name, args, family):
    with socket.socket(family) as sock:
        natively = refusal(getattr(sock, name), *args)
        with patcher.patched(socket=True):
            assert refusal(getattr(sock, name), *args) == natively


@pytest.mark.parametrize("name", ["recv_into", "recvfrom_into"])
@pytest.mark.parametrize("kwargs", [{"size": 1}, {"buffer": bytearray(1)}, {"nbytes": 10}])
def test_bad_keywords_are_refused_in_the_originals_words(hub, name, kwargs):
    with socket.socket() as sock:
        natively = refusal(getattr(sock, name), bytearray(1), **kwargs)
        with patcher.patched(socket=True):
            assert refusal(getattr(sock, name), bytearray(1), **kwargs) == natively


UNCONNECTED = [
    ("recv", (1,)),
    ("recv_into", (bytearray(1),)),
    ("recvfrom", (1,)),
    ("recvmsg", (1,)),
    ("send", (b"x",)),
    ("sendall", (b"x",)),
    ("sendmsg", ([b"x"],)),
    ("_accept", ()),
]


@pytest.mark.parametrize("timeout", [None, 5])
@pytest.mark.parametrize(("name", "args"), UNCONNECTED)
def test_an_unconnected_socket_raises_as_the_original(hub, name, args, timeout):
    with socket.socket() as sock:
        sock.settimeout(timeout)
        natively = refusal(getattr(sock, name), *args)
        with patcher.patched(socket=True):
            assert refusal(getattr(sock, name), *args) == natively


@pytest.mark.parametrize(("name", "args"), UNCONNECTED[:-1])
def test_a_listener_has_nothing_to_receive_or_send(hub, name, args):
    with socket.create_server((LOCALHOST, 0)) as sock:
        natively = refusal(getattr(sock, name), *args)
        with patcher.patched(socket=True):
            assert refusal(getattr(sock, name), *args) == natively


@pytest.mark.parametrize(("name", "args"), UNCONNECTED)
def test_a_closed_socket_is_a_bad_descriptor(patched, name, args):
    sock = socket.socket()
    sock.close()
    with pytest.raises(OSError) as caught:
        getattr(sock, name)(*args)
    assert caught.value.errno == errno.EBADF


# ---- waiting that ends otherwise -----------------------------------------------------------


def close_number(sock):
    _socket.close(sock.detach())


@pytest.mark.parametrize("close", [socket.socket.close, socket.socket.detach, close_number])
@pytest.mark.parametrize("thread", [False, True])
def test_closing_wakes_who_waits_with_a_bad_descriptor(patched, close, thread):
    a, b = socket.socketpair()
    number = a.fileno()
    tasks = [parked(a.recv, 10), parked(a.recvfrom, 10), parked(a.recv_into, bytearray(10))]
    in_thread(close, a) if thread else close(a)
    for task in tasks:
        with pytest.raises(OSError) as caught:
            task.result()
        assert caught.value.errno == errno.EBADF
    if close is socket.socket.detach:
        os.close(number)
    b.close()


def test_a_number_that_is_used_again_is_watched_afresh(listener):
    numbers = set()
    for _ in range(3):
        client, server = tcp_pair(listener)
        with client, server:
            numbers.add(client.fileno())
            task = parked(client.recv, 10)
            server.send(b"x")
            assert task.result() == b"x"
    assert len(numbers) == 1


def test_a_number_closed_behind_its_socket_is_left_to_the_next(listener):
    clients = []
    for _ in range(3):
        client, server = tcp_pair(listener)
        clients.append(client)
        task = parked(client.recv, 10)
        server.send(b"x")
        assert task.result(10) == b"x"
        os.close(client.fileno())  # natively: group os is not patched
        server.close()
    assert len({client.detach() for client in clients}) == 1


class WithDel(socket.socket):
    def __del__(self):
        pass


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("made", [socket.socket, type("Sub", (socket.socket,), {}), WithDel])
def test_a_socket_that_nobody_closed_leaves_its_number_to_the_next(listener, made):
    for _ in range(3):
        client = made()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        task = parked(client.recv, 10)
        server.send(b"x")
        assert task.result() == b"x"
        server.close()
        number = client.fileno()
        del task, client
        gc.collect()
        if made is WithDel:
            os.close(number)  # CPython does not, once somebody else's __del__ stands there


def test_a_socket_closed_while_unpatched_leaves_its_number_to_the_next(hub):
    with socket.create_server((LOCALHOST, 0)) as listener:
        for _ in range(3):
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
            with patcher.patched(socket=True):
                task = parked(client.recv, 10)
                server.send(b"x")
                assert task.result() == b"x"
            client.close()
            server.close()


def test_a_killed_task_takes_no_data(pair):
    a, b = pair
    task = parked(a.recv, 10)
    b.send(b"hello")
    task.kill()
    task.join()
    with pytest.raises(TaskExit):
        task.result()
    assert a.recv(10) == b"hello"


def test_everybody_who_waits_for_one_socket_gets_a_share(pair):
    a, b = pair
    tasks = [parked(a.recv, 1) for _ in range(3)]
    b.send(b"x")
    in_thread(b.send, b"yz")
    assert sorted(task.result() for task in tasks) == [b"x", b"y", b"z"]


def test_two_tasks_use_the_two_directions_of_one_socket(pair):
    a, b = pair
    filled = fill(a)
    writer, reader = parked(a.send, b"more"), parked(a.recv, 10)
    b.send(b"hello")
    assert reader.result() == b"hello"
    assert writer.is_alive()
    received = 0
    while received < filled + 4:
        received += len(b.recv(1 << 20))
    assert writer.result() == 4


def test_a_callback_may_receive_what_is_there_but_not_wait(patched, pair):
    a, b = pair
    outcome = []

    def callback():
        outcome.append(a.recv(10))
        outcome.append(refusal(a.recv, 10))

    b.send(b"x")
    patched.call_soon(callback)
    settle()
    assert outcome[0] == b"x"
    assert outcome[1][0] is RuntimeError


def test_a_socket_that_is_always_ready_does_not_starve_other_tasks(pair):
    a, b = pair
    b.sendall(bytes(2000))
    turns = []

    def other():
        while True:
            turns.append(1)
            evergreen.sleep(0)

    task = spawn(other)
    for _ in range(2000):
        a.recv(1)
    assert len(turns) >= 2000 // 64
    task.kill()
    task.join()


def test_who_polls_a_non_blocking_socket_lets_others_run(pair):
    a, b = pair
    a.setblocking(False)
    task, received, end = spawn(lambda: (evergreen.sleep(0.001), b.send(b"x"))), b"", time.monotonic() + 10
    while not received:
        try:
            received = a.recv(1)
        except BlockingIOError:
            assert time.monotonic() < end
    task.join()


def test_a_native_thread_blocks_natively(pair):
    a, b = pair
    answers = []
    thread = threading.Thread(target=lambda: answers.append(a.recv(10)))
    thread.start()
    b.send(b"x")
    thread.join(30)
    assert answers == [b"x"]


# ---- sending ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["send", "sendall", "sendmsg"])
def test_a_blocking_stream_takes_all_that_it_is_given(pair, name):
    a, b = pair
    data = os.urandom(1 << 21)
    given = [data[:100], data[100:]] if name == "sendmsg" else data
    received = bytearray()

    def reader():
        while len(received) < len(data):
            received.extend(b.recv(1 << 16))

    thread = threading.Thread(target=reader)
    task = parked(getattr(a, name), given)
    thread.start()
    assert task.result() == (None if name == "sendall" else len(data))
    thread.join()
    assert received == data


def test_send_with_a_timeout_takes_what_fits(pair):
    a, _ = pair
    a.settimeout(30)
    assert 0 < a.send(bytes(1 << 22)) < 1 << 22


def test_sendall_has_one_timeout_for_all_of_it(pair):
    a, _ = pair
    a.settimeout(0.002)
    assert refusal(a.sendall, bytes(1 << 22)) == (TimeoutError, "timed out")


def test_sending_to_a_peer_that_is_gone_is_a_broken_pipe(pair):
    a, b = pair
    b.close()
    for name in ("send", "sendall"):
        with pytest.raises(BrokenPipeError):
            getattr(a, name)(b"x")


def test_sendall_of_nothing_sends_nothing(pair):
    a, b = pair
    assert a.sendall(b"") is None
    a.send(b"x")
    assert b.recv(10) == b"x"


def test_sendall_takes_any_bytes_and_flags(pair):
    a, b = pair
    a.sendall(array.array("H", [1, 2]), socket.MSG_NOSIGNAL)
    assert b.recv(10) == b"\1\0\2\0"


# ---- datagrams and messages --------------------------------------------------------------------


@pytest.fixture
def udp(patched):
    with socket.socket(type=socket.SOCK_DGRAM) as a, socket.socket(type=socket.SOCK_DGRAM) as b:
        a.bind((LOCALHOST, 0))
        b.bind((LOCALHOST, 0))
        yield a, b


@pytest.mark.parametrize("timeout", [None, 30])
def test_recvfrom_waits_for_a_datagram_and_says_who_sent_it(udp, timeout):
    a, b = udp
    a.settimeout(timeout)
    task = parked(a.recvfrom, 100)
    b.sendto(b"hello", a.getsockname())
    assert task.result() == (b"hello", b.getsockname())
    assert a.gettimeout() == timeout


@pytest.mark.parametrize("timeout", [None, 30])
def test_recvfrom_into_waits_for_a_datagram(udp, timeout):
    a, b = udp
    a.settimeout(timeout)
    buffer = bytearray(10)
    task = parked(lambda: a.recvfrom_into(buffer, nbytes=5))
    b.sendto(b"hello, you", 0, a.getsockname())
    assert task.result() == (5, b.getsockname())
    assert buffer == b"hello\0\0\0\0\0"


@pytest.mark.parametrize("name", ["recvfrom", "recvmsg"])
def test_waiting_for_a_datagram_honours_the_timeout(udp, name):
    a, _ = udp
    a.settimeout(0.002)
    assert refusal(getattr(a, name), 10) == (TimeoutError, "timed out")
    assert a.gettimeout() == 0.002


def test_recvmsg_receives_a_descriptor(pair):
    a, b = pair
    task = parked(a.recvmsg, 10, socket.CMSG_SPACE(4))
    with open(os.devnull) as file:
        b.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))])
    data, ancillary, _, _ = task.result()
    assert data == b"x"
    number = array.array("i", ancillary[0][2])[0]
    assert os.path.sameopenfile(number, number)
    os.close(number)


def test_recvmsg_into_takes_buffers_from_an_iterator_although_it_waits(pair):
    a, b = pair
    buffers = [bytearray(2), bytearray(3)]
    task = parked(a.recvmsg_into, iter(buffers))
    b.send(b"hello")
    assert task.result()[0] == 5
    assert buffers == [b"he", b"llo"]


def test_sendmsg_takes_buffers_from_an_iterator_although_it_waits(pair):
    a, b = pair
    filled = fill(a)
    task = parked(a.sendmsg, iter([b"he", b"llo"]))
    received = 0
    while received < filled:
        received += len(b.recv(1 << 20))
    assert task.result() == 5
    assert b.recv(10) == b"hello"


@pytest.mark.parametrize("connected", [False, True])
def test_a_local_datagram_waits_until_its_receiver_has_room(patched, tmp_path, connected):
    path = str(tmp_path / "receiver")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as a,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as b,
    ):
        b.bind(path)
        if connected:
            a.connect(path)
        send = a.send if connected else lambda data: a.sendto(data, path)
        a.setblocking(False)
        queued = 0
        with pytest.raises(BlockingIOError):
            while True:
                send(b"%d" % queued)
                queued += 1
        a.setblocking(True)
        task = parked(send, b"last")
        assert b.recv(10) == b"0"
        assert task.result() == 4
        for number in range(1, queued):
            assert b.recv(10) == b"%d" % number
        assert b.recv(10) == b"last"


def test_an_error_that_is_queued_is_raised(udp):
    a, b = udp
    a.connect(b.getsockname())
    b.close()
    a.send(b"x")
    assert refusal(a.recvfrom, 10)[0] is ConnectionRefusedError


def test_sendto_looks_up_names_in_a_thread(udp, lookups):
    a, b = udp
    a.sendto(b"x", ("localhost", b.getsockname()[1]))
    assert b.recvfrom(10) == (b"x", a.getsockname())
    assert lookups == [b"localhost"]


# ---- accept --------------------------------------------------------------------------------------


def test_accept_lets_other_tasks_run_until_somebody_connects(listener):
    task = parked(listener.accept)
    with in_thread(socket.create_connection, listener.getsockname()) as client:
        server, address = task.result()
        with server:
            assert address == client.getsockname()
            assert server.gettimeout() is None
            assert is_blocking(server)
            assert is_blocking(listener)


def test_accept_honours_the_timeout(listener):
    listener.settimeout(0.002)
    assert refusal(listener.accept) == (TimeoutError, "timed out")
    listener.settimeout(30)
    task = parked(listener.accept)
    with socket.create_connection(listener.getsockname()):
        task.result()[0].close()
    assert listener.gettimeout() == 30


def test_each_connection_goes_to_one_of_the_tasks_that_accept(listener):
    tasks = [parked(listener.accept) for _ in range(10)]
    clients = [socket.create_connection(listener.getsockname()) for _ in range(10)]
    accepted = [task.result() for task in tasks]
    assert {address for _, address in accepted} == {client.getsockname() for client in clients}
    for sock in clients + [server for server, _ in accepted]:
        sock.close()


def test_connections_that_came_at_once_are_all_accepted(listener):
    clients = [in_thread(socket.create_connection, listener.getsockname()) for _ in range(10)]
    for client in clients:
        server, _ = listener.accept()
        server.close()
        client.close()


def test_a_listener_closed_in_another_task_ends_accept(listener):
    task = parked(listener.accept)
    listener.close()
    with pytest.raises(OSError) as caught:
        task.result()
    assert caught.value.errno == errno.EBADF


def test_accept_waits_on_although_somebody_else_was_faster(listener):
    with listener.dup() as shared:
        task = parked(listener.accept)
        with in_thread(socket.create_connection, listener.getsockname()):
            in_thread(shared.accept)[0].close()  # before this thread's loop has looked
            settle()
            evergreen.sleep(0.001)
            assert task.is_alive()
            with in_thread(socket.create_connection, listener.getsockname()) as client:
                server, address = task.result()
                server.close()
                assert address == client.getsockname()


# ---- connect ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 30])
def test_connect_leaves_the_socket_as_it_was(listener, timeout):
    with socket.socket() as client:
        client.settimeout(timeout)
        client.connect(listener.getsockname())
        assert client.getpeername() == listener.getsockname()
        assert client.gettimeout() == timeout
        assert is_blocking(client) == (timeout is None)


def test_connect_ex_returns_zero(listener):
    with socket.socket() as client:
        assert client.connect_ex(listener.getsockname()) == 0


@pytest.fixture
def nobody():
    """An address where nobody listens."""
    with socket.socket() as sock:
        sock.bind((LOCALHOST, 0))
        yield sock.getsockname()


@pytest.mark.parametrize("timeout", [None, 30])
def test_connecting_where_nobody_listens_is_refused(patched, nobody, timeout):
    with socket.socket() as client:
        client.settimeout(timeout)
        assert refusal(client.connect, nobody)[0] is ConnectionRefusedError
    with socket.socket() as client:
        client.settimeout(timeout)
        assert client.connect_ex(nobody) == errno.ECONNREFUSED


def test_after_a_refusal_a_blocking_socket_can_try_again(patched, nobody, listener):
    with socket.socket() as client:
        for _ in range(2):
            assert client.connect_ex(nobody) == errno.ECONNREFUSED
        client.connect(listener.getsockname())
        assert client.getpeername() == listener.getsockname()


@pytest.fixture
def deaf(patched):
    """The address of a listener that lets no more connections in."""
    with socket.socket() as server:
        server.bind((LOCALHOST, 0))
        server.listen(0)
        with socket.socket() as first, socket.socket() as second:
            for client in (first, second):
                client.setblocking(False)
                client.connect_ex(server.getsockname())
            yield server.getsockname()


def test_connect_honours_the_timeout(deaf):
    with socket.socket() as client:
        client.settimeout(0.002)
        assert refusal(client.connect, deaf) == (TimeoutError, "timed out")
    with socket.socket() as client:
        client.settimeout(0.002)
        assert client.connect_ex(deaf) == errno.EAGAIN


def test_other_tasks_run_while_one_connects_and_it_can_be_killed(deaf):
    with socket.socket() as client:
        task = parked(client.connect, deaf)
        assert is_blocking(client)
        task.kill()
        task.join()


def test_closing_ends_connect(deaf):
    client = socket.socket()
    task = parked(client.connect, deaf)
    client.close()
    with pytest.raises(OSError) as caught:
        task.result()
    assert caught.value.errno == errno.EBADF


def test_a_local_connect_waits_until_its_listener_has_room(patched, tmp_path):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(str(tmp_path / "listener"))
        server.listen(0)
        first.connect(server.getsockname())
        with socket.socket(socket.AF_UNIX) as second:
            task = parked(second.connect, server.getsockname())
            server.accept()[0].close()
            task.result()
            server.accept()[0].close()


def test_connecting_twice_is_an_error(listener):
    with socket.create_connection(listener.getsockname()) as client:
        with pytest.raises(OSError) as caught:
            client.connect(listener.getsockname())
        assert caught.value.errno == errno.EISCONN


def test_connect_looks_up_names_in_a_thread(listener, lookups):
    port = listener.getsockname()[1]
    with socket.socket() as client:
        client.connect(("localhost", port))
        assert client.getpeername() == (LOCALHOST, port)
    assert lookups == [b"localhost"]


def test_bind_looks_up_names_in_a_thread(patched, lookups):
    with socket.socket() as server:
        others = spawn(server.gettimeout)
        server.bind(("localhost", 0))
        assert not others.is_alive()
        assert server.getsockname()[0] == LOCALHOST
    with socket.socket() as server, pytest.raises(socket.gaierror):
        server.bind(("nowhere.invalid", 0))
    assert lookups == [b"localhost", b"nowhere.invalid"]


def test_bind_in_a_callback_looks_up_names_there(patched, lookups):
    with socket.socket() as server:
        patched.call_soon(server.bind, ("localhost", 0))
        settle()
        assert server.getsockname()[0] == LOCALHOST
    assert lookups == []


# ---- names ---------------------------------------------------------------------------------------------


@pytest.fixture
def lookups(monkeypatch):
    """The names that were looked up in a native thread."""
    names = []
    offload = _policy.offload_name_lookup

    def recording(function, args, kwargs):
        names.append(kwargs.get("host", args[0] if args else None))
        return offload(function, args, kwargs)

    monkeypatch.setattr(_policy, "offload_name_lookup", recording)
    return names


LOOKUPS = [
    ("getaddrinfo", ("localhost", 80)),
    ("getaddrinfo", (b"localhost", "80", socket.AF_INET, socket.SOCK_STREAM)),
    ("getaddrinfo", (LOCALHOST, "http")),
    ("gethostbyname", ("localhost",)),
    ("gethostbyname_ex", ("localhost",)),
    ("gethostbyaddr", (LOCALHOST,)),
    ("getnameinfo", ((LOCALHOST, 80), 0)),
]


@pytest.mark.parametrize(("name", "args"), LOOKUPS)
def test_names_are_looked_up_in_a_thread_while_other_tasks_run(patched, lookups, name, args):
    natively = in_thread(getattr(_socket, name), *args)
    ran = []
    other = spawn(ran.append, 1)
    assert getattr(_socket, name)(*args) == natively
    assert ran == [1]
    assert len(lookups) == 1
    other.join()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("getaddrinfo", (LOCALHOST, 80)),
        ("getaddrinfo", ("::1", "80")),
        ("getaddrinfo", ("fe80::1%lo", None)),
        ("getaddrinfo", (None, 80)),
        ("gethostbyname", (LOCALHOST,)),
        ("gethostbyname", ("",)),
        ("getnameinfo", ((LOCALHOST, 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)),
    ],
)
def test_numbers_never_go_to_a_thread(patched, lookups, name, args):
    getattr(_socket, name)(*args)
    assert lookups == []


def test_keywords_of_getaddrinfo_go_along(patched, lookups):
    asked = {"host": "localhost", "port": 80, "type": socket.SOCK_STREAM, "family": socket.AF_INET}
    natively = in_thread(lambda: _socket.getaddrinfo(**asked))
    assert _socket.getaddrinfo(**asked) == natively
    assert lookups == ["localhost"]


def test_a_name_that_does_not_exist_is_a_gaierror(patched, lookups):
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("does-not-exist.invalid", 80)
    with socket.socket() as sock, pytest.raises(socket.gaierror):
        sock.connect(("does-not-exist.invalid", 80))
    assert len(lookups) == 2


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("getaddrinfo", ()),
        ("getaddrinfo", (1, 2)),
        ("getaddrinfo", ("a" * 100, 80)),
        ("gethostbyname", (1,)),
        ("gethostbyname", ("a\0b",)),
        ("gethostbyaddr", (1,)),
        ("getnameinfo", (1, 0)),
        ("getnameinfo", ((LOCALHOST, 80), "x")),
    ],
)
def test_the_resolver_refuses_in_its_own_words(hub, name, args):
    natively = refusal(getattr(_socket, name), *args)
    with patcher.patched(socket=True):
        assert refusal(getattr(_socket, name), *args) == natively


def test_create_connection_connects_by_name(listener):
    with socket.create_connection(("localhost", listener.getsockname()[1]), timeout=30) as client:
        assert client.getpeername() == listener.getsockname()


# ---- all of it -------------------------------------------------------------------------


def test_a_hundred_conversations_with_a_native_server_at_once(patched):
    server = socket.create_server((LOCALHOST, 0), backlog=100)

    def serve():
        sockets = [server.accept()[0] for _ in range(100)]
        for sock in sockets:
            for _ in range(3):
                sock.sendall(sock.recv(100).upper())
        for sock in sockets:
            sock.close()

    def converse(number):
        with socket.create_connection(server.getsockname()) as client:
            for turn in range(3):
                text = f"client {number}, turn {turn}"
                client.sendall(text.encode())
                assert client.recv(100) == text.upper().encode()

    thread = threading.Thread(target=serve)
    thread.start()
    for task in [spawn(converse, number) for number in range(100)]:
        task.result()
    thread.join()
    server.close()


# ---- SO_RCVTIMEO, SO_SNDTIMEO, SO_RCVLOWAT ----------------------------------------------------------


LIMIT = struct.pack("ll", 0, 20_000)


def limit(sock, *, by_c=False):
    libc = ctypes.CDLL(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        if by_c:
            assert libc.setsockopt(sock.fileno(), socket.SOL_SOCKET, option, LIMIT, len(LIMIT)) == 0
        else:
            sock.setsockopt(socket.SOL_SOCKET, option, LIMIT)


def limited_pair(**options):
    a, b = socket.socketpair()
    limit(a, **options)
    return a, b


def send_file(sock):
    with open(sys.executable, "rb") as file:
        while True:
            os.sendfile(sock.fileno(), file.fileno(), 0, 10_000_000)


def some_then(call, *args):
    def run(a, b):
        b.send(b"123")
        return call(a, *args)

    return run


FULL = bytes(5_000_000)
LIMITED = {
    "recv": lambda a, b: a.recv(1),
    "recv_into": lambda a, b: a.recv_into(bytearray(1)),
    "recvfrom": lambda a, b: a.recvfrom(1),
    "recvfrom_into": lambda a, b: a.recvfrom_into(bytearray(1)),
    "recvmsg": lambda a, b: a.recvmsg(1),
    "recvmsg_into": lambda a, b: a.recvmsg_into([bytearray(1)]),
    "recv all": some_then(lambda a: a.recv(10, socket.MSG_WAITALL)),
    "recv_into all": some_then(lambda a: a.recv_into(bytearray(10), 10, socket.MSG_WAITALL)),
    "recvmsg all": some_then(lambda a: a.recvmsg(10, 0, socket.MSG_WAITALL)),
    "send": lambda a, b: a.send(FULL) > 0 and a.send(FULL),
    "sendall": lambda a, b: a.sendall(FULL),
    "sendmsg": lambda a, b: a.sendmsg([FULL]) > 0 and a.sendmsg([FULL]),
    "os.read": lambda a, b: os.read(a.fileno(), 1),
    "os.readv": lambda a, b: os.readv(a.fileno(), [bytearray(1)]),
    "os.write": lambda a, b: os.write(a.fileno(), FULL) > 0 and os.write(a.fileno(), FULL),
    "os.writev": lambda a, b: os.writev(a.fileno(), [FULL]) > 0 and os.writev(a.fileno(), [FULL]),
    "os.sendfile": lambda a, b: send_file(a),
    "FileIO.read": lambda a, b: io.FileIO(a.fileno(), "r", closefd=False).read(1),
    "FileIO.readall": some_then(lambda a: io.FileIO(a.fileno(), "r", closefd=False).readall()),
    "makefile": lambda a, b: a.makefile("rb").read(1),
    "low mark": some_then(lambda a: (a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 5), a.recv(9))[1]),
    "low mark that is met": some_then(
        lambda a: (a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 3), a.recv(9))[1]
    ),
}


def outcome(call, *args):
    before = time.monotonic()
    try:
        result = call(*args)
    except OSError as exc:
        result = type(exc), exc.errno
    return result, time.monotonic() - before >= 0.02


@pytest.mark.parametrize("by_c", [False, True])
@pytest.mark.parametrize("call", LIMITED.values(), ids=LIMITED)
def test_a_sockets_own_limits_end_a_wait_as_the_kernel_does(hub, call, by_c):
    pairs = [limited_pair(by_c=by_c) for _ in range(2)]
    with patcher.patched(socket=True, os=True):
        waiting = spawn(evergreen.sleep, 60)
        expected = in_thread(outcome, call, *pairs[0])
        assert spawn(outcome, call, *pairs[1]).result(10) == expected
        waiting.kill()
    for sock in (*pairs[0], *pairs[1]):
        sock.close()


def test_accept_and_what_it_accepts_have_their_listeners_limits(listener):
    limit(listener)
    assert spawn(outcome, listener.accept).result(10) == ((BlockingIOError, errno.EAGAIN), True)
    with socket.create_connection(listener.getsockname()):
        accepted = listener.accept()[0]
        assert spawn(outcome, accepted.recv, 1).result(10) == ((BlockingIOError, errno.EAGAIN), True)
        accepted.close()


def test_a_limit_that_is_set_or_taken_away_after_a_wait_counts(pair):
    a, b = pair
    task = parked(a.recv, 1)
    b.send(b"x")
    task.join()
    limit(a)
    assert spawn(outcome, a.recv, 1).result(10) == ((BlockingIOError, errno.EAGAIN), True)
    a.settimeout(0.01)
    with pytest.raises(TimeoutError):
        a.recv(1)
    a.settimeout(None)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes(16))
    task = parked(a.recv, 1)
    evergreen.sleep(0.03)
    b.send(b"x")
    assert task.result(10) == b"x"


@pytest.mark.parametrize("timeout", [None, 10])
def test_a_low_mark_of_tcp_is_waited_for(listener, timeout):
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)  # a connection has it when it is made
    client = socket.create_connection(listener.getsockname())
    server = listener.accept()[0]
    with client, server:
        server.settimeout(timeout)
        for receive in (lambda: server.recv(9), lambda: bytes(9)[: server.recv_into(bytearray(9))]):
            task = parked(receive)
            client.send(b"123")
            wait_for_bytes(server, 3)
            settle()
            assert task.is_alive()
            client.send(b"4567")
            assert 4 <= len(task.result(10)) <= 7
            while wait_for_bytes(server, 0):
                server.recv(1)
        task = parked(server.recv, 9)
        client.send(b"12")
        client.close()
        assert task.result(10) == b"12"


def wait_for_bytes(sock, n):
    """Return when so many bytes wait in the kernel; how many there are."""
    there = array.array("i", [0])
    while True:
        fcntl.ioctl(sock, termios.FIONREAD, there)
        if there[0] >= n:
            return there[0]


def test_peeking_for_all_waits_for_all_of_tcp(listener):
    client = socket.create_connection(listener.getsockname())
    server = listener.accept()[0]
    with client, server:
        task = parked(server.recv, 5, socket.MSG_PEEK | socket.MSG_WAITALL)
        client.send(b"123")
        wait_for_bytes(server, 3)
        settle()
        assert task.is_alive()
        client.send(b"456")
        assert task.result(10) == b"12345"
        assert server.recv(9) == b"123456"
        task = parked(server.recv_into, bytearray(5), 5, socket.MSG_PEEK | socket.MSG_WAITALL)
        client.send(b"12")
        client.close()
        assert task.result(10) == 2
