"""patch_multiprocessing.c: semaphores between processes; and what multiprocessing builds on them."""

import multiprocessing
import subprocess
import sys

import pytest
from helpers import parked, settle

import evergreen
from evergreen import _threads, patcher, spawn

CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture
def patched(hub):
    with patcher.patched(multiprocessing=True):
        yield hub
        while _threads.slow._waiting != _threads.slow._threads:
            evergreen.sleep(0.001)  # a thread whose task was killed still has work


@pytest.fixture(params=["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def lock(request, patched):
    return getattr(CONTEXT, request.param)()


def release(lock):
    lock.release()


def test_acquire_lets_other_tasks_run(lock):
    assert lock.acquire()
    other = parked(lambda: (lock.acquire(), lock.release())[0])
    lock.release()
    assert other.result() is True
    with lock:
        pass


def test_with_lets_other_tasks_run(lock):
    def enter():
        with lock:
            return True

    with lock:
        tasks = [parked(enter) for _ in range(3)]
    assert [task.result() for task in tasks] == [True] * 3


def test_what_another_process_releases_is_seen(patched):
    lock = CONTEXT.Lock()
    lock.acquire()
    task = parked(lock.acquire)
    child = CONTEXT.Process(target=release, args=(lock,))
    child.start()
    assert task.result() is True
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("timeout", [0.01, 0, -1])
def test_the_timeout_holds(lock, timeout):
    def take():
        return lock.acquire(timeout=timeout)

    with lock:
        assert spawn(take).result() is False
        assert spawn(lock.acquire, block=False).result() is False
        assert spawn(lock.acquire, True, timeout).result() is False


def test_a_killed_acquire_takes_nothing(lock):
    lock.acquire()
    task = parked(lock.acquire)
    task.kill()
    task.join()
    lock.release()
    assert spawn(lambda: lock.acquire(timeout=10) and (lock.release() or True)).result() is True


def test_a_recursive_lock_belongs_to_a_task(patched):
    lock = CONTEXT.RLock()
    lock.acquire()
    lock.acquire()
    assert lock._semlock._is_mine()
    assert not spawn(lock._semlock._is_mine).result()
    with pytest.raises(AssertionError, match="not owned"):
        spawn(lock.release).result()
    with pytest.raises(AssertionError, match="not owned"):
        spawn(lock.__exit__, None, None, None).result()
    task = parked(lambda: lock.acquire() and (lock.release() or True))
    lock.release()
    settle()
    assert task.is_alive()
    lock.release()
    assert task.result() is True
    with pytest.raises(AssertionError, match="not owned"):
        lock.release()


def test_bad_arguments_are_refused(lock):
    with pytest.raises(TypeError):
        lock.acquire(True, "soon")
    with pytest.raises(TypeError):
        lock.acquire(True, 1, 2)
    with pytest.raises(TypeError):
        lock.acquire(wait=True)


def test_a_condition_between_processes_lets_other_tasks_run(patched):
    condition = CONTEXT.Condition()

    def wait():
        with condition:
            return condition.wait(10)

    task = parked(wait)
    with condition:
        condition.notify()
    assert task.result() is True


PROGRAM = """
import concurrent.futures, multiprocessing, sys, time
import evergreen
from evergreen import patcher


def square(n):
    time.sleep(0.01)
    return n * n


def put(queue, n):
    for i in range(n):
        queue.put(i)


def use(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(square, range(8)) == [n * n for n in range(8)]
    queue = context.Queue()
    children = [context.Process(target=put, args=(queue, 50)) for _ in range(2)]
    for child in children:
        child.start()
    assert sum(queue.get() for _ in range(100)) == 2 * sum(range(50))
    for child in children:
        child.join()
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(square, range(8))) == [n * n for n in range(8)]
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        assert list(executor.map(square, range(8))) == [n * n for n in range(8)]


if __name__ == "__main__":
    patcher.patch()
    use(sys.argv[1])
    evergreen.spawn(use, sys.argv[1]).result()
    print("done")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_queues_pools_and_executors_work_in_main_and_in_tasks(method, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", program, method]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (child.stdout, child.stderr) == ("done\n", "")
