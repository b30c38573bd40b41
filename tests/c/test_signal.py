"""signal.c: Ctrl-C and signal handlers, also while the hub sleeps."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time

import pytest
from helpers import child_python, output_of, pass_time, run_python, settle, wait_until_asleep

from evergreen import TaskExit, patcher, sleep, spawn
from evergreen.event import Event

# ---- Ctrl-C --------------------------------------------------------------------------------------

PRELUDE = """
import evergreen, sys, time
from evergreen.event import Event
from evergreen import _evergreen_c as core
loop = evergreen.current.loop

def compute():
    print("ready", flush=True)
    while True:
        pass

def computing_between_waits():
    print("ready", flush=True)
    while True:
        sum(range(1000))
        evergreen.sleep(0)

def sleeping():
    print("ready", flush=True)
    evergreen.sleep(1000)

def say(wait):
    print("ready", flush=True)
    return wait()

try:
    {what}
except KeyboardInterrupt:
    assert evergreen.current.task is loop.main_task
    print("interrupted", flush=True)
else:
    print("not interrupted", flush=True)
evergreen.run(evergreen.sleep, 0.001)
"""


@pytest.mark.parametrize(
    "what",
    [
        "say(lambda: evergreen.sleep(1000))",
        "(evergreen.spawn(evergreen.sleep, 1000), say(Event().wait))",
        "(evergreen.spawn(evergreen.sleep, 1000), say(evergreen.Channel().receive))",
        "say(loop.run_forever)",
        "evergreen.spawn(sleeping).join()",
        "evergreen.spawn(sleeping).result()",
        "(evergreen.spawn(sleeping), loop.run())",
        "(evergreen.spawn(sleeping), evergreen.sleep(0), loop.run(loop.RUN_ONCE))",
        "evergreen.run(sleeping)",
        "say(lambda: core.wait_fd(sys.stdin, 1))",
    ],
)
def test_ctrl_c_while_the_hub_sleeps_is_raised_in_main(what):
    with child_python(PRELUDE.format(what=what)) as child:
        assert child.stdout.readline() == "ready\n"
        wait_until_asleep(child.pid)
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n", child.stderr.read()
        assert child.wait(30) == 0


@pytest.mark.parametrize(
    "what",
    [
        "evergreen.spawn(compute).join()",
        "evergreen.spawn(compute).result()",
        "evergreen.run(compute)",
        "(evergreen.spawn(compute), loop.run())",
        "(evergreen.spawn(compute), evergreen.sleep(1000))",
        "compute()",
        "(loop.call_soon(compute), evergreen.sleep(1000))",
        "evergreen.spawn(computing_between_waits).join()",
        "evergreen.run(computing_between_waits)",
        "computing_between_waits()",
        "(evergreen.spawn(computing_between_waits), loop.run_forever())",
    ],
)
def test_ctrl_c_while_something_computes_is_raised_in_main(what):
    with child_python(PRELUDE.format(what=what)) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n", child.stderr.read()
        assert child.wait(30) == 0


def test_ctrl_c_that_nobody_catches_ends_the_program_as_ever():
    with child_python("import evergreen; print('ready', flush=True); evergreen.sleep(1000)") as child:
        child.stdout.readline()
        wait_until_asleep(child.pid)
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == -signal.SIGINT
        assert "KeyboardInterrupt" in child.stderr.read()


def test_ctrl_c_kills_what_run_runs_and_waits_for_its_clean_up():
    with child_python(
        """
        import evergreen

        def work():
            try:
                print("ready", flush=True)
                evergreen.sleep(1000)
            except evergreen.TaskExit:
                evergreen.sleep(0.01)
                print("cleaned up", flush=True)
                raise

        try:
            evergreen.run(work)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    ) as child:
        child.stdout.readline()
        wait_until_asleep(child.pid)
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == "cleaned up\ninterrupted\n"
        assert child.wait(30) == 0


def test_ctrl_c_again_and_again_is_raised_each_time():
    with child_python(
        """
        import evergreen
        for _ in range(5):
            try:
                print("ready", flush=True)
                evergreen.sleep(1000)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
        """
    ) as child:
        for _ in range(5):
            assert child.stdout.readline() == "ready\n"
            wait_until_asleep(child.pid)
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "interrupted\n"
        assert child.wait(30) == 0


# ---- handlers of Python's signal module ----------------------------------------------------------


@pytest.fixture
def handle():
    """Set a handler of Python's; the one of before is put back."""
    before = {}

    def set_handler(signum, handler):
        previous = signal.signal(signum, handler)
        before.setdefault(signum, previous)

    yield set_handler
    for signum, handler in before.items():
        signal.signal(signum, handler)


