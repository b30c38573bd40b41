"""fork.c: what goes on in a child, and in its parent."""

import sys
import textwrap

import pytest
from helpers import output_of, run_python

PRELUDE = """
import evergreen, os, signal, socket, sys, threading, time
from evergreen.event import Event
from evergreen import _evergreen_c as core, _policy
from evergreen import sleep, spawn

def wait_for(pid):
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)

def say(*what):
    print(*what, flush=True)
"""


# Python 3.12 and newer warn of forks beside threads, which is what is tried here.
QUIET = ("-W", "ignore::DeprecationWarning")


def play(code):
    return output_of(PRELUDE + textwrap.dedent(code), timeout=20, options=QUIET)


def test_a_child_of_main_has_a_loop_that_works():
    out = play(
        """
        sleep(0.001)
        loop = evergreen.current.loop
        pid = os.fork()
        if pid == 0:
            assert evergreen.current.loop is loop
            assert evergreen.run(lambda: (sleep(0.001), 5)[1]) == 5
            event = Event()
            loop.call_later(0.001, event.set)
            assert event.wait(10)
            say("child")
            os._exit(3)
        say(wait_for(pid))
        assert evergreen.run(lambda: (sleep(0.001), 5)[1]) == 5
        """
    )
    assert out == "child\n3\n"


def test_a_fork_before_the_first_loop_is_nothing_special():
    out = play(
        """
        pid = os.fork()
        if pid == 0:
            say(evergreen.run(lambda: (sleep(0.001), 5)[1]))
            os._exit(0)
        say(wait_for(pid))
        """
    )
    assert out == "5\n0\n"


def test_the_parents_tasks_timers_and_callbacks_are_not_the_childs():
    out = play(
        """
        loop = evergreen.current.loop
        def work():
            sleep(0.05)
            say("task in", "child" if child else "parent")
        child = False
        tasks = [spawn(work) for _ in range(3)]
        loop.call_later(0.05, lambda: say("timer in", "child" if child else "parent"))
        sleep(0)
        tasks.append(spawn(work))
        pid = os.fork()
        if pid == 0:
            child = True
            assert loop.tasks() == []
            stats = loop.stats()
            assert (stats["tasks"], stats["timers"], stats["ready"], stats["descriptors"]) == (0, 0, False, 0)
            assert not any(task.is_alive() for task in tasks)
            assert all(task.join(0) for task in tasks)
            sleep(0.1)
            loop.run()
            say("child ends")
            sys.exit(0)
        assert wait_for(pid) == 0
        loop.run()
        """
    )
    assert out.startswith("child ends\n")
    assert sorted(out.splitlines()[1:]) == ["task in parent"] * 4 + ["timer in parent"]


def test_a_child_of_a_task_ends_with_that_task():
    out = play(
        """
        def forker():
            pid = evergreen.fork()
            if pid == 0:
                sleep(0.001)
                assert evergreen.current.loop.tasks() == [evergreen.current.task]
                say("child task ends")
                return
            say("child ended", wait_for(pid))

        bystander = spawn(lambda: (sleep(0.05), say("bystander")))
        task = spawn(forker)
        task.join()
        say("main goes on")
        bystander.join()
        """
    )
    assert out == "child task ends\nchild ended 0\nmain goes on\nbystander\n"


def test_a_child_of_a_task_ends_with_the_last_task_that_it_spawned():
    out = play(
        """
        def later():
            sleep(0.02)
            say("spawned in the child")

        def forker():
            pid = os.fork()
            if pid == 0:
                spawn(later)
                return
            say("exit", wait_for(pid))

        spawn(forker).join()
        """
    )
    assert out == "spawned in the child\nexit 0\n"


def test_an_exception_in_the_forking_task_is_reported_by_the_child():
    child = run_python(
        PRELUDE
        + """
def forker():
    pid = os.fork()
    if pid == 0:
        raise KeyError("in the child")
    say("exit", wait_for(pid))

spawn(forker).join()
say("main")
"""
    )
    assert child.returncode == 0
    assert child.stdout.startswith("exit ") and child.stdout.endswith("\nmain\n")
    assert child.stderr.count("KeyError: 'in the child'") == 1


def test_os_exit_in_a_forking_task_ends_the_child_with_its_code():
    out = play(
        """
        def forker():
            pid = os.fork()
            if pid == 0:
                os._exit(9)
            return wait_for(pid)
        say(spawn(forker).result())
        """
    )
    assert out == "9\n"


