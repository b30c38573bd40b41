"""What the tests share."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import evergreen
from evergreen import _evergreen_c as core
from evergreen import _threads, spawn

native_sleep = core.patch_native("time", "sleep")

# For localhost, signed by itself; with its key.
CERTIFICATE = Path(__file__).parent / "data" / "localhost.pem"


class Boom(Exception):
    pass


@contextlib.contextmanager
def slow_file(path):
    """A new file that open() waits for in the kernel, as if its disk did not answer, until it is released.

    It has a lease, which the kernel would have its holder give up by SIGIO.
    """
    native_open, native_close = core.patch_native("posix", "open"), core.patch_native("posix", "close")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    holder = native_open(path, os.O_RDWR | os.O_CREAT)
    fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def release():
        with contextlib.suppress(BlockingIOError):  # it was, before
            fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    try:
        yield release
    finally:
        native_close(holder)  # which ends the lease
        signal.signal(signal.SIGIO, before)


def threads_in_open():
    """How many threads of this process wait in open(2), for a slow file or a FIFO's other end."""
    found = 0
    native_open, native_close = core.patch_native("posix", "open"), core.patch_native("posix", "close")
    for thread in core.patch_native("posix", "listdir")("/proc/self/task"):
        try:
            fd = native_open(f"/proc/self/task/{thread}/wchan", os.O_RDONLY)
        except OSError:
            continue  # it has ended
        text = core.patch_native("posix", "read")(fd, 100)
        found += b"__break_lease" in text or b"wait_for_partner" in text
        native_close(fd)
    return found


def settle():
    """Return when every task is blocked: what was ready has run, and what that made ready, too."""
    loop = evergreen.current.loop
    while True:
        evergreen.sleep(0)
        if not loop.stats()["ready"]:
            return


def pass_time(seconds=0.003):
    """Let time pass without letting anything run; what is due then is seen at the next poll."""
    native_sleep(seconds)


def in_thread(function, *args):
    """Return what function(*args) returns, or raise what it raises, in a native thread of its own."""
    outcome = []

    def call():
        try:
            outcome.append((function(*args), None))
        except BaseException as exc:
            outcome.append((None, exc))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(30)
    assert outcome, "the thread has not ended"
    value, exc = outcome[0]
    if exc is not None:
        raise exc
    return value


def run_python(code, *args, options=(), timeout=30, **kwargs):
    """Run a script in a fresh interpreter; return its CompletedProcess, with text."""
    command = [sys.executable, *options, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **kwargs)


def output_of(code, *args, **kwargs):
    """What a script printed; it must have ended well, and quietly."""
    child = run_python(code, *args, **kwargs)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout + child.stderr
    return child.stdout


@contextlib.contextmanager
def child_python(code, *args, options=()):
    """A running script, with text pipes; it is killed if it outlives the block."""
    command = [sys.executable, "-u", *options, "-c", textwrap.dedent(code), *map(str, args)]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def wait_until_asleep(pid):
    """Return when a process is asleep in the kernel, and has used no processor for a while."""
    calm = 0
    before = None
    deadline = time.monotonic() + 30
    while calm < 3:
        assert time.monotonic() < deadline, "the process does not come to rest"
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        now = (fields[0], fields[11], fields[12])
        calm = calm + 1 if now == before and fields[0] == "S" else 0
        before = now
        native_sleep(0.005)


def parked(function, *args, **kwargs):
    """A task that is inside function(*args), waiting."""
    task = spawn(function, *args, **kwargs)
    settle()
    assert task.is_alive()
    return task


def refusal(function, *args, **kwargs):
    with pytest.raises(Exception) as caught:
        function(*args, **kwargs)
    return caught.type, str(caught.value)


def native(function, *args):
    """A call in a native thread of its own; its get() waits as a task does."""
    call = _threads.Call(function, args, {})
    _threads.start_native_thread(call.run, ())
    return call


def without_memory(function, *args, failures=0):
    """Return function(*args), with the first so many allocations failing (0: all).

    It may not switch: greenlet needs memory for that.
    """
    testcapi = pytest.importorskip("_testcapi", reason="nothing makes allocations fail without _testcapi")
    set_nomemory, remove_mem_hooks = testcapi.set_nomemory, testcapi.remove_mem_hooks
    set_nomemory(0, failures)
    try:
        return function(*args)
    finally:
        remove_mem_hooks()
