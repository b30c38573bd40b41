"""What the tests share."""

import contextlib
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
