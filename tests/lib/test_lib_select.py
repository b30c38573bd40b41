"""evergreen.lib.select and evergreen.lib.selectors: waits for descriptors let other tasks run."""

import select as standard
import selectors as standard_selectors

import pytest

from evergreen.lib import select, selectors, socket

SELECTORS = ["SelectSelector", "PollSelector", "EpollSelector", "DefaultSelector"]


@pytest.fixture
def pair(either):
    a, b = socket.socketpair()
    with a, b:
        yield a, b


def wait_by_select(sock, timeout=None):
    return bool(select.select([sock], [], [], timeout)[0])


def wait_by_poll(sock, timeout=None):
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(timeout and timeout * 1e3))


def wait_by_epoll(sock, timeout=None):
    with select.epoll() as poller:
        poller.register(sock, select.EPOLLIN)
        return bool(poller.poll(timeout))


def wait_by(name):
    def wait(sock, timeout=None):
        with getattr(selectors, name)() as selector:
            selector.register(sock, selectors.EVENT_READ)
            return bool(selector.select(timeout))

    return wait


WAITS = [wait_by_select, wait_by_poll, wait_by_epoll, *map(wait_by, SELECTORS)]
NAMES = ["select", "poll", "epoll", *SELECTORS]


@pytest.mark.parametrize("wait", WAITS, ids=NAMES)
def test_tasks_wait_until_data_comes(pair, parked, wait):
    tasks = [parked(wait, pair[0]) for _ in range(3)]
    pair[1].send(b"x")
    assert [task.result() for task in tasks] == [True] * 3


@pytest.mark.parametrize("wait", WAITS, ids=NAMES)
def test_a_timeout_ends_the_wait_while_others_run(pair, ticks, wait):
    assert wait(pair[0], 0.01) is False
    assert ticks[0]


@pytest.mark.parametrize("wait", WAITS, ids=NAMES)
def test_in_a_native_thread_they_block_natively(pair, natively, wait):
    assert natively(wait, pair[0], 0.001) is False
    pair[1].send(b"x")
    assert natively(wait, pair[0], 10) is True


def test_poll_and_epoll_objects_have_the_other_methods_too(pair):
    poller = select.epoll()
    poller.register(pair[0], select.EPOLLIN)
    poller.modify(pair[0], select.EPOLLOUT)
    assert poller.poll() == [(pair[0].fileno(), select.EPOLLOUT)]
    again = select.epoll.fromfd(poller.fileno())
    assert isinstance(again, select.epoll)
    assert again.fileno() == poller.fileno()
    poller.close()
    assert poller.closed
    with pytest.raises(ValueError, match="closed"):
        poller.poll()
    with pytest.raises(OSError):
        again.poll()
    with pytest.raises(TypeError):
        select.poll().register("no descriptor")


def test_selectors_are_of_the_standard_classes(hub):
    for name in SELECTORS:
        cls = getattr(selectors, name)
        assert issubclass(cls, getattr(standard_selectors, name))
        assert cls is not getattr(standard_selectors, name)
    assert selectors.SelectorKey is standard_selectors.SelectorKey
    assert select.error is standard.error