def test_sys_exit_in_a_forking_task_ends_the_child_with_its_code():
    out = play(
        """
        def forker():
            pid = os.fork()
            if pid == 0:
                sys.exit(4)
            return wait_for(pid)
        say(spawn(forker).result())
        """
    )
    assert out == "4\n"


def test_a_blocked_child_reports_a_deadlock_and_ends():
    child = run_python(
        PRELUDE
        + """
def forker():
    pid = os.fork()
    if pid == 0:
        Event().wait()
    say("exit", wait_for(pid))

spawn(forker).join()
""",
        timeout=20,
    )
    assert child.stdout == "exit 1\n"
    assert "Deadlock" in child.stderr


def test_a_timer_of_the_parents_that_a_child_cancels_is_counted_once():
    out = play(
        """
        loop = evergreen.current.loop
        timer = loop.call_later(10, print)
        pid = os.fork()
        if pid == 0:
            assert loop.stats()["timers"] == 0
            timer.cancel()
            assert loop.stats()["timers"] == 0
            loop.run()
            os._exit(3)
        timer.cancel()
        assert loop.stats()["timers"] == 0
        loop.run()
        say(wait_for(pid))
        """
    )
    assert out == "3\n"


def test_a_deadline_that_the_forking_task_is_under_goes_on_in_the_child():
    out = play(
        """
        loop = evergreen.current.loop
        other = spawn(lambda: exec("with evergreen.fail_after(10): sleep(0.05)"))
        sleep(0)
        with evergreen.move_on_after(0.01) as scope:
            with evergreen.fail_after(10):
                pid = os.fork()
                if pid == 0:
                    assert loop.stats()["timers"] == 2
                    sleep(10)
                sleep(1)
        assert scope.expired
        if pid == 0:
            assert loop.stats()["timers"] == 0
            loop.run()
            os._exit(3)
        other.join()
        assert loop.stats()["timers"] == 0
        say(wait_for(pid))
        """
    )
    assert out == "3\n"


def test_keep_tasks_has_all_tasks_go_on_in_both():
    out = play(
        """
        loop = evergreen.current.loop
        done = []
        def work(number):
            sleep(0.01 * number)
            done.append(number)
        tasks = [spawn(work, number) for number in (1, 2, 3)]
        event = Event()
        waiter = spawn(event.wait)
        sleep(0)
        loop.call_later(0.02, event.set)
        pid = evergreen.fork(keep_tasks=True)
        for task in tasks:
            task.join()
        assert waiter.result() is True
        assert done == [1, 2, 3]
        if pid == 0:
            say("child", done)
            os._exit(0)
        assert wait_for(pid) == 0
        say("parent", done)
        """
    )
    assert out == "child [1, 2, 3]\nparent [1, 2, 3]\n"


def test_keep_tasks_of_a_fork_in_a_task_keeps_main_too():
    out = play(
        """
        def forker():
            return evergreen.fork(keep_tasks=True)
        pid = spawn(forker).result()
        if pid == 0:
            say("main in the child")
            os._exit(0)
        assert wait_for(pid) == 0
        say("main in the parent")
        """
    )
    assert out == "main in the child\nmain in the parent\n"


def test_keep_tasks_is_for_one_fork_only():
    out = play(
        """
        loop = evergreen.current.loop
        spawn(sleep, 0.01)
        sleep(0)
        if (pid := evergreen.fork(keep_tasks=True)) == 0:
            os._exit(len(loop.tasks()))
        say(wait_for(pid))
        if (pid := evergreen.fork()) == 0:
            os._exit(len(loop.tasks()))
        say(wait_for(pid))
        """
    )
    assert out == "1\n0\n"


@pytest.mark.parametrize("keep", [True, False])
def test_sockets_waited_on_are_the_parents_undisturbed(keep):
    out = play(
        f"""
        here, there = socket.socketpair()
        here.setblocking(False)
        other, peer = socket.socketpair()

        def read():
            core.wait_fd(here, 1, 10)
            return here.recv(10)

        reader = spawn(read)
        sleep(0.001)
        pid = evergreen.fork(keep_tasks={keep})
        if pid == 0:
            assert core.wait_fd(other, 1, 0) is False
            os._exit(0)
        assert wait_for(pid) == 0
        there.send(b"x")
        say(reader.result())
        """
    )
    assert out == "b'x'\n"


