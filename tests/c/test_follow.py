"""follow.c: what belongs to a thread follows the task that is one, in every loop of the process."""

import asyncio
import gc
import sys
import threading

import greenlet
import pytest
from helpers import native, output_of, settle

from evergreen import Channel, EventLoop, patcher, sleep, spawn
from evergreen.event import Event
from evergreen.locks import RLock

traces = pytest.mark.skipif(sys.version_info >= (3, 15), reason="trace.c: trace functions crash CPython 3.15")


@pytest.fixture
def patched(hub):
    with patcher.patched():
        yield hub


# ---- a mode is read when a loop is made ------------------------------------------------------


def test_locals_of_main_stay_when_its_loop_is_made_after_the_patch():
    out = output_of(
        """
        import threading, time
        from evergreen import patcher

        patcher.patch()
        local = threading.local()
        local.x = 1
        thread = threading.Thread(target=time.sleep, args=(0.001,))
        thread.start()
        thread.join()
        print(local.x)
        """
    )
    assert out == "1\n"


@traces
def test_the_trace_function_of_main_stays_when_its_loop_is_made_after_the_patch():
    out = output_of(
        """
        import sys, threading, time
        from evergreen import patcher

        def trace(frame, event, arg):
            if frame.f_code is work.__code__:
                seen.append(sys._getframe(1).f_code.co_name)

        def work():
            time.sleep(0.001)

        seen = []
        patcher.patch()
        sys.settrace(trace)
        sys.setprofile(lambda *args: None)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        print(sys.gettrace() is trace, sys.getprofile() is not None, seen)
        sys.settrace(None)
        sys.setprofile(None)
        """
    )
    assert out == "True True []\n"


def test_a_loop_of_asyncio_stays_mains_when_its_hub_is_made_after_the_patch():
    out = output_of(
        """
        import asyncio, threading
        from evergreen import patcher

        async def main():
            found = []
            thread = threading.Thread(target=lambda: found.append(asyncio._get_running_loop()))
            thread.start()
            thread.join()
            return found, asyncio.get_running_loop() is not None

        patcher.patch()
        print(asyncio.run(main()))
        """
    )
    assert out == "([None], True)\n"


# ---- and when a thread gets a loop ------------------------------------------------------------


def test_a_thread_that_makes_its_loop_under_the_patch_keeps_its_locals(patched):
    local = threading.local()

    def work():
        local.x = "mine"
        loop = EventLoop()
        found = [spawn(getattr, local, "x", None).result()]
        found.append(local.x)
        loop.destroy()
        return [*found, local.x]

    for _ in range(50):  # pool threads come and go
        assert native(work).get() == [None, "mine", "mine"]


def test_a_thread_that_makes_its_loop_inside_a_loop_of_asyncio_keeps_that(patched):
    async def main():
        loop = EventLoop()
        found = spawn(asyncio._get_running_loop).result(), asyncio.get_running_loop() is not None
        loop.destroy()
        return found

    # Unpatched meanwhile, since the thread has no event loop yet and its asyncio is native.
    assert native(asyncio.run, main()).get() == (None, True)


@traces
def test_a_thread_that_makes_its_loop_under_the_patch_keeps_its_trace_function(patched):
    def trace(*args):
        return None

    def work():
        sys.settrace(trace)
        loop = EventLoop()
        found = spawn(sys.gettrace).result(), sys.gettrace() is trace
        loop.destroy()
        found += (sys.gettrace() is trace,)
        sys.settrace(None)
        return found

    assert native(work).get() == (None, True, True)


# ---- and when the mode changes while there are loops --------------------------------------------


class Elsewhere:
    """A native thread with a loop, whose main task makes calls for others."""

    def __init__(self):
        self.ready, self.calls, self.answers = Event(), Channel(), Channel()
        self.thread = native(self.work)
        self.ready.wait()

    def work(self):
        loop = EventLoop()
        self.ready.set()
        for call in iter(self.calls.receive, None):
            self.answers.send(call())
        loop.destroy()

    def __call__(self, function, *args):
        spawn(self.calls.send, lambda: function(*args))
        return self.answers.receive()

    def end(self):
        spawn(self.calls.send, None)
        self.thread.get()


@pytest.fixture
def elsewhere(hub):
    other = Elsewhere()
    yield other
    other.end()


