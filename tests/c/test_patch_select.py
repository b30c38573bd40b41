"""patch_select.c: select(), poll objects and epoll objects let other tasks run."""

import asyncio
import errno
import os
import resource
import select
import selectors
import socket
import sys
import threading
import time

import pytest
from helpers import in_thread, parked, refusal, settle

import evergreen
from evergreen import patcher, spawn


@pytest.fixture
def patched(hub):
    with patcher.patched(select=True):
        yield hub


@pytest.fixture
def pair(patched):
    a, b = socket.socketpair()
    with a, b:
        yield a, b


@pytest.fixture
def raised():
    """A limit of descriptors that leaves room for some thousand."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 8192:
        pytest.skip("the system allows fewer than 8192 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 8192), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def tcp(patched):
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    with client, peer:
        yield client, peer


def end(task):
    task.kill()
    task.join()


def poll_for(sock, *events):
    poller = select.poll()
    poller.register(sock, *events)
    return poller


def epoll_for(sock, *events):
    poller = select.epoll()
    poller.register(sock, *events)
    return poller


# ---- select ----------------------------------------------------------------------------


def test_select_lets_other_tasks_run_until_something_is_ready(pair):
    a, b = pair
    task = parked(select.select, [a], [], [])
    b.send(b"x")
    assert task.result() == ([a], [], [])


def test_select_is_woken_by_a_native_thread(pair):
    a, b = pair
    task = parked(select.select, [a], [], [])
    in_thread(b.send, b"x")
    assert task.result() == ([a], [], [])


def test_select_says_at_once_what_is_ready(pair):
    a, b = pair

    def others_ran():
        ran = []
        task = spawn(ran.append, 1)
        assert select.select([a], [a, b], []) == ([], [a, b], [])
        seen = list(ran)
        task.join()
        return seen

    # A task whose slice is over gives others their turn all the same: this machine may be slow.
    assert not all(others_ran() for _ in range(20))


def test_select_returns_the_objects_that_it_was_given(pair):
    a, b = pair
    number = a.fileno()
    task = parked(select.select, [b, a, number], [], [a])
    b.send(b"x")
    ready, _, _ = task.result()
    assert ready == [a, number]
    assert ready[0] is a


def test_select_waits_until_it_can_be_written(pair):
    a, b = pair
    a.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            a.send(bytes(65536))
    task = parked(select.select, [a], [a], [])
    b.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            b.recv(65536)
    assert task.result() == ([], [a], [])


@pytest.mark.parametrize("excepts", [False, True])
def test_select_returns_three_empty_lists_when_its_time_is_up(pair, excepts):
    a, _ = pair
    before = time.monotonic()
    assert select.select([a], [], [a] if excepts else [], 0.003) == ([], [], [])
    assert time.monotonic() - before >= 0.003


def test_select_with_a_timeout_of_zero_does_not_let_others_run(pair):
    ran = []
    task = spawn(ran.append, 1)
    assert select.select([pair[0]], [], [], 0) == ([], [], [])
    assert not ran
    task.join()


def test_select_of_nothing_sleeps(patched):
    ran = []
    spawn(ran.append, 1)
    assert select.select([], [], [], 0.001) == ([], [], [])
    assert ran == [1]


@pytest.mark.parametrize("kind", [set, tuple, iter, dict.fromkeys])
def test_select_takes_any_iterable(pair, kind):
    a, b = pair
    task = parked(select.select, kind([a]), kind([]), kind([]))
    b.send(b"x")
    assert task.result() == ([a], [], [])


def test_select_keeps_to_the_lists_of_its_call(pair):
    a, b = pair
    reads = [a]
    task = parked(select.select, reads, [], [])
    reads.clear()
    b.send(b"x")
    assert task.result() == ([a], [], [])


def test_select_on_several_descriptors_is_woken_by_any(patched):
    pairs = [socket.socketpair() for _ in range(50)]
    reads = [a for a, _ in pairs]
    for a, b in pairs:
        task = parked(select.select, reads, [], [], 30)
        b.send(b"x")
        assert task.result() == ([a], [], [])
        a.recv(1)
    for a, b in pairs:
        a.close()
        b.close()


def test_several_tasks_may_wait_for_one_descriptor(pair):
    a, b = pair
    tasks = [parked(select.select, [a], [], []) for _ in range(3)]
    b.send(b"x")
    assert [task.result() for task in tasks] == [([a], [], [])] * 3


def test_urgent_data_is_an_exceptional_condition(tcp):
    client, peer = tcp
    task = parked(select.select, [client], [], [client])
    peer.send(b"!", socket.MSG_OOB)
    assert client in task.result()[2]


def test_a_hang_up_is_no_exceptional_condition(pair):
    a, b = pair
    b.close()
    spins = []
    task = parked(select.select, [], [], [a])
    loop = evergreen.current.loop
    polls = loop.stats()["polls"]
    for _ in range(5):
        evergreen.sleep(0.001)
        spins.append(loop.stats()["polls"])
    assert task.is_alive()
    assert spins[-1] - polls < 100
    end(task)


def test_select_on_a_pipe_sees_its_end(patched):
    reader, writer = os.pipe()
    task = parked(select.select, [reader], [], [])
    os.close(writer)
    assert task.result() == ([reader], [], [])
    os.close(reader)


def test_a_regular_file_is_always_ready(patched, tmp_path):
    with open(tmp_path / "file", "wb+") as file:
        assert select.select([file], [file], []) == ([file], [file], [])


def test_closing_a_patched_socket_ends_select_with_a_bad_descriptor(hub):
    with patcher.patched(select=True, socket=True):
        a, b = socket.socketpair()
        task = parked(select.select, [a], [], [])
        a.close()
        with pytest.raises(OSError) as caught:
            task.result()
        assert caught.value.errno == errno.EBADF
        b.close()


@pytest.mark.parametrize("wait", ["select", "poll", "epoll"])
def test_a_killed_task_leaves_nothing_behind(patched, pair, wait):
    a, _ = pair
    epoll = epoll_for(a, select.EPOLLIN)
    call = {
        "select": lambda: select.select([a], [], [a]),
        "poll": poll_for(a, select.POLLIN).poll,
        "epoll": epoll.poll,
    }
    end(parked(call[wait]))
    assert patched.stats()["descriptors"] == 0
    epoll.close()


BAD_SELECTS = [
    (),
    ([], []),
    (1, [], []),
    ([], [], [], "x"),
    ([], [], [], -1),
    ([], [], [], -1e-9),
    ([], [], [], float("nan")),
    ([], [], [], float("inf")),
    ([], [], [], 1e10),
    ([], [], [], 10**400),
    ([-1], [], [], 1),
    ([object()], [], [], 1),
    ([5000], [], [], 1),
    ([], [], [], 1, 2),
]


@pytest.mark.parametrize("args", BAD_SELECTS)
def test_what_select_refuses_is_refused_in_its_own_words(hub, args):
    natively = refusal(select.select, *args)
    with patcher.patched(select=True):
        assert refusal(select.select, *args) == natively


def test_select_on_a_closed_number_raises_as_the_original(hub):
    number = os.dup(0)
    os.close(number)
    natively = refusal(select.select, [number], [], [])
    with patcher.patched(select=True):
        assert refusal(select.select, [number], [], []) == natively


# ---- poll objects ----------------------------------------------------------------------------


def test_poll_lets_other_tasks_run_until_something_is_ready(pair):
    a, b = pair
    task = parked(poll_for(a, select.POLLIN).poll)
    b.send(b"x")
    assert task.result() == [(a.fileno(), select.POLLIN)]


def test_poll_says_at_once_what_is_ready(pair):
    a, _ = pair
    assert poll_for(a).poll() == [(a.fileno(), select.POLLOUT)]


@pytest.mark.parametrize("events", [select.POLLIN, select.POLLIN | select.POLLPRI])
def test_poll_counts_its_timeout_in_milliseconds(pair, events):
    poller = poll_for(pair[0], events)
    before = time.monotonic()
    assert poller.poll(2.5) == []
    assert 0.0025 <= time.monotonic() - before < 2.5


@pytest.mark.parametrize("forever", [None, -1, -0.5])
def test_poll_waits_for_ever_without_a_timeout_or_with_a_negative_one(pair, forever):
    a, b = pair
    task = parked(poll_for(a, select.POLLIN).poll, forever)
    assert task.waiting[2] is None
    b.send(b"x")
    assert task.result() == [(a.fileno(), select.POLLIN)]


def test_poll_waits_for_urgent_data_and_for_a_half_closed_peer(tcp):
    client, peer = tcp
    task = parked(poll_for(client, select.POLLPRI).poll)
    peer.send(b"!", socket.MSG_OOB)
    assert task.result() == [(client.fileno(), select.POLLPRI)]
    task = parked(poll_for(client, select.POLLRDHUP).poll)
    peer.shutdown(socket.SHUT_WR)
    assert task.result() == [(client.fileno(), select.POLLRDHUP)]


def test_a_poll_for_no_events_waits_for_the_hang_up(pair):
    a, b = pair
    task = parked(poll_for(a, 0).poll)
    b.send(b"x")
    evergreen.sleep(0.001)
    assert task.is_alive()
    b.close()
    assert task.result() == [(a.fileno(), select.POLLHUP)]


def test_a_second_poll_at_the_same_time_is_refused(pair):
    a, b = pair
    poller = poll_for(a, select.POLLIN)
    task = parked(poller.poll)
    assert refusal(poller.poll) == (RuntimeError, "concurrent poll() invocation")
    assert refusal(poller.poll, 0) == (RuntimeError, "concurrent poll() invocation")
    b.send(b"x")
    assert task.result() == poller.poll() == [(a.fileno(), select.POLLIN)]


def test_a_killed_poll_frees_the_poll_object(pair):
    poller = poll_for(pair[0], select.POLLIN)
    end(parked(poller.poll))
    assert poller.poll(0) == []


def test_a_poll_object_may_change_while_it_waits(pair):
    a, b = pair
    poller = poll_for(a, select.POLLIN)
    task = parked(poller.poll)
    poller.unregister(a)
    poller.register(b, select.POLLOUT)
    b.send(b"x")
    assert task.result() == [(b.fileno(), select.POLLOUT)]


def test_poll_reports_a_descriptor_that_is_closed_while_it_waits(hub):
    with patcher.patched(select=True, socket=True):
        a, b = socket.socketpair()
        number = a.fileno()
        task = parked(poll_for(a, select.POLLIN).poll)
        a.close()
        assert task.result() == [(number, select.POLLNVAL)]
        b.close()


def test_an_exception_thrown_at_poll_is_not_taken_for_a_closed_descriptor(pair):
    poller = poll_for(pair[0], select.POLLIN)
    task = parked(poller.poll)
    task.kill(TimeoutError)
    with pytest.raises(TimeoutError):
        task.result()


BAD_POLLS = [("x",), (float("nan"),), (1e300,), (10**400,), (1, 2)]
if sys.version_info < (3, 15):  # from there on poll() takes more than a C int
    BAD_POLLS += [(2**31,), (-(2**31) - 1,)]


@pytest.mark.parametrize("args", BAD_POLLS)
def test_what_poll_refuses_is_refused_in_its_own_words(hub, args):
    poller = select.poll()
    natively = refusal(poller.poll, *args)
    with patcher.patched(select=True):
        assert refusal(poller.poll, *args) == natively


# ---- epoll objects -----------------------------------------------------------------------------


def test_epoll_lets_other_tasks_run_until_something_is_ready(pair):
    a, b = pair
    with epoll_for(a, select.EPOLLIN) as poller:
        task = parked(poller.poll)
        b.send(b"x")
        assert task.result() == [(a.fileno(), select.EPOLLIN)]


def test_epoll_is_woken_by_what_is_registered_while_it_waits(pair):
    a, _ = pair
    with select.epoll() as poller:
        task = parked(poller.poll)
        poller.register(a, select.EPOLLOUT)
        assert task.result() == [(a.fileno(), select.EPOLLOUT)]


@pytest.mark.parametrize(("args", "kwargs"), [((0.003,), {}), ((), {"timeout": 0.003}), ((0.003, 5), {})])
def test_epoll_counts_its_timeout_in_seconds(pair, args, kwargs):
    with epoll_for(pair[0], select.EPOLLIN) as poller:
        before = time.monotonic()
        assert poller.poll(*args, **kwargs) == []
        assert time.monotonic() - before >= 0.003


@pytest.mark.parametrize("forever", [None, -1, -0.001])
def test_epoll_waits_for_ever_without_a_timeout_or_with_a_negative_one(pair, forever):
    a, b = pair
    with epoll_for(a, select.EPOLLIN) as poller:
        task = parked(poller.poll, forever)
        assert task.waiting[2] is None
        b.send(b"x")
        assert task.result() == [(a.fileno(), select.EPOLLIN)]


def test_epoll_returns_at_most_maxevents(patched):
    pairs = [socket.socketpair() for _ in range(3)]
    with select.epoll() as poller:
        for a, _ in pairs:
            poller.register(a, select.EPOLLIN)
        task = parked(lambda: poller.poll(maxevents=2))
        for _, b in pairs:
            b.send(b"x")
        assert len(task.result()) == 2
    for a, b in pairs:
        a.close()
        b.close()


def test_an_edge_triggered_descriptor_is_told_once(pair):
    a, b = pair
    with epoll_for(a, select.EPOLLIN | select.EPOLLET) as poller:
        for _ in range(3):
            task = parked(poller.poll)
            b.send(b"x")
            assert task.result() == [(a.fileno(), select.EPOLLIN)]
            assert poller.poll(0.001) == []


def test_closing_an_epoll_object_ends_its_poll(pair):
    poller = epoll_for(pair[0], select.EPOLLIN)
    task = parked(poller.poll)
    poller.close()
    assert isinstance(refusal(task.result)[0](), (OSError, ValueError))
    poller.close()


def test_the_number_of_an_epoll_object_may_be_used_again(pair):
    a, b = pair
    for _ in range(3):
        poller = epoll_for(a, select.EPOLLIN)
        task = parked(poller.poll)
        b.send(b"x")
        assert task.result() == [(a.fileno(), select.EPOLLIN)]
        a.recv(1)
        del poller, task


READ_OR_URGENT = select.POLLIN | select.POLLPRI
WAITS = {
    "select": lambda sock: select.select([sock], [], [sock])[0] == [sock],
    "poll": lambda sock: poll_for(sock, READ_OR_URGENT).poll() == [(sock.fileno(), select.POLLIN)],
    "epoll": lambda sock: epoll_for(sock, select.EPOLLIN).poll() == [(sock.fileno(), select.EPOLLIN)],
}


@pytest.mark.parametrize("count", [150, 700])
@pytest.mark.parametrize("how", WAITS)
def test_more_tasks_wait_for_one_file_than_epoll_sets_may_hold_each_other(pair, raised, how, count):
    a, b = pair
    tasks = [parked(WAITS[how], a) for _ in range(count)]
    b.send(b"x")
    assert [task.result(10) for task in tasks] == [True] * count


@pytest.mark.parametrize("count", [200, 1500])
@pytest.mark.parametrize("events", [select.POLLIN, select.POLLIN | select.POLLPRI, 0])
def test_one_poll_takes_any_number_of_copies_of_a_descriptor(pair, raised, events, count):
    a, b = pair
    copies = [a.dup() for _ in range(count)]
    poller = select.poll()
    for copy in copies:
        poller.register(copy, events)
    for _ in range(2):
        assert poller.poll(1) == []
        evergreen.sleep(0.001)
    task = parked(poller.poll)
    b.close()
    assert len(task.result(10)) == count
    for copy in copies:
        copy.close()


BAD_EPOLLS = [
    (("x",), {}),
    ((float("nan"),), {}),
    ((2**31,), {}),
    ((-1e10,), {}),
    ((1, 0), {}),
    ((1, -2), {}),
    ((1, "x"), {}),
    ((1,), {"timeout": 1}),
    ((), {"unknown": 1}),
    ((1, 2, 3), {}),
]


@pytest.mark.parametrize(("args", "kwargs"), BAD_EPOLLS)
def test_what_epoll_refuses_is_refused_in_its_own_words(hub, args, kwargs):
    with select.epoll() as poller:
        natively = refusal(poller.poll, *args, **kwargs)
        with patcher.patched(select=True):
            assert refusal(poller.poll, *args, **kwargs) == natively


def test_a_closed_epoll_object_refuses_to_poll(hub):
    poller = select.epoll()
    poller.close()
    natively = refusal(poller.poll)
    with patcher.patched(select=True):
        assert refusal(poller.poll) == natively
        assert poller.close() is None


# ---- what stands on them ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SelectSelector", "PollSelector", "EpollSelector"])
def test_selectors_cooperate(pair, name):
    a, b = pair
    with getattr(selectors, name)() as selector:
        key = selector.register(a, selectors.EVENT_READ)
        task = parked(selector.select)
        b.send(b"x")
        assert task.result() == [(key, selectors.EVENT_READ)]
        a.recv(1)
        assert selector.select(0.001) == []


def test_asyncio_runs_in_a_task_beside_others(patched):
    async def main():
        await asyncio.sleep(0.003)
        return "done"

    turns = []

    def other():
        while True:
            turns.append(1)
            evergreen.sleep(0.0005)

    task = spawn(other)
    assert asyncio.run(main()) == "done"
    assert len(turns) > 1
    end(task)


@pytest.mark.parametrize(
    "poll",
    [
        lambda sock: select.select([sock], [], [], 0)[0],
        lambda sock: poll_for(sock, select.POLLIN).poll(0),
        lambda sock: epoll_for(sock, select.EPOLLIN).poll(0),
    ],
)
def test_who_polls_without_waiting_lets_others_run(pair, poll):
    a, b = pair
    task, end = spawn(lambda: (evergreen.sleep(0.001), b.send(b"x"))), time.monotonic() + 10
    while not poll(a):
        assert time.monotonic() < end
    task.join()


def test_a_callback_may_ask_but_not_wait(patched, pair):
    a, _ = pair
    outcome = []

    def callback():
        outcome.append(select.select([a], [a], []))
        outcome.append(refusal(select.select, [a], [], []))
        outcome.append(refusal(poll_for(a, select.POLLIN).poll))

    patched.call_soon(callback)
    settle()
    assert outcome[0] == ([], [a], [])
    assert [kind for kind, _ in outcome[1:]] == [RuntimeError, RuntimeError]


def test_native_threads_wait_natively(pair):
    a, b = pair
    answers = []

    def wait():
        answers.append(select.select([a], [], []))
        answers.append(poll_for(a, select.POLLIN).poll())

    thread = threading.Thread(target=wait)
    thread.start()
    b.send(b"x")
    thread.join(30)
    assert answers == [([a], [], []), [(a.fileno(), select.POLLIN)]]