def test_a_kept_wait_for_a_socket_is_answered_in_the_child():
    out = play(
        """
        here, there = socket.socketpair()
        here.setblocking(False)
        reader = spawn(lambda: (core.wait_fd(here, 1, 10), here.recv(10))[1])
        sleep(0.001)
        pid = evergreen.fork(keep_tasks=True)
        if pid == 0:
            there.send(b"child")
            say(reader.result())
            os._exit(0)
        assert wait_for(pid) == 0
        there.send(b"parent")
        say(reader.result())
        """
    )
    assert out == "b'child'\nb'parent'\n"


def test_a_kept_reader_is_called_in_the_child():
    out = play(
        """
        loop = evergreen.current.loop
        here, there = socket.socketpair()
        loop.add_reader(here, lambda: (say(here.recv(10)), loop.remove_reader(here)))
        sleep(0.001)
        pid = evergreen.fork(keep_tasks=True)
        if pid == 0:
            there.send(b"child")
            loop.run()
            os._exit(0)
        assert wait_for(pid) == 0
        there.send(b"parent")
        loop.run()
        """
    )
    assert out == "b'child'\nb'parent'\n"


def test_signals_are_handled_in_the_child_and_still_in_the_parent():
    out = play(
        """
        loop = evergreen.current.loop
        event = Event()
        loop.add_signal_handler(signal.SIGUSR1, event.set)
        sleep(0.001)
        pid = os.fork()
        if pid == 0:
            event = Event()
            loop.add_signal_handler(signal.SIGUSR1, event.set)
            threading.Thread(target=lambda: (time.sleep(0.02), os.kill(os.getpid(), signal.SIGUSR1))).start()
            say("child", event.wait(10))
            sys.stdout.flush()
            os._exit(0)
        assert wait_for(pid) == 0
        assert not event.is_set()
        threading.Thread(target=lambda: (time.sleep(0.02), os.kill(os.getpid(), signal.SIGUSR1))).start()
        say("parent", event.wait(10))
        """
    )
    assert out == "child True\nparent True\n"


def test_ctrl_c_interrupts_a_sleeping_child():
    out = play(
        """
        sleep(0.001)
        pid = os.fork()
        if pid == 0:
            threading.Thread(target=lambda: (time.sleep(0.05), os.kill(os.getpid(), signal.SIGINT))).start()
            try:
                sleep(1000)
            except KeyboardInterrupt:
                os._exit(7)
        say(wait_for(pid))
        """
    )
    assert out == "7\n"


def test_native_threads_and_their_calls_are_not_the_childs():
    out = play(
        """
        gate = threading.Event()
        call = spawn(_policy.offload, gate.wait)
        sleep(0.01)
        pid = os.fork()
        if pid == 0:
            assert evergreen.current.loop.stats()["pins"] == 0
            say(evergreen.run(_policy.offload, lambda: "child"))
            os._exit(0)
        assert wait_for(pid) == 0
        gate.set()
        say(call.result())
        """
    )
    assert out == "child\nTrue\n"


def test_a_fork_in_another_threads_task():
    out = play(
        """
        def thread():
            evergreen.EventLoop()
            def forker():
                pid = os.fork()
                if pid == 0:
                    sleep(0.001)
                    say("child task")
                    return
                return wait_for(pid)
            say(spawn(forker).result())
            evergreen.current.loop.destroy()

        sleep(0.001)
        native = threading.Thread(target=thread)
        native.start()
        native.join()
        say(evergreen.run(lambda: (sleep(0.001), "main")[1]))
        """
    )
    assert out == "child task\n0\nmain\n"


def test_a_child_of_a_child():
    out = play(
        """
        sleep(0.001)
        pid = os.fork()
        if pid == 0:
            sleep(0.001)
            pid = os.fork()
            if pid == 0:
                sleep(0.001)
                say("grandchild")
                os._exit(0)
            say("child", wait_for(pid))
            os._exit(0)
        say("parent", wait_for(pid))
        """
    )
    assert out == "grandchild\nchild 0\nparent 0\n"


def test_a_fork_with_a_thousand_parked_tasks():
    out = play(
        """
        tasks = [spawn(sleep, 0.2) for _ in range(1000)]
        sleep(0)
        pid = os.fork()
        if pid == 0:
            assert evergreen.run(lambda: (sleep(0.001), 5)[1]) == 5
            del tasks
            import gc
            gc.collect()
            sys.exit(0)
        assert wait_for(pid) == 0
        for task in tasks:
            assert task.join()
        say("done")
        """
    )
    assert out == "done\n"