def test_locals_in_a_loop_of_another_thread_are_tasks_from_the_patch_on(elsewhere):
    local = threading.local()
    elsewhere(setattr, local, "x", "mine")
    for _ in range(3):
        with patcher.patched():
            assert elsewhere(lambda: local.x) == "mine"
            assert elsewhere(lambda: spawn(getattr, local, "x", None).result()) is None
            assert elsewhere(lambda: local.x) == "mine"
        assert elsewhere(lambda: spawn(getattr, local, "x").result()) == "mine"


def test_a_patch_that_ends_while_a_task_of_another_thread_runs_gives_main_its_locals_back(elsewhere):
    local = threading.local()
    elsewhere(setattr, local, "x", "mine")

    def work():
        local.x = "task's"
        inside.set()
        for _ in range(10**8):
            if not patcher.is_patched("_thread"):
                return local.x
        raise AssertionError("it stayed patched")

    inside = threading.Event()
    with patcher.patched():
        spawn(elsewhere.calls.send, lambda: spawn(work).result())
        while not inside.is_set():
            sleep(0.001)
    assert elsewhere.answers.receive() == "mine"
    assert elsewhere(lambda: local.x) == "mine"


def test_a_loop_of_asyncio_in_another_thread_is_its_tasks_from_the_patch_on(elsewhere):
    async def main():
        gate, ended = Event(), Event()
        other = spawn(lambda: (gate.wait(), found.append(asyncio._get_running_loop()), ended.set()))
        inside.set()
        patched.wait()
        gate.set()
        ended.wait()
        other.join()
        return asyncio.get_running_loop() is not None

    found, inside, patched = [], Event(), Event()
    spawn(elsewhere.calls.send, lambda: asyncio.run(main()))
    inside.wait()
    with patcher.patched():
        patched.set()
        assert elsewhere.answers.receive() is True
        assert found == [None]


@traces
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_tasks_that_live_when_threads_are_patched_stay_traced(elsewhere, where):
    seen = []

    def trace(frame, event, arg):
        if event == "call" and frame.f_code is leaf.__code__:
            seen.append(event)

    def leaf():
        return None

    def work():
        gate.wait()
        leaf()
        gate.wait()

    def run():
        nonlocal gate
        gate = Event()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            task = spawn(work)
            settle()
            ready.set()
            patched.wait()
            gate.set()
            task.join()
            return sys.gettrace() is trace
        finally:
            sys.settrace(before)

    gate, ready, patched = None, Event(), Event()
    if where == "here":
        caller = spawn(run)
    else:
        spawn(elsewhere.calls.send, run)
    ready.wait()
    with patcher.patched():
        patched.set()
        assert (caller.result() if where == "here" else elsewhere.answers.receive()) is True
        if where == "here":
            sys.settrace(None)  # main's, since the thread had it when threads were patched
    assert seen == ["call"]


# ---- and after a fork -------------------------------------------------------------------------------


def test_in_a_forked_child_locals_and_loops_of_asyncio_follow_tasks():
    out = output_of(
        """
        import asyncio, os, threading
        from evergreen import patcher, spawn, sleep

        local = threading.local()
        local.x = "main's"

        def look(where):
            print(where, local.x, spawn(getattr, local, "x", None).result(), local.x, flush=True)

        def child(function):
            pid = os.fork()
            if not pid:
                function()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0

        patcher.patch()
        child(lambda: look("no loop before:"))
        look("parent:")
        child(lambda: look("main:"))

        def work():
            local.x = "task's"
            child(lambda: look("task:"))
            look("after:")

        spawn(work).join()

        async def main():
            loop = asyncio.get_running_loop()
            def same():
                found = spawn(asyncio._get_running_loop).result()
                print(found, asyncio._get_running_loop() is not None, flush=True)
            same()
            return "a loop"

        child(lambda: print(asyncio.run(main()), flush=True))
        look("parent:")
        """
    )
    assert out.splitlines() == [
        "no loop before: main's None main's",
        "parent: main's None main's",
        "main: main's None main's",
        "task: task's None task's",
        "after: task's None task's",
        "None True",
        "a loop",
        "parent: main's None main's",
    ]


@traces
def test_in_a_forked_child_trace_functions_follow_tasks():
    out = output_of(
        """
        import os, sys
        from evergreen import patcher, spawn, sleep

        def trace(*args):
            return None

        def look():
            print(spawn(sys.gettrace).result(), sys.gettrace() is trace, flush=True)

        def work():
            sys.settrace(trace)
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
            look()
            if not pid:
                os._exit(0)
            sys.settrace(None)

        patcher.patch()
        spawn(work).join()
        print(sys.gettrace())
        """
    )
    assert out == "None True\n" * 2 + "None\n"