def raise_signal_soon(signum=signal.SIGUSR1):
    """Have another process send it, when the hub sleeps or is about to."""
    return subprocess.Popen(["sh", "-c", f"sleep 0.02; kill -{int(signum)} {os.getpid()}"])


def test_a_handler_runs_promptly_while_the_hub_sleeps(hub, handle):
    times, event = [], Event()
    handle(signal.SIGUSR1, lambda signum, frame: (times.append(hub.time()), event.set()))
    sender = raise_signal_soon()
    before = hub.time()
    assert event.wait(30) is True
    assert times[0] - before < 10
    sender.wait()


def test_a_handler_may_block(hub, handle):
    steps, event = [], Event()

    def handler(signum, frame):
        steps.append("begin")
        sleep(0.01)
        steps.append("end")
        event.set()

    handle(signal.SIGUSR1, handler)
    sleeper = spawn(sleep, 0.005)
    sender = raise_signal_soon()
    assert event.wait(30) is True
    assert steps == ["begin", "end"]
    assert sleeper.join(0) is True
    sender.wait()


def test_an_exception_of_a_handler_goes_to_main(hub, handle):
    class Alarm(Exception):
        pass

    def handler(signum, frame):
        raise Alarm("from the handler")

    handle(signal.SIGUSR1, handler)
    sender = raise_signal_soon()
    bystander = spawn(sleep, 0.05)
    with pytest.raises(Alarm, match="from the handler"):
        sleep(1000)
    assert bystander.join() is True
    bystander.result()
    sender.wait()


def test_a_handler_may_kill_what_main_waits_for(hub, handle):
    task = spawn(sleep, 1000)
    handle(signal.SIGUSR1, lambda signum, frame: task.kill())
    sender = raise_signal_soon()
    with pytest.raises(TaskExit):
        task.result()
    sender.wait()


