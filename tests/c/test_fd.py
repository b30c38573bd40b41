"""fd.c: readiness of file descriptors."""

import errno
import gc
import os
import random
import resource
import select
import socket
import threading
import warnings
import weakref

import pytest
from helpers import in_thread, native_sleep, output_of, pass_time, settle

from evergreen import EventLoop, TaskExit, _policy, patcher, sleep, spawn
from evergreen import _evergreen_c as core
from evergreen.event import Event

READ, WRITE = 1, 2
native_close = core.patch_native("posix", "close")
native_dup2 = core.patch_native("posix", "dup2")


@pytest.fixture
def pair():
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    yield here, there
    here.close()
    there.close()


def fill(sock):
    """Write until nothing more fits; return how much did."""
    total = 0
    while True:
        try:
            total += sock.send(b"x" * 65536)
        except BlockingIOError:
            return total


def drain(sock):
    data = b""
    while True:
        try:
            more = sock.recv(1 << 20)
        except BlockingIOError:
            return data
        if not more:
            return data
        data += more


# ---- waiting -------------------------------------------------------------------------------------


def test_a_wait_ends_when_there_is_something_to_read(hub, pair):
    here, there = pair
    task = spawn(core.wait_fd, here, READ)
    settle()
    assert task.waiting[0] == "readable"
    assert hub.stats()["descriptors"] == 1
    there.send(b"x")
    assert task.result() is True


def test_a_wait_ends_at_once_when_there_is_something_already(hub, pair):
    here, there = pair
    there.send(b"x")
    assert core.wait_fd(here.fileno(), READ, 30) is True
    assert core.wait_fd(there, WRITE, 30) is True


def test_a_wait_ends_when_there_is_room_to_write(hub, pair):
    here, there = pair
    fill(here)
    task = spawn(core.wait_fd, here, WRITE)
    settle()
    assert task.waiting[0] == "writable"
    drain(there)
    assert task.result() is True


@pytest.mark.parametrize("event", [READ, WRITE])
def test_a_wait_for_either_ends_by_one(hub, pair, event):
    here, there = pair
    fill(here)
    task = spawn(core.wait_fd, here, READ | WRITE)
    settle()
    if event == READ:
        there.send(b"x")
    else:
        drain(there)
    assert task.result() is True


def test_a_wait_returns_false_when_time_is_up(hub, pair):
    before = hub.time()
    assert core.wait_fd(pair[0], READ, 0.02) is False
    assert hub.time() - before >= 0.02
    assert core.wait_fd(pair[0], READ, 0) is False
    assert core.wait_fd(pair[0], READ, -1) is False


def test_a_closed_peer_wakes_both_kinds_of_waiters(hub, pair):
    here, there = pair
    fill(here)
    tasks = [spawn(core.wait_fd, here, READ), spawn(core.wait_fd, here, WRITE)]
    settle()
    there.close()
    assert [task.result() for task in tasks] == [True, True]


def test_a_reader_and_a_writer_wait_for_one_descriptor_each_for_its_own(hub, pair):
    here, there = pair
    fill(here)
    reader, writer = spawn(core.wait_fd, here, READ), spawn(core.wait_fd, here, WRITE)
    settle()
    assert hub.stats()["descriptors"] == 2
    there.send(b"x")
    assert reader.result() is True
    assert writer.join(0.01) is False
    drain(there)
    assert writer.result() is True


def test_many_readers_of_one_descriptor_are_all_told(hub, pair):
    here, there = pair
    tasks = [spawn(core.wait_fd, here, READ) for _ in range(5)]
    settle()
    there.send(b"x")
    assert [task.result() for task in tasks] == [True] * 5


def test_data_that_comes_again_and_again_is_told_each_time(hub, pair):
    here, there = pair
    received = []

    def read():
        while len(received) < 100:
            core.wait_fd(here, READ)
            received.append(drain(here))

    task = spawn(read)
    for number in range(100):
        settle()
        there.send(b"%d" % number)
        hub.run(EventLoop.RUN_ONCE)
    task.result()
    assert b"".join(received) == b"".join(b"%d" % number for number in range(100))


