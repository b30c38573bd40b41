"""patch_signal.c: who waits for a signal lets other tasks run."""

import os
import signal
import threading

import pytest
from helpers import output_of, parked, settle

from evergreen import patcher, spawn

USR1 = signal.SIGUSR1


@pytest.fixture
def patched(hub):
    with patcher.patched(os=True, thread=True):
        yield hub


@pytest.fixture
def blocked(patched):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {USR1, signal.SIGUSR2})
    yield
    while signal.sigtimedwait({USR1, signal.SIGUSR2}, 0):
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def send(number):
    """To this thread: another one, idle in a pool, has not blocked it."""
    signal.pthread_kill(threading.main_thread().ident, number)


def test_sigwait_lets_other_tasks_run(blocked):
    task = parked(signal.sigwait, iter([USR1]))
    send(USR1)
    assert task.result() is USR1


def test_sigwait_takes_what_is_sent_to_the_process():
    out = output_of(
        """
        import os, signal
        import evergreen
        from evergreen import patcher
        patcher.patch()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        task = evergreen.spawn(signal.sigwait, [signal.SIGUSR1])
        evergreen.sleep(0)
        os.kill(os.getpid(), signal.SIGUSR1)
        print(task.result().name)
        """
    )
    assert out == "SIGUSR1\n"


def test_sigwaitinfo_lets_other_tasks_run(blocked):
    task = parked(signal.sigwaitinfo, [USR1])
    send(signal.SIGUSR2)
    settle()
    assert task.is_alive()
    send(USR1)
    assert task.result().si_pid == os.getpid()


def test_sigtimedwait_lets_other_tasks_run_until_its_time_is_up(blocked):
    assert parked(signal.sigtimedwait, [USR1], 0.01).result() is None
    task = parked(signal.sigtimedwait, [USR1], 60)
    send(USR1)
    assert task.result().si_signo == USR1
    assert signal.sigtimedwait([USR1], 0) is None


def test_a_killed_sigwait_takes_no_signal(blocked):
    task = parked(signal.sigwait, [USR1])
    task.kill()
    task.join()
    send(USR1)
    assert signal.sigwait([USR1]) is USR1


@pytest.mark.parametrize("bad", [[-1], ["USR1"], 5])
def test_bad_signals_are_refused(patched, bad):
    with pytest.raises((ValueError, TypeError)):
        signal.sigwait(bad)


def test_pause_lets_other_tasks_run_until_a_handler_has_run(patched):
    handled = []
    before = signal.signal(USR1, lambda *args: handled.append(1))
    try:
        tasks = [parked(signal.pause) for _ in range(2)]
        os.kill(os.getpid(), USR1)
        for task in tasks:
            task.join()
        assert handled == [1]
    finally:
        signal.signal(USR1, before)


def test_pause_is_no_deadlock():
    out = output_of(
        """
        import os, signal, subprocess, sys
        import evergreen
        from evergreen import patcher
        patcher.patch()
        evergreen.sleep(0)
        subprocess.Popen(["sh", "-c", f"sleep 0.1; kill -INT {os.getpid()}"])
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert out == "interrupted\n"


def test_pthread_kill_of_a_task_reaches_its_thread(patched):
    handled = []
    before = signal.signal(USR1, lambda *args: handled.append(1))
    try:
        thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), USR1))
        thread.start()
        thread.join()
        settle()
        assert handled == [1]
    finally:
        signal.signal(USR1, before)


@pytest.mark.parametrize(
    "call", [lambda: signal.signal(USR1, signal.SIG_DFL), lambda: signal.set_wakeup_fd(-1)]
)
def test_a_thread_may_not_set_handlers_a_task_may(patched, call):
    errors = []

    def try_it():
        try:
            call()
        except ValueError as exc:
            errors.append(str(exc))

    spawn(try_it).join()
    assert not errors
    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert len(errors) == 1 and "main thread" in errors[0]
    with patcher.patched():
        patcher.unpatch(thread=True)
        native = threading.Thread(target=try_it)
        native.start()
        native.join()
    assert errors == errors[:1] * 2