def test_setitimer_drives_a_handler_many_times(hub, handle):
    seen, event = [], Event()

    def handler(signum, frame):
        seen.append(1)
        if len(seen) == 10:
            signal.setitimer(signal.ITIMER_REAL, 0)
            event.set()

    handle(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    assert event.wait(30) is True
    assert len(seen) == 10


# ---- handlers of the loop ------------------------------------------------------------------------


def test_a_signal_has_many_handlers_called_in_order(hub):
    seen, event = [], Event()
    hub.add_signal_handler(signal.SIGUSR1, seen.append, "first")
    hub.add_signal_handler(signal.SIGUSR1, lambda *, key: seen.append(key), key="second")
    hub.add_signal_handler(signal.SIGUSR1, event.set)
    for round in (1, 2):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert event.wait(30) is True
        event.clear()
        assert seen == ["first", "second"] * round
    assert hub.remove_signal_handler(signal.SIGUSR1) is True


def test_a_cancelled_handler_is_not_called_and_the_others_are(hub):
    seen, event = [], Event()
    first = hub.add_signal_handler(signal.SIGUSR1, seen.append, "first")
    last = hub.add_signal_handler(signal.SIGUSR1, event.set)
    assert first.cancelled is False
    first.cancel()
    first.cancel()
    assert first.cancelled is True
    os.kill(os.getpid(), signal.SIGUSR1)
    assert event.wait(30) is True
    assert seen == []
    last.cancel()


def test_the_handler_of_before_comes_back_when_the_last_is_cancelled(hub, handle):
    def before(signum, frame):
        pass

    handle(signal.SIGUSR1, before)
    handlers = [hub.add_signal_handler(signal.SIGUSR1, print) for _ in range(2)]
    assert signal.getsignal(signal.SIGUSR1) is not before
    handlers[0].cancel()
    assert signal.getsignal(signal.SIGUSR1) is not before
    handlers[1].cancel()
    assert signal.getsignal(signal.SIGUSR1) is before


def test_remove_takes_all_handlers_out_and_says_whether_there_were_any(hub, handle):
    seen = []
    handle(signal.SIGUSR1, lambda signum, frame: seen.append("before"))
    assert hub.remove_signal_handler(signal.SIGUSR1) is False
    handlers = [hub.add_signal_handler(signal.SIGUSR1, seen.append, 1) for _ in range(2)]
    assert hub.remove_signal_handler(signal.SIGUSR1) is True
    assert hub.remove_signal_handler(signal.SIGUSR1) is False
    os.kill(os.getpid(), signal.SIGUSR1)
    settle()
    assert seen == ["before"]
    assert all(handler.cancelled for handler in handlers)


def test_destroy_puts_the_handlers_of_before_back(hub, handle):
    def before(signum, frame):
        pass

    handle(signal.SIGUSR1, before)
    hub.add_signal_handler(signal.SIGUSR1, print)
    hub.destroy()
    assert signal.getsignal(signal.SIGUSR1) is before


def test_handlers_do_not_keep_the_loop_running(hub):
    hub.add_signal_handler(signal.SIGUSR1, print)
    hub.run()
    hub.remove_signal_handler(signal.SIGUSR1)


def test_a_signal_that_cannot_be_handled_is_a_runtime_error(hub):
    for signum in (signal.SIGKILL, signal.SIGSTOP):
        with pytest.raises(RuntimeError):
            hub.add_signal_handler(signum, print)


def test_a_loop_of_another_thread_cannot_handle_signals():
    output_of(
        """
        import evergreen, signal, threading
        def thread():
            loop = evergreen.EventLoop()
            try:
                loop.add_signal_handler(signal.SIGUSR1, print)
            except RuntimeError:
                pass
            else:
                raise SystemExit("no error")
            loop.destroy()
        native = threading.Thread(target=thread)
        native.start()
        native.join()
        """
    )


def test_a_handlers_callback_may_not_block_but_spawn(hub):
    seen, event = [], Event()

    def callback():
        try:
            sleep(0)
        except RuntimeError:
            spawn(lambda: (sleep(0.001), seen.append("spawned"), event.set()))

    hub.add_signal_handler(signal.SIGUSR1, callback)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert event.wait(30) is True
    assert seen == ["spawned"]
    hub.remove_signal_handler(signal.SIGUSR1)


def test_sigchld_arrives_for_each_wait(hub):
    event = Event()
    hub.add_signal_handler(signal.SIGCHLD, event.set)
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert event.wait(30) is True
    assert child.wait() == 0
    hub.remove_signal_handler(signal.SIGCHLD)


def test_signals_that_come_while_a_task_computes_are_handled(hub):
    seen = []
    hub.add_signal_handler(signal.SIGUSR1, seen.append, 1)

    def compute():
        os.kill(os.getpid(), signal.SIGUSR1)
        pass_time()

    spawn(compute).result()
    settle()
    assert seen == [1]
    hub.remove_signal_handler(signal.SIGUSR1)


# ---- the wake-up fd ------------------------------------------------------------------------------


@pytest.fixture
def wakeup():
    """A socket pair, as asyncio has for its wake-up fd."""
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    yield here, there
    signal.set_wakeup_fd(-1)
    here.close()
    there.close()


def bytes_after_a_signal(hub, here):
    event = Event()
    handler = hub.add_signal_handler(signal.SIGUSR1, event.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert event.wait(30) is True
    hub.run(hub.RUN_NOWAIT)
    sleep(0.001)
    handler.cancel()
    try:
        return here.recv(100)
    except BlockingIOError:
        return b""


def test_a_wakeup_fd_set_before_the_loop_still_gets_its_bytes(wakeup):
    from evergreen import EventLoop
    from evergreen import _evergreen_c as core

    if core.loop_here() is not None:
        core.loop_here().destroy()
    here, there = wakeup
    assert signal.set_wakeup_fd(there.fileno()) == -1
    loop = EventLoop()
    try:
        assert bytes_after_a_signal(loop, here) == bytes([signal.SIGUSR1])
    finally:
        loop.destroy()
    assert signal.set_wakeup_fd(-1) == there.fileno()


def test_a_wakeup_fd_set_later_gets_bytes_and_the_loop_too(hub, wakeup):
    here, there = wakeup
    assert signal.set_wakeup_fd(there.fileno()) == -1
    assert bytes_after_a_signal(hub, here) == bytes([signal.SIGUSR1])
    assert signal.set_wakeup_fd(-1) == there.fileno()
    assert bytes_after_a_signal(hub, here) == b""
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("before", [lambda: None, lambda: sleep(0.001), lambda: spawn(sleep, 0.001).join()])
def test_code_that_waits_for_its_wakeup_fd_by_itself_gets_its_bytes(hub, wakeup, before):
    """As an event loop does that is not patched, in a program that has used tasks."""
    here, there = wakeup
    ran = []
    handler = hub.add_signal_handler(signal.SIGUSR1, ran.append, 1)
    signal.set_wakeup_fd(there.fileno())
    before()
    sender = raise_signal_soon()
    assert select.select([here], [], [], 60)[0] == [here]
    assert here.recv(100) == bytes([signal.SIGUSR1])
    sender.wait()
    sleep(0)
    assert ran == [1]
    handler.cancel()


def test_asyncio_hears_signals_while_main_has_a_loop(hub):
    async def main():
        heard = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, heard.set)
        sender = raise_signal_soon()
        await asyncio.wait_for(heard.wait(), 60)
        sender.wait()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

    sleep(0.001)
    start = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - start < 50


def test_a_task_hears_of_signals_beside_a_wakeup_fd_of_others(hub, wakeup):
    here, there = wakeup
    signal.set_wakeup_fd(there.fileno())
    handler = hub.add_signal_handler(signal.SIGUSR1, lambda: None)
    with patcher.patched(os=True):
        task = spawn(signal.pause)
        settle()
        assert task.is_alive()  # setting descriptors is no signal
        sleep(0.001)
        assert task.is_alive()
        os.kill(os.getpid(), signal.SIGUSR1)
        task.result(30)
    assert here.recv(100) == bytes([signal.SIGUSR1])
    handler.cancel()


def test_a_wakeup_fd_set_later_is_left_in_place_by_destroy(hub, wakeup):
    here, there = wakeup
    signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    hub.destroy()
    assert signal.set_wakeup_fd(-1) == there.fileno()


def test_set_wakeup_fd_refuses_what_it_always_refused(hub, tmp_path):
    with pytest.raises(TypeError):
        signal.set_wakeup_fd("x")
    with pytest.raises((OSError, ValueError)):
        signal.set_wakeup_fd(999)
    event = Event()
    hub.add_signal_handler(signal.SIGUSR1, event.set)
    sender = raise_signal_soon()
    assert event.wait(30) is True
    sender.wait()
    hub.remove_signal_handler(signal.SIGUSR1)


def test_a_wakeup_fd_that_was_full_gets_the_bytes_that_come_later(hub):
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    event = Event()
    handler = hub.add_signal_handler(signal.SIGUSR1, event.set)
    try:
        while True:
            os.write(write, bytes(4096))
    except BlockingIOError:
        pass
    for _ in range(2):
        sender = raise_signal_soon()
        assert event.wait(30) is True
        event.clear()
        sender.wait()
        received = b""
        while select.select([read], [], [], 0)[0]:
            received = os.read(read, 65536)
    assert received == bytes([signal.SIGUSR1])
    assert signal.set_wakeup_fd(-1) == write
    handler.cancel()
    os.close(read)
    os.close(write)


def test_a_full_wakeup_fd_is_reported_as_cpython_does():
    child = run_python(
        """
        import evergreen, os, signal, subprocess
        from evergreen.event import Event
        event = Event()
        read, write = os.pipe()
        os.set_blocking(write, False)
        evergreen.current.loop.add_signal_handler(signal.SIGUSR1, event.set)
        try:
            while True:
                os.write(write, bytes(4096))
        except BlockingIOError:
            pass
        signal.set_wakeup_fd(write)
        sender = subprocess.Popen(["sh", "-c", f"sleep 0.02; kill -USR1 {os.getpid()}"])
        event.wait()
        sender.wait()
        """
    )
    assert child.returncode == 0
    assert "trying to write to the signal wakeup fd" in child.stderr
    assert "BlockingIOError" in child.stderr


def test_a_wakeup_fd_closed_without_being_taken_out_does_no_harm(hub):
    here, there = socket.socketpair()
    there.setblocking(False)
    signal.set_wakeup_fd(there.fileno())
    here.close()
    there.close()
    event = Event()
    for _ in range(3):
        handler = hub.add_signal_handler(signal.SIGUSR1, event.set)
        sender = raise_signal_soon()
        assert event.wait(30) is True
        event.clear()
        sender.wait()
        handler.cancel()


def test_set_wakeup_fd_is_native_again_after_destroy():
    output_of(
        """
        import evergreen, os, signal
        native = signal.set_wakeup_fd
        loop = evergreen.EventLoop()
        loop.destroy()
        read, write = os.pipe()
        os.set_blocking(write, False)
        assert signal.set_wakeup_fd(write) == -1
        os.kill(os.getpid(), signal.SIGCONT)
        signal.signal(signal.SIGUSR1, lambda *args: None)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert os.read(read, 10) == bytes([signal.SIGUSR1])
        """
    )


def test_asyncio_keeps_its_signal_handlers_beside_a_loop_of_ours():
    child = run_python(
        """
        import asyncio, evergreen, os, signal

        evergreen.sleep(0)

        async def main():
            got = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set)
            os.kill(os.getpid(), signal.SIGUSR1)
            evergreen.sleep(0.01)
            await asyncio.wait_for(got.wait(), 10)
            print("got it")

        asyncio.run(main())
        evergreen.sleep(0.001)
        """
    )
    assert (child.stdout, child.returncode) == ("got it\n", 0), child.stderr