def test_a_killed_wait_leaves_the_descriptor_to_the_next(hub, pair):
    here, there = pair
    for _ in range(3):
        task = spawn(core.wait_fd, here, READ)
        settle()
        task.kill()
        with pytest.raises(TaskExit):
            task.result()
        assert hub.stats()["descriptors"] == 0
    task = spawn(core.wait_fd, here, READ)
    settle()
    there.send(b"x")
    assert task.result() is True


def test_a_regular_file_is_always_ready(hub, tmp_path):
    with open(tmp_path / "file", "w+") as file:
        assert core.wait_fd(file, READ, 0) is True
        assert core.wait_fd(file, WRITE) is True
        assert core.wait_fd(file, READ | WRITE) is True


def test_a_wait_for_a_closed_descriptor_is_ebadf(hub, pair):
    number = pair[0].fileno()
    core.wait_fd(number, READ, 0)  # the hub's own descriptors are there now: none takes the number
    pair[0].close()
    for events in (READ, WRITE, READ | WRITE):
        with pytest.raises(OSError) as info:
            core.wait_fd(number, events, 1)
        assert info.value.errno == errno.EBADF
    assert hub.stats()["descriptors"] == 0


@pytest.mark.parametrize(
    "args", [(), (0,), ("x", 1), (-1, 1), (0, 0), (0, 4), (0, "r"), (0, 1, "x"), (0, 1, 1, 1), (None, 1)]
)
def test_wait_fd_refuses_bad_arguments(hub, args):
    with pytest.raises((TypeError, ValueError)):
        core.wait_fd(*args)


def test_a_number_that_means_another_file_by_now_is_watched_anew(hub):
    for _ in range(20):
        here, there = socket.socketpair()
        number = here.fileno()
        assert core.wait_fd(number, READ, 0) is False
        here.close()
        there.close()
        read, write = os.pipe()
        os.dup2(read, number)
        task = spawn(core.wait_fd, number, READ, 30)
        settle()
        os.write(write, b"x")
        assert task.result() is True
        for fd in {read, write, number}:
            os.close(fd)


def test_who_waited_for_a_number_that_means_another_file_by_now_is_told(hub):
    read, write = os.pipe()
    first = spawn(core.wait_fd, read, READ)
    settle()
    os.close(read)  # behind our back: nothing is patched
    again, other = os.pipe()
    assert again == read
    second = spawn(core.wait_fd, again, READ)
    settle()
    with pytest.raises(OSError) as caught:
        first.result(10)
    assert caught.value.errno == errno.EBADF
    assert second.is_alive()
    os.write(other, b"x")
    assert second.result(10) is True
    for number in (again, write, other):
        os.close(number)


@pytest.fixture
def patched(hub):
    with patcher.patched(socket=True, os=True, select=True):
        yield hub


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def connect(listener, number=None):
    """Both ends of a connection; the first one has that number."""
    here = socket.socket()
    assert number in (None, here.fileno())
    here.connect(listener.getsockname())
    return here, listener.accept()[0]


def test_a_number_whose_close_nobody_told_of_is_watched_for_the_socket_that_has_it(patched, pair, listener):
    poller = select.epoll()
    poller.register(pair[0], select.EPOLLIN)
    number = poller.fileno()
    spawn(poller.poll, 0.001).join()
    del poller  # its destructor closes it
    here, there = connect(listener, number)
    task = spawn(here.recv, 10)
    settle()
    there.send(b"hello")
    assert task.result(10) == b"hello"
    here.close()
    there.close()


def test_a_socket_waits_for_its_own_file_after_another_was_closed_by_c_code(patched, listener):
    old, peer = connect(listener)
    task = spawn(old.recv, 10)
    settle()
    native_close(old.fileno())
    here, there = connect(listener, old.fileno())
    heir = spawn(here.recv, 10)
    settle()
    with pytest.raises(OSError) as caught:
        task.result(10)
    assert caught.value.errno == errno.EBADF
    there.send(b"hello")
    assert heir.result(10) == b"hello"
    old.detach()
    for sock in (peer, here, there):
        sock.close()


