"""native_thread.c: threads that Python does not know, and the signals of those that are ours."""

import signal
import subprocess
import textwrap

import pytest
from helpers import output_of, run_python

from evergreen import _evergreen_c as core

LIBRARY = """
#include <pthread.h>
#include <time.h>

static void (*callback)(void);

static void *
later(void *unused)
{
    struct timespec time = {0, 30000000};
    nanosleep(&time, NULL);
    if (callback)
        callback();
    return unused;
}

void
call_later(void (*function)(void))
{
    pthread_t thread;
    callback = function;
    pthread_create(&thread, NULL, later, NULL);
    pthread_detach(thread);
}
"""

CALLER = """
import ctypes, queue, sys, threading
import evergreen
from evergreen import locks, patcher
from evergreen.event import Event
from evergreen.queue import Queue

library = ctypes.CDLL(sys.argv[1])
CALLBACK = ctypes.CFUNCTYPE(None)
kept = []

def call_later(function):
    kept.append(CALLBACK(function))
    library.call_later(kept[-1])

def notify(condition):
    with condition:
        condition.notify()

def wait(condition):
    with condition:
        condition.wait()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A library in C that calls back from a thread of its own, 30 ms later."""
    path = tmp_path_factory.mktemp("library") / "library.so"
    command = ["cc", "-shared", "-fPIC", "-pthread", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=LIBRARY, text=True, check=True)
    return path


@pytest.mark.parametrize(
    ("make", "wake", "wait"),
    [
        ("Event()", "it.set()", "it.wait()"),
        ("Queue()", "it.put(1)", "it.get()"),
        ("locks.Semaphore(0)", "it.release()", "it.acquire()"),
        ("locks.Condition()", "notify(it)", "wait(it)"),
        ("threading.Event()", "it.set()", "it.wait()"),
        ("threading.Semaphore(0)", "it.release()", "it.acquire()"),
        ("threading.Condition()", "notify(it)", "wait(it)"),
        ("queue.Queue()", "it.put(1)", "it.get()"),
        ("queue.SimpleQueue()", "it.put(1)", "it.get()"),
    ],
)
@pytest.mark.parametrize("patched", ["", "patcher.patch()"])
def test_a_thread_of_a_library_may_still_wake_a_task(library, patched, make, wake, wait):
    code = f"{CALLER}\n{patched}\nevergreen.sleep(0)\nit = {make}\n"
    code += f"call_later(lambda: {wake})\n{wait}\nprint('woken')\n"
    assert output_of(code, library) == "woken\n"


def test_a_thread_of_a_library_that_wakes_nobody_ends_in_a_deadlock(library):
    code = f"{CALLER}\nlibrary.call_later(None)\nEvent().wait()"
    child = run_python(code, library)
    assert child.returncode == 1
    assert "Deadlock: nothing can ever wake" in child.stderr


OWN = {
    "the lanes of the core": "from evergreen.io import fs; fs.stat('/')",
    "the resolver": "import socket; socket.getaddrinfo('localhost', 80)",
    "the lanes of Python": "evergreen.offload(int)",
    "os.system": "import os; os.system('true')",
    "a thread pool": "pool = futures.ThreadPoolExecutor(2); pool.submit(int).get()",
    "a pool with an initializer": "futures.ThreadPoolExecutor(2, initializer=int).submit(int).get()",
    "a file as standard input": "from evergreen.io import tty; it = tty.StdinStream(os.open('/bin/sh', 0))",
    "a wait for a child": "import subprocess; subprocess.run(['true'])",
    "a lock of files": "import fcntl; fcntl.flock(open(sys.executable), fcntl.LOCK_SH)",
}
PRELUDE = """
import os, signal, sys, time
import evergreen
from evergreen import futures, patcher
patcher.patch()
evergreen.sleep(0)
"""


@pytest.mark.parametrize("name", [name for name in OWN if "input" not in name])
def test_threads_of_our_own_are_no_reason_to_wait_for_ever(name):
    child = run_python(f"{PRELUDE}\n{OWN[name]}\nfrom evergreen.event import Event; Event().wait()")
    assert "Deadlock: nothing can ever wake" in child.stderr


def test_the_watchdog_of_faulthandler_is_no_reason_to_wait_for_ever():
    code = "import faulthandler; faulthandler.dump_traceback_later(60)"
    child = run_python(f"{PRELUDE}\n{code}\nfrom evergreen.event import Event; Event().wait()")
    assert "Deadlock: nothing can ever wake" in child.stderr


@pytest.mark.parametrize("name", OWN)
def test_a_signal_that_is_waited_for_is_received_by_no_thread_of_our_own(name):
    code = """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])
    for _ in range(20):
        os.kill(os.getpid(), signal.SIGUSR2)
        assert signal.sigwait([signal.SIGUSR2]) == signal.SIGUSR2
    os.kill(os.getpid(), signal.SIGTERM)
    print(signal.sigwait([signal.SIGTERM]).name, flush=True)
    os._exit(0)
    """
    out = output_of(f"{PRELUDE}\n{OWN[name]}\n{textwrap.dedent(code)}")
    assert out == "SIGTERM\n"


MASK = "import signal; print(sorted(map(int, signal.pthread_sigmask(0, []))))"
WAYS = {
    "system": "os.system(command)",
    "offload": "evergreen.offload(subprocess.run, [sys.executable, '-c', MASK])",
    "pool": "futures.ThreadPoolExecutor(1).submit(subprocess.run, [sys.executable, '-c', MASK]).get()",
    "subprocess": "subprocess.run([sys.executable, '-c', MASK])",
    "spawn": "evergreen.spawn(os.system, command).join()",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_program_that_a_native_thread_starts_has_the_signal_mask_of_the_caller(way):
    out = output_of(
        f"""{PRELUDE}
import os, subprocess
MASK = {MASK!r}
command = f'{{sys.executable}} -c "{{MASK}}"'
{WAYS[way]}
"""
    )
    assert out == "[]\n"


def test_signal_mask_returns_what_was_blocked_and_runs_no_handler():
    before = core.signal_mask()
    try:
        assert core.signal_mask(1 << (signal.SIGUSR1 - 1)) == before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGUSR1}
        core.signal_mask(core.SIGNAL_MASK_ALL)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        core.signal_mask(before)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGRTMAX} <= blocked
    assert signal.SIGSEGV not in blocked
    with pytest.raises(TypeError):
        core.signal_mask("x")