def test_multiprocessing_with_fork_works_beside_a_loop():
    out = play(
        """
        import multiprocessing
        context = multiprocessing.get_context("fork")
        spawn(sleep, 0.1)
        sleep(0.001)
        with context.Pool(2) as pool:
            say(pool.map(abs, [-1, -2, -3]))
        """
    )
    assert out == "[1, 2, 3]\n"


def test_the_childs_output_is_not_doubled():
    out = play(
        """
        def forker():
            print("buffered")
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                print("from the child")
                return
            wait_for(pid)
            print("from the parent")
        spawn(forker).join()
        """
    )
    assert out == "buffered\nfrom the child\nfrom the parent\n"


def test_a_fork_in_a_callback_lets_main_go_on_in_the_parent():
    out = play(
        """
        loop = evergreen.current.loop
        pids = []
        def forker():
            pid = os.fork()
            if pid == 0:
                os._exit(6)
            pids.append(pid)
        loop.call_soon(forker)
        sleep(0)
        say(wait_for(pids[0]))
        """
    )
    assert out == "6\n"


CHILD = """
import asyncio, os, signal, sys, threading, time
from evergreen import patcher
patcher.patch()
import evergreen
evergreen.sleep(0)

def in_child():
    print(threading.current_thread() is threading.main_thread())
    is_main = lambda: threading.current_thread() is threading.main_thread()
    signal.signal(signal.SIGUSR1, lambda *args: print("handled", is_main()))
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.01)
    print(signal.set_wakeup_fd(-1))

    async def main():
        heard = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, heard.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(heard.wait(), 10)
        process = await asyncio.create_subprocess_exec("true")
        return await process.wait()

    print(asyncio.run(main()), flush=True)
"""

FORKS = {
    "fork": """
pid = os.fork()
if pid == 0:
    in_child()
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
    "multiprocessing": """
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=lambda: (in_child(), sys.exit(3)))
process.start()
process.join()
print(process.exitcode)
""",
}


@pytest.mark.parametrize("how", FORKS)
@pytest.mark.parametrize("where", ["thread", "native thread", "task"])
def test_whoever_forks_is_the_main_thread_of_the_child(how, where):
    start = {
        "thread": "thread = threading.Thread(target=work); thread.start(); thread.join()",
        "native thread": "evergreen.offload(work)",
        "task": "evergreen.spawn(work).join()",
    }[where]
    out = output_of(
        f"{CHILD}\ndef work():{textwrap.indent(FORKS[how], '    ')}\n{start}", options=["-Wignore"]
    )
    assert out == "True\nhandled True\n-1\n0\n3\n"


PLAIN_3_13 = pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="plain CPython 3.13 sleeps on: the signal reaches the other thread of the child",
)


@pytest.mark.parametrize("patched", [True, pytest.param(False, marks=PLAIN_3_13)])
def test_what_a_handler_raises_in_a_child_is_raised_in_the_thread_that_forked(patched):
    code = CHILD if patched else "import os, signal, sys, threading, time"
    out = output_of(
        code
        + """
def work():
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, lambda *args: sys.exit(7))
        try:
            threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
            time.sleep(30)
        except SystemExit as exc:
            os._exit(exc.code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

thread = threading.Thread(target=work)
thread.start()
thread.join()
""",
        options=["-Wignore"],
    )
    assert out == "7\n"


def test_in_a_child_the_loops_of_other_threads_have_ended_and_their_tasks_too():
    out = output_of(
        """
        import os, threading
        from evergreen import EventLoop, sleep, spawn

        made, ended, box = threading.Event(), threading.Event(), []

        def work():
            loop = EventLoop()
            box.extend([loop, spawn(sleep, 100)])
            sleep(0)
            made.set()
            ended.wait()
            loop.destroy()

        thread = threading.Thread(target=work)
        thread.start()
        made.wait()
        loop, task = box
        pid = os.fork()
        if not pid:
            print(loop.destroyed, task.is_alive(), task.join(5), task.result(5))
            try:
                loop.call_soon(print)
            except RuntimeError as exc:
                print(exc, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print(loop.destroyed, task.is_alive())
        ended.set()
        thread.join()
        """,
        options=QUIET,
    )
    assert out == "True False True None\nthe event loop was destroyed\nFalse True\n"