def test_who_waits_for_a_number_that_c_code_gave_to_another_file_hears_of_it(patched, listener):
    here, there = connect(listener)
    read, write = os.pipe()
    task = spawn(here.recv, 10)
    settle()
    native_dup2(read, here.fileno())
    with pytest.raises(OSError) as caught:
        task.result(10)
    assert caught.value.errno == errno.EBADF
    here.close()
    there.close()
    os.close(read)
    os.close(write)


def test_who_waits_for_a_number_that_c_code_closes_hears_of_it(hub):
    read, write = os.pipe()
    task = spawn(core.wait_fd, read, READ)
    settle()
    os.close(read)  # untold: nothing is patched
    with pytest.raises(OSError) as caught:
        task.result(10)
    assert caught.value.errno == errno.EBADF
    os.close(write)


def test_a_callback_of_a_file_that_is_gone_makes_room_for_one_of_the_file_that_has_its_number(hub):
    read, write = os.pipe()
    told = []
    hub.add_reader(read, told.append, "gone")
    settle()
    os.close(read)
    os.close(write)
    again, other = os.pipe()
    assert again == read
    hub.add_reader(again, told.append, "here")
    os.write(other, b"x")
    while not told:
        sleep(0.001)
    assert set(told) == {"here"}
    assert hub.remove_reader(again)
    assert hub.stats()["descriptors"] == 0
    os.close(again)
    os.close(other)


def test_a_number_that_tasks_waited_for_may_have_a_callback_when_it_means_another_file(hub):
    read, write = os.pipe()
    assert core.wait_fd(read, READ, 0) is False
    os.close(read)
    os.close(write)
    again, other = os.pipe()
    assert again == read
    event = Event()
    hub.add_reader(again, event.set)
    assert hub.stats()["descriptors"] == 1
    os.write(other, b"x")
    assert event.wait(10)
    assert hub.remove_reader(again)
    os.close(again)
    os.close(other)


def test_a_callback_of_a_file_that_is_gone_is_not_told_of_another(hub):
    read, write = os.pipe()
    told = []
    hub.add_reader(read, told.append, "gone")
    settle()
    os.close(read)
    os.close(write)
    again, other = os.pipe()
    assert again == read
    task = spawn(core.wait_fd, again, READ)
    settle()
    os.write(other, b"x")
    assert task.result(10) is True
    settle()
    assert told == []
    assert hub.stats()["descriptors"] == 0
    assert hub.remove_reader(again)
    assert hub.stats()["descriptors"] == 0
    os.close(again)
    os.close(other)


@pytest.mark.parametrize("number", [900, 2**30, 2**31 - 1])
def test_a_number_that_nothing_has_is_a_bad_descriptor_at_once(hub, number):
    for wait in (hub.add_reader, hub.add_writer):
        with pytest.raises(OSError) as caught:
            wait(number, print)
        assert caught.value.errno == errno.EBADF
        assert wait.__self__.stats()["descriptors"] == 0
    assert hub.remove_reader(number) is False
    for events in (READ, WRITE, READ | WRITE):
        for call in (core.wait_fd, lambda *args: in_thread(core.wait_fd, *args)):
            with pytest.raises(OSError) as caught:
                call(number, events)
            assert caught.value.errno == errno.EBADF


def test_a_closed_number_used_for_a_regular_file_is_ready(hub, tmp_path):
    here, there = socket.socketpair()
    number = here.fileno()
    assert core.wait_fd(number, READ, 0) is False
    here.close()
    there.close()
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    os.dup2(file, number)
    assert core.wait_fd(number, READ, 30) is True
    for fd in {file, number}:
        os.close(fd)