def test_a_child_that_a_greenlet_of_main_forks_is_mains():
    out = output_of(
        """
        import os, threading, greenlet
        from evergreen import patcher, spawn, sleep

        def fork():
            sleep(0)
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
            return pid

        patcher.patch()
        pid = greenlet.greenlet(fork).switch()
        sleep(0)
        print("parent" if pid else "child", threading.current_thread() is threading.main_thread(), flush=True)
        """
    )
    assert out == "child True\nparent True\n"


# ---- greenlets that somebody else switches -------------------------------------------------------------


def in_greenlet(function, *args):
    """Call it in a greenlet of its own, as a library does that bridges two worlds."""
    outcome = []
    child = greenlet.greenlet(lambda: outcome.append(function(*args)))
    child.switch()
    while not child.dead:
        child.switch()
    return outcome[0]


def busy():
    """Another task that runs whenever somebody waits."""
    stop = threading.Event()

    def work():
        threading.local().x = "busy's"
        while not stop.is_set():
            sleep(0)

    spawn(work)
    return stop


@pytest.mark.parametrize("place", ["main", "task", "thread"])
def test_a_greenlet_belongs_to_the_task_whose_stack_it_runs_on(patched, place):
    local, lock, stop = threading.local(), threading.RLock(), busy()

    def look():
        with lock:
            sleep(0.001)
            return threading.get_ident(), threading.current_thread(), getattr(local, "x", None)

    def work():
        local.x = "mine"
        with lock:
            assert in_greenlet(look) == (threading.get_ident(), threading.current_thread(), "mine")
        assert local.x == "mine"
        assert look() == in_greenlet(look)
        in_greenlet(setattr, local, "x", "changed")
        sleep(0.001)
        assert local.x == "changed"
        return True

    if place == "main":
        assert work()
    elif place == "task":
        assert spawn(work).result()
    else:
        done = []
        thread = threading.Thread(target=lambda: done.append(work()))
        thread.start()
        thread.join()
        assert done == [True]
    stop.set()
    settle()


def test_an_rlock_of_ours_is_the_tasks_in_greenlets_too(hub):
    lock = RLock()

    def again():
        sleep(0)
        with lock:
            sleep(0)
            return True

    with lock:
        assert in_greenlet(again)


def test_a_greenlet_sees_the_loop_of_asyncio_that_its_task_runs(patched):
    stop = busy()

    async def main():
        here = asyncio.get_running_loop()
        found = in_greenlet(lambda: (sleep(0.001), asyncio.get_running_loop())[1])
        await asyncio.sleep(0.001)
        return found is here is asyncio.get_running_loop()

    assert asyncio.run(main())
    assert spawn(asyncio.run, main()).result()
    stop.set()
    settle()


def test_a_greenlet_that_another_task_goes_on_with_is_that_tasks(patched):
    local, found = threading.local(), []

    def child():
        while True:
            found.append((local.name, threading.get_ident()))
            sleep(0.001)
            found.append((local.name, threading.get_ident()))
            greenlet.getcurrent().parent.switch()

    def work(name, other):
        local.name = name
        ident = threading.get_ident()
        other.parent = greenlet.getcurrent()
        other.switch()
        sleep(0.001)
        assert found == [(name, ident)] * 2 and local.name == name
        found.clear()

    other = greenlet.greenlet(child)
    for name in "abc":
        spawn(work, name, other).result()
    work("main", other)
    del other
    gc.collect()


def test_an_interrupt_ends_what_a_greenlet_of_main_waits_for():
    out = output_of(
        """
        import os, signal, threading, time, greenlet
        from evergreen import patcher

        def wait():
            try:
                time.sleep(30)
            finally:
                print("cleaned up")

        patcher.patch()
        threading.Thread(target=lambda: (time.sleep(0.05), os.kill(os.getpid(), signal.SIGINT))).start()
        try:
            greenlet.greenlet(wait).switch()
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert out == "cleaned up\ninterrupted\n"


def test_a_kill_ends_what_a_greenlet_of_the_task_waits_for(patched):
    cleaned = []

    def wait():
        try:
            sleep(30)
        finally:
            cleaned.append(threading.get_ident())

    def work():
        cleaned.append(threading.get_ident())
        greenlet.greenlet(wait).switch()

    task = spawn(work)
    settle()
    task.kill()
    assert task.join(10)
    assert len(cleaned) == 2 and len(set(cleaned)) == 1
