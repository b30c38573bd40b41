"""evergreen.signals: signals as something to iterate over."""

import os
import signal
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1

import pytest
from helpers import child_python, in_thread, settle

from evergreen import TaskExit, signals, sleep, spawn
from evergreen.timeout import Timeout

pytestmark = pytest.mark.usefixtures("hub")


def send(signum):
    os.kill(os.getpid(), signum)


def test_signals_are_iterated_over():
    with signals(SIGHUP, SIGUSR1) as arriving:
        waiting = spawn(next, arriving)
        settle()
        assert waiting.is_alive()
        send(SIGHUP)
        assert waiting.result() is SIGHUP
        send(SIGUSR1)
        for signum in arriving:
            assert signum is signal.Signals.SIGUSR1
            break


def test_what_arrives_meanwhile_is_kept():
    with signals(SIGHUP, SIGUSR1) as arriving:
        for signum in (SIGHUP, SIGUSR1, SIGHUP):
            send(signum)
            sleep(0.001)
        assert [next(arriving) for _ in range(3)] == [SIGHUP, SIGUSR1, SIGHUP]


def test_the_handlers_of_before_come_back():
    before = signal.getsignal(SIGHUP)
    with signals(SIGHUP):
        assert signal.getsignal(SIGHUP) is not before
        with signals(SIGHUP):
            pass
        assert signal.getsignal(SIGHUP) is not before
    assert signal.getsignal(SIGHUP) is before


def test_two_blocks_both_see_a_signal():
    with signals(SIGHUP) as one, signals(SIGHUP) as two:
        send(SIGHUP)
        assert next(one) == next(two) == SIGHUP


def test_ctrl_c_can_be_one_of_them():
    with signals(SIGINT) as arriving:
        send(SIGINT)
        assert next(arriving) is SIGINT


def test_waiting_can_time_out():
    with signals(SIGHUP) as arriving:
        with pytest.raises(TimeoutError):
            arriving.next(0.002)
        with pytest.raises(Timeout), Timeout(0.002):
            next(arriving)


def test_a_killed_wait_loses_nothing():
    with signals(SIGHUP) as arriving:
        victim = spawn(next, arriving)
        settle()
        victim.kill()
        with pytest.raises(TaskExit):
            victim.result()
        send(SIGHUP)
        assert next(arriving) is SIGHUP


def test_the_end_of_the_block_ends_the_iteration():
    with signals(SIGHUP) as arriving:
        waiting = spawn(list, arriving)
        settle()
    assert waiting.result() == []
    assert list(arriving) == []
    with arriving:  # and again
        send(SIGHUP)
        assert next(arriving) is SIGHUP
        with pytest.raises(RuntimeError):
            arriving.__enter__()


def test_mistakes_are_told():
    before = signal.getsignal(SIGHUP)  # under nohup it is ignored
    with pytest.raises(TypeError):
        signals()
    with pytest.raises(ValueError):
        signals(5000)
    with pytest.raises(RuntimeError):
        with signals(SIGHUP, signal.SIGKILL):
            pass
    assert signal.getsignal(SIGHUP) == before
    with pytest.raises(RuntimeError):
        in_thread(signals(SIGHUP).__enter__)
    assert repr(signals(SIGHUP, SIGTERM)) == "<signals SIGHUP, SIGTERM>"


def test_a_program_that_only_waits_for_signals():
    code = """
        import evergreen, signal
        with evergreen.signals(signal.SIGTERM, signal.SIGHUP) as arriving:
            print("ready")
            for signum in arriving:
                print(signum.name)
                if signum == signal.SIGTERM:
                    break
        """
    with child_python(code) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(SIGHUP)
        assert child.stdout.readline() == "SIGHUP\n"
        child.send_signal(SIGTERM)
        assert child.stdout.read() == "SIGTERM\n"
        assert child.wait(30) == 0