def test_a_duplicate_of_a_closed_descriptor_does_not_disturb_its_heir(hub):
    here, there = socket.socketpair()
    number = here.fileno()
    assert core.wait_fd(number, READ, 0) is False
    copy = here.dup()  # keeps the old entry in the kernel's set
    here.close()
    read, write = os.pipe()
    os.dup2(read, number)
    task = spawn(core.wait_fd, number, READ, 0.2)
    settle()
    there.send(b"for the copy")
    os.write(write, b"x")
    assert task.result() is True
    for fd in {read, write, number}:
        os.close(fd)
    copy.close()
    there.close()


def test_a_thousand_descriptors_at_once(hub):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2100, hard), hard))
    pairs = [socket.socketpair() for _ in range(1000)]
    order = []
    tasks = [spawn(lambda n=n: (core.wait_fd(pairs[n][0], READ), order.append(n))) for n in range(1000)]
    settle()
    assert hub.stats()["descriptors"] == 1000
    for number in reversed(range(1000)):
        pairs[number][1].send(b"x")
    for task in tasks:
        task.join()
    assert sorted(order) == list(range(1000))
    for here, there in pairs:
        here.close()
        there.close()


def test_a_native_thread_without_a_loop_can_wait_for_a_descriptor(hub, pair):
    here, there = pair

    def thread():
        assert core.wait_fd(here, READ, 0.01) is False
        assert core.wait_fd(here, WRITE, 30) is True
        assert core.wait_fd(here, READ | WRITE, 30) is True
        hub.call_from_thread(there.send, b"x")
        return core.wait_fd(here, READ, 30)

    assert _policy.offload(thread) is True


# ---- callbacks -----------------------------------------------------------------------------------


def test_a_reader_is_called_whenever_there_is_something_to_read(hub, pair):
    here, there = pair
    received = []

    def read(first, key):
        received.append((first, key, here.recv(100)))
        if len(received) == 3:
            hub.remove_reader(here)

    hub.add_reader(here, read, "first", key="key")
    for data in (b"a", b"b", b"c"):
        there.send(data)
        hub.run(EventLoop.RUN_ONCE)
    hub.run()
    assert received == [("first", "key", data) for data in (b"a", b"b", b"c")]


def test_a_reader_that_does_not_read_is_called_again(hub, pair):
    here, there = pair
    calls = []

    def look():
        calls.append(1)
        if len(calls) == 3:
            hub.remove_reader(here)

    hub.add_reader(here, look)
    there.send(b"x")
    hub.run()
    assert calls == [1, 1, 1]


def test_a_writer_is_called_while_there_is_room(hub, pair):
    here, _ = pair
    calls = []

    def look():
        calls.append(1)
        if len(calls) == 3:
            assert hub.remove_writer(here) is True

    hub.add_writer(here, look)
    hub.run()
    assert calls == [1, 1, 1]


def test_a_second_reader_for_a_descriptor_is_a_runtime_error(hub, pair):
    here, _ = pair
    hub.add_reader(here, print)
    hub.add_writer(here, hub.remove_writer, here)
    with pytest.raises(RuntimeError, match="another reader"):
        hub.add_reader(here, print)
    with pytest.raises(RuntimeError, match="another writer"):
        hub.add_writer(here.fileno(), print)
    assert hub.remove_reader(here) is True
    hub.add_reader(here, print)
    hub.remove_reader(here)
    hub.run()


def test_remove_says_whether_there_was_anything(hub, pair):
    here, there = pair
    assert hub.remove_reader(here) is False
    hub.add_reader(here, print)
    assert hub.remove_writer(here) is False
    assert hub.remove_reader(here.fileno()) is True
    assert hub.remove_reader(here) is False
    there.send(b"x")
    settle()


def test_a_removed_reader_is_not_called_even_if_it_was_due(hub, pair):
    here, there = pair
    other, peer = socket.socketpair()
    calls = []

    def first():
        calls.append(1)
        hub.remove_reader(here)
        hub.remove_reader(other)

    hub.add_reader(here, first)
    hub.add_reader(other, first)
    there.send(b"x")
    peer.send(b"x")
    hub.run()
    assert calls == [1]
    other.close()
    peer.close()


