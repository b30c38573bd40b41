"""patch_asyncio.c: loops of asyncio run in tasks, beside each other."""

import asyncio
import contextlib
import gc
import selectors
import sys
import threading
import time

import greenlet
import pytest
from helpers import output_of, settle

from evergreen import EventLoop, patcher, sleep, spawn
from evergreen import _evergreen_c as core


@pytest.fixture
def patched(hub):
    with patcher.patched():
        yield hub


async def nap(seconds=0.001):
    await asyncio.sleep(seconds)
    return asyncio.get_running_loop(), asyncio.current_task()


def test_a_loop_in_main_lets_tasks_run(patched):
    ran = []
    task = spawn(lambda: (time.sleep(0.001), ran.append(1)))
    asyncio.run(nap(0.05))
    assert ran
    task.join()


def test_each_task_may_run_a_loop(patched):
    async def work(n):
        loop = asyncio.get_running_loop()
        for _ in range(5):
            assert await nap() == (loop, asyncio.current_task())
            time.sleep(0.001)  # parks the task in the middle of a step
            assert asyncio.get_running_loop() is loop
            assert asyncio.current_task().get_loop() is loop
        return n

    start = time.monotonic()
    tasks = [spawn(asyncio.run, work(n)) for n in range(20)]
    assert asyncio.run(work(20)) == 20
    assert [task.result() for task in tasks] == list(range(20))
    assert time.monotonic() - start < 5


