"""CPython's own tests of queues, with ours, once with tasks for threads and once with native threads."""

import queue as standard
import types
import unittest

import pytest

from evergreen import patcher, queue

reason = "this interpreter comes without CPython's `test` package"
test_queue = pytest.importorskip("test.test_queue", reason=reason)

# What CPython's tests take for the module under test.
ours = types.SimpleNamespace(
    Queue=queue.Queue,
    LifoQueue=queue.LifoQueue,
    PriorityQueue=queue.PriorityQueue,
    Empty=standard.Empty,
    Full=standard.Full,
    ShutDown=queue.ShutDown,
)


@pytest.fixture(autouse=True)
def threads(request, hub):
    if request.cls.native:
        yield
    else:
        with patcher.patched():
            yield


class Tasks:
    queue, native = ours, False
    # These poll a queue without ever waiting, which only threads that are preempted can do side by side.
    test_shutdown_all_methods_in_many_threads = None
    test_shutdown_immediate_all_methods_in_many_threads = None


class Threads:
    queue, native = ours, True


class TestQueue(Tasks, test_queue.QueueTest, unittest.TestCase):
    pass


class TestLifoQueue(Tasks, test_queue.LifoQueueTest, unittest.TestCase):
    pass


class TestPriorityQueue(Tasks, test_queue.PriorityQueueTest, unittest.TestCase):
    pass


class TestFailingQueue(Tasks, test_queue.FailingQueueTest, unittest.TestCase):
    pass


class TestQueueOfThreads(Threads, test_queue.QueueTest, unittest.TestCase):
    pass


class TestLifoQueueOfThreads(Threads, test_queue.LifoQueueTest, unittest.TestCase):
    pass


class TestPriorityQueueOfThreads(Threads, test_queue.PriorityQueueTest, unittest.TestCase):
    pass


class TestFailingQueueOfThreads(Threads, test_queue.FailingQueueTest, unittest.TestCase):
    pass