def test_a_cancelled_handler_frees_its_callback(hub, pair):
    class Callback:
        def __call__(self):
            pass

    callback = Callback()
    ref = weakref.ref(callback)
    hub.add_reader(pair[0], callback)
    del callback
    hub.remove_reader(pair[0])
    gc.collect()
    assert ref() is None


def test_a_reader_keeps_run_running_until_it_is_removed(hub, pair):
    here, there = pair
    order = []
    hub.add_reader(here, lambda: (order.append(here.recv(10)), hub.remove_reader(here)))
    hub.call_later(0.01, there.send, b"x")
    hub.run()
    assert order == [b"x"]


def test_a_task_and_a_callback_wait_for_the_same_descriptor(hub, pair):
    here, there = pair
    seen = []
    task = spawn(core.wait_fd, here, READ)
    settle()
    hub.add_reader(here, lambda: (seen.append("callback"), hub.remove_reader(here)))
    second = spawn(core.wait_fd, here, READ)
    settle()
    there.send(b"x")
    assert task.result() is True
    assert second.result() is True
    hub.run()
    assert seen == ["callback"]
    drain(here)
    third = spawn(core.wait_fd, here, READ)
    settle()
    there.send(b"y")
    assert third.result() is True


def test_a_writing_task_beside_a_reading_callback(hub, pair):
    here, there = pair
    fill(here)
    seen = []
    hub.add_reader(here, lambda: seen.append(here.recv(10)))
    task = spawn(core.wait_fd, here, WRITE)
    settle()
    there.send(b"x")
    assert task.join(0.01) is False
    assert seen == [b"x"]
    drain(there)
    assert task.result() is True
    hub.remove_reader(here)


def test_a_regular_file_cannot_have_a_callback(hub, tmp_path):
    with open(tmp_path / "file", "w+") as file:
        with pytest.raises(OSError) as info:
            hub.add_reader(file, print)
        assert info.value.errno == errno.EPERM
        assert hub.remove_reader(file) is False


def test_a_closed_descriptor_cannot_have_a_callback(hub, pair):
    number = pair[0].fileno()
    core.wait_fd(number, READ, 0)  # the hub's own descriptors are there now: none takes the number
    pair[0].close()
    with pytest.raises(OSError) as info:
        hub.add_reader(number, print)
    assert info.value.errno == errno.EBADF
    assert hub.remove_reader(number) is False


def test_an_exception_in_a_reader_is_reported_and_it_is_called_again(hub, pair):
    here, there = pair
    hook, reports = hub.excepthook, []
    hub.excepthook = reports.append
    there.send(b"x")

    def read():
        if len(reports) == 2:
            hub.remove_reader(here)
            return
        raise ValueError

    hub.add_reader(here, read)
    hub.run()
    hub.excepthook = hook
    assert [report.exc_type for report in reports] == [ValueError] * 2


def test_a_loop_can_be_destroyed_with_descriptors_watched():
    output_of(
        """
        import evergreen, os
        from evergreen import _evergreen_c as core
        read, write = os.pipe()
        for _ in range(3):
            loop = evergreen.current.loop
            loop.add_reader(read, print)
            evergreen.spawn(core.wait_fd, read, 1)
            evergreen.sleep(0)
            loop.destroy()
        os.write(write, b"x")
        assert core.wait_fd(read, 1, 10)
        """
    )


def test_closing_a_watched_descriptor_behind_our_back_does_no_harm(hub):
    here, there = socket.socketpair()
    number = here.fileno()
    hub.add_reader(number, print)
    task = spawn(core.wait_fd, there, READ, 0.01)
    settle()
    here.close()
    there.close()
    assert task.result() in (True, False)
    assert hub.remove_reader(number) is True