def test_each_patched_thread_may_run_a_loop(patched):
    results = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(nap()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({loop for loop, _ in results}) == 2


def test_the_running_loop_is_seen_in_its_task_alone(patched):
    seen = []

    async def work():
        task = spawn(lambda: seen.append(asyncio._get_running_loop()))
        patched.call_soon(lambda: seen.append(asyncio._get_running_loop()))
        time.sleep(0.001)
        task.join()
        return asyncio.get_running_loop()

    asyncio.run(work())
    assert seen == [None, None]
    assert asyncio._get_running_loop() is None


@pytest.mark.parametrize("thread", [False, True])
def test_it_needs_no_other_patch(hub, thread):
    with patcher.patched(asyncio=True, time=True, select=True, thread=thread):
        tasks = [spawn(asyncio.run, nap()) for _ in range(3)]
        assert len({task.result()[0] for task in tasks}) == 3


def test_hooks_of_asynchronous_generators_belong_to_the_loop_that_set_them(patched):
    closed = []

    async def numbers():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(asyncio.get_running_loop())

    async def work():
        await asyncio.sleep(0.001)
        async for _ in numbers():
            break  # left to the hook of the loop
        await asyncio.sleep(0.002)
        return asyncio.get_running_loop()

    tasks = [spawn(asyncio.run, work()) for _ in range(3)]
    assert {task.result() for task in tasks} == set(closed)
    assert sys.get_asyncgen_hooks() == (None, None)


def test_a_killed_task_leaves_no_loop_behind(patched):
    task = spawn(asyncio.run, nap(60))
    settle()
    task.kill()
    task.join()
    assert spawn(asyncio._get_running_loop).result() is None
    assert asyncio.run(nap())


def test_streams_executors_and_children_work_beside_other_tasks(patched):
    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def work():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            line = await reader.readline()
            writer.close()
        slept = await asyncio.to_thread(lambda: (time.sleep(0.001), 7)[1])
        child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        out, _ = await child.communicate(b"world")
        return line, slept, out, child.returncode

    tasks = [spawn(asyncio.run, work()) for _ in range(3)]
    for task in tasks:
        assert task.result() == (b"hello\n", 7, b"world", 0)


class Impatient(selectors.BaseSelector):
    """It waits for nothing."""

    def __init__(self):
        self.keys = {}

    def register(self, fileobj, events, data=None):
        self.keys[fileobj] = key = selectors.SelectorKey(fileobj, fileobj, events, data)
        return key

    def unregister(self, fileobj):
        return self.keys.pop(fileobj)

    def select(self, timeout=None):
        return []

    def get_map(self):
        return self.keys


def test_a_loop_that_never_waits_lets_others_run(patched):
    with contextlib.closing(asyncio.SelectorEventLoop(Impatient())) as loop:
        future = loop.create_future()
        task = spawn(loop.call_soon_threadsafe, future.set_result, 7)
        assert loop.run_until_complete(future) == 7
        assert loop.run_until_complete(loop.run_in_executor(None, lambda: 8)) == 8
        loop.run_until_complete(loop.shutdown_default_executor())
    task.join()


def test_a_task_whose_loop_never_waits_can_be_killed(patched):
    with contextlib.closing(asyncio.SelectorEventLoop(Impatient())) as loop:
        task = spawn(loop.run_until_complete, loop.create_future())
        sleep(0)
        task.kill()
        task.join()
        assert not loop.is_running()


def test_the_turns_of_loops_are_native_again_when_unpatched(hub):
    native = asyncio.BaseEventLoop._run_once
    with patcher.patched():
        assert asyncio.BaseEventLoop._run_once is not native
        with patcher.patched():
            asyncio.run(nap())
        asyncio.run(nap())
    assert asyncio.BaseEventLoop._run_once is native
    asyncio.run(nap())


def test_a_turn_that_somebody_has_put_around_ours_stays(hub, monkeypatch):
    turns = []

    def counted(loop, beneath):
        turns.append(loop)
        beneath(loop)

    with patcher.patched():
        beneath = asyncio.BaseEventLoop._run_once
        monkeypatch.setattr(asyncio.BaseEventLoop, "_run_once", lambda loop: counted(loop, beneath))
    with patcher.patched():
        asyncio.run(nap())
    asyncio.run(nap())
    assert turns
    monkeypatch.undo()  # what it puts back is ours
    patcher.unpatch()


def test_unpatching_while_a_loop_runs_is_harmless(hub):
    async def work():
        with patcher.patched():
            await nap()
        await nap()
        return asyncio.get_running_loop()

    assert asyncio.run(work())
    assert asyncio._get_running_loop() is None
    sleep(0.001)
    assert asyncio._get_running_loop() is None
    with patcher.patched():
        sleep(0.001)
        assert asyncio._get_running_loop() is None


def test_a_loop_that_ran_before_the_patch_is_not_that_of_other_tasks(hub):
    async def work():
        loop = asyncio.get_running_loop()
        with patcher.patched():
            task = spawn(asyncio._get_running_loop)
            await nap()
            assert asyncio.get_running_loop() is loop
            assert task.result() is None
            sleep(0.001)  # the task waits, inside its loop
        assert asyncio.get_running_loop() is loop

    asyncio.run(work())
    assert asyncio._get_running_loop() is None


def test_a_loop_that_ran_before_there_was_a_hub_is_not_that_of_tasks():
    out = output_of(
        """
        import asyncio
        from evergreen import patcher, _evergreen_c as core

        async def inner():
            return asyncio.get_running_loop()

        async def outer():
            assert core.loop_here() is None
            running = asyncio.get_running_loop()
            other = await asyncio.to_thread(asyncio.run, inner())
            return other is not running and asyncio.get_running_loop() is running

        patcher.patch()
        print(asyncio.run(outer()), core.loop_here() is not None)
        """
    )
    assert out == "True True\n"


def test_with_asyncio_unpatched_a_loop_in_main_keeps_its_place_when_the_hub_is_new(hub):
    async def work():
        return await nap() == (asyncio.get_running_loop(), asyncio.current_task())

    with patcher.patched():
        asyncio.run(nap())
    hub.destroy()
    EventLoop()
    with patcher.patched(select=True):
        assert not patcher.is_patched("asyncio")
        task = spawn(asyncio._get_running_loop)
        assert asyncio.run(work())
        assert task.result() is None
    core.loop_here().destroy()


def test_asyncio_imported_after_the_patch_is_patched():
    out = output_of(
        """
        import sys
        from evergreen import patcher, spawn
        patcher.patch()
        print("asyncio" in sys.modules, patcher.is_patched("asyncio"))
        import asyncio

        async def nap():
            await asyncio.sleep(0.01)
            return asyncio.get_running_loop()

        tasks = [spawn(asyncio.run, nap()) for _ in range(2)]
        print(len({task.result() for task in tasks}), patcher.is_patched("asyncio"))
        patcher.unpatch()
        print(patcher.is_patched("asyncio"))
        """
    )
    assert out == "False True\n2 True\nFalse\n"


def test_greenlets_of_somebody_else_may_run_loops_and_end(patched):
    def run():
        assert asyncio.run(nap())
        sleep(0)

    for _ in range(20):
        other = greenlet.greenlet(run)
        other.switch()
        while not other.dead:
            sleep(0)
        del other
        gc.collect()
        assert spawn(asyncio.run, nap()).result()
    assert asyncio._get_running_loop() is None