def test_hubs_of_two_threads_can_wait_for_the_same_descriptor(hub, pair):
    here, there = pair
    woken = []

    def thread():
        EventLoop()
        woken.append(spawn(core.wait_fd, here, READ, 30).result())
        EventLoop.current().destroy()

    native = threading.Thread(target=thread)
    native.start()
    task = spawn(core.wait_fd, here, READ, 30)
    settle()
    native_sleep(0.02)
    there.send(b"x")
    assert task.result() is True
    native.join()
    assert woken == [True]


def test_readiness_that_came_with_a_deadline_counts(hub, pair):
    here, there = pair
    task = spawn(core.wait_fd, here, READ, 0.001)
    settle()
    there.send(b"x")
    pass_time()
    assert task.result() is True
    sleep(0)


# ---- numbers that are used again ---------------------------------------------------------------


class End:
    """One end of a connection, its number, and a task that waits for it."""

    WAYS = {
        "recv": lambda end: end.sock.recv(64),
        "recvfrom": lambda end: end.sock.recvfrom(64)[0],
        "recv_into": lambda end: end.into(end.sock.recv_into(end.buffer)),
        "read": lambda end: os.read(end.number, 64),
        "select": lambda end: select.select([end.number], [], []) and os.read(end.number, 64),
        "poll": lambda end: end.poll() and os.read(end.number, 64),
    }

    def __init__(self, way, name):
        self.sock, self.peer = socket.socketpair()
        self.number, self.name, self.buffer = self.sock.fileno(), name, bytearray(64)
        self.uses_sock = way.startswith("recv")
        self.task = spawn(self.WAYS[way], self)
        settle()
        assert self.task.is_alive()

    def into(self, size):
        return bytes(self.buffer[:size])

    def poll(self):
        poller = select.poll()
        poller.register(self.number, select.POLLIN)
        return poller.poll()


def close_behind(end):
    os.close(end.number)
    end.sock.detach()


def close_by_heir(end):
    with open(os.devnull) as file:
        os.dup2(file.fileno(), end.number)  # closes what was there
    end.sock.close()


def close_by_finaliser(end):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        end.sock = None
        gc.collect()


CLOSES = {
    "close": lambda end: end.sock.close(),
    "detach": lambda end: os.close(end.sock.detach()),
    "range": lambda end: (os.closerange(end.number, end.number + 1), end.sock.detach()),
    "behind": close_behind,
    "heir": close_by_heir,
    "finaliser": close_by_finaliser,
}


@pytest.mark.parametrize("seed", range(6))
def test_numbers_that_are_closed_and_used_again_under_who_waits_for_them(hub, seed):
    dice, ends, before = random.Random(seed), [], set()
    reused = 0

    def a_new_one(step):
        end = End(dice.choice([*End.WAYS]), b"%d.%d" % (seed, step))
        ends.append(end)
        nonlocal reused
        reused += end.number in before

    with patcher.patched(socket=True, os=True, select=True):
        for step in range(150):
            while len(ends) < 6:
                a_new_one(step)
            end = ends.pop(dice.randrange(len(ends)))
            what = dice.choice(["send", "kill", *CLOSES, *CLOSES])
            if what == "send":
                in_thread(end.peer.send, end.name) if dice.random() < 0.5 else end.peer.send(end.name)
                assert end.task.result(10) == end.name
            elif what == "kill":
                end.task.kill()
                end.task.join()
            else:
                if what == "finaliser" and end.uses_sock:
                    what = "close"
                how = dice.choice(
                    [lambda close, end: close(end), in_thread, lambda *args: spawn(*args).join()]
                )
                how(CLOSES[what], end)
                before.add(end.number)
                if dice.random() < 0.7:
                    a_new_one(step)  # it most likely has the same number
                with pytest.raises(OSError) as caught:
                    end.task.result(10)
                assert caught.value.errno == errno.EBADF
            if end.sock is not None:
                end.sock.close()
            end.peer.close()
        for end in ends:  # whoever still waits does so for its own
            end.peer.send(end.name)
            assert end.task.result(10) == end.name
            end.sock.close()
            end.peer.close()
    assert reused > 20
