"""exit.c: finalisers and atexit functions at the end of the interpreter."""

import textwrap

import pytest
from helpers import output_of, run_python

PATCH = """
from evergreen import patcher
patcher.patch()
import evergreen
evergreen.spawn(int).join()
"""

# Each runs in a finaliser, with what it needs as the values of its parameters; say() is print().
CALLS = {
    "sleep": ("sleep=time.sleep", "say(sleep(0.001))"),
    "ident": ("ident=_thread.get_ident, main=threading.main_thread().ident", "say(ident() == main)"),
    "count": ("count=_thread._count", "say(count() <= 1)"),
    "start": ("start=_thread.start_new_thread", "ending(lambda: start(int, ()))"),
    "lock": ("lock=threading.Lock()", "lock.acquire(); say(lock.acquire(False)); lock.release()"),
    "lock with a timeout": ("lock=threading.Lock()", "lock.acquire(); say(lock.acquire(timeout=0.001))"),
    "lock as a block": (
        "lock=threading.Lock()",
        "lock.__enter__(); lock.__exit__(None, None, None); say('ok')",
    ),
    "rlock": (
        "lock=threading.RLock()",
        "lock.acquire(); lock.acquire(); lock.release(); lock.release(); say('ok')",
    ),
    "rlock as a block": (
        "lock=threading.RLock()",
        "lock.__enter__(); lock.__exit__(None, None, None); say('ok')",
    ),
    "rlock is owned": (
        "lock=threading.RLock()",
        "say(lock._is_owned()); lock.acquire(); say(lock._is_owned())",
    ),
    "event": ("it=threading.Event()", "say(it.wait(0.001)); it.set(); say(it.wait())"),
    "condition": (
        "it=threading.Condition()",
        "it.acquire(); say(it.wait(0.001)); it.notify_all(); it.release()",
    ),
    "semaphore": (
        "it=threading.Semaphore(1)",
        "say(it.acquire()); say(it.acquire(timeout=0.001)); it.release()",
    ),
    "queue": ("it=queue.Queue()", "it.put(1); say(it.get())"),
    "simple queue": ("it=queue.SimpleQueue()", "it.put(1); say(it.get()); say(it.empty())"),
    "current thread": ("current=threading.current_thread", "say(current().name)"),
    "thread-local data": ("local=threading.local()", "local.x = 1; say(local.x)"),
    "logging": ("log=logging.getLogger().warning", "log('logged'); say('ok')"),
    "pipe": ("read=os.read, write=os.write, ends=os.pipe()", "write(ends[1], b'x'); say(read(ends[0], 1))"),
    "stream": ("ends=os.pipe(), open=open", "f = open(ends[1], 'w'); f.write('x'); f.close(); say('ok')"),
    "select": ("select=select.select", "say(select([], [], [], 0.001))"),
    "poll": ("poll=select.poll", "say(poll().poll(1))"),
    "epoll": ("epoll=select.epoll", "say(epoll().poll(0.001))"),
    "socket": (
        "ends=[s.detach() for s in socket.socketpair()], s=_socket.socket",
        "a, b = (s(fileno=e) for e in ends); a.send(b'x'); say(b.recv(1)); a.close(); b.close()",
    ),
    "resolver": ("resolve=_socket.getaddrinfo", "say(len(resolve('127.0.0.1', 80)) > 0)"),
    "child": ("spawn=os.posix_spawn, wait=os.waitpid", "say(wait(spawn('/bin/true', ['true'], {}), 0)[1])"),
    "system": ("system=os.system", "say(system('true'))"),
    "signal": ("signal=_signal.signal, get=_signal.getsignal", "signal(10, say); say(get(10) is say)"),
    "wakeup fd": ("wake=_signal.set_wakeup_fd", "wake(-1); say('ok')"),
    "mask": ("mask=_signal.pthread_sigmask", "say(mask(0, []))"),
    "flock": ("flock=fcntl.flock, fd=os.open('/bin/sh', 0)", "flock(fd, 8); say('ok')"),
    "sqlite": (
        "db=sqlite3.connect(':memory:', check_same_thread=False)",
        "say(db.execute('select 1').fetchone())",
    ),
}

FINALISER = """
import _signal, _socket, _thread, fcntl, logging, os, queue, select, socket, sqlite3, sys, threading, time

def ending(function, say=print):
    try:
        say(function() is not None)
    except RuntimeError:
        say("no more threads")

class Last:
    def __init__(self):
        self.me = self

    def __del__(self, say=print, ending=ending, {needs}):
        try:
            {call}
        except BaseException as exc:
            say(type(exc).__name__, exc)
        {again}

last = Last()
"""


def program(name, again=""):
    needs, call = CALLS[name]
    call = textwrap.indent(call.replace("; ", "\n"), " " * 12).strip()
    return FINALISER.format(needs=needs, call=call, again=again)


@pytest.mark.parametrize("name", CALLS)
def test_a_finaliser_of_the_interpreters_end_calls_what_is_native(name):
    code = program(name)
    native, patched = run_python(code), run_python(PATCH + code)
    assert native.stdout != ""
    assert (patched.stdout, patched.stderr) == (native.stdout, native.stderr)
    assert patched.returncode == native.returncode == 0


@pytest.mark.parametrize("name", ["sleep", "rlock", "event", "select", "resolver"])
def test_an_atexit_function_may_wait_whenever_it_was_registered(name):
    needs, call = CALLS[name]
    call = textwrap.indent(call.replace("; ", "\n"), " " * 4)
    code = f"""
import _socket, _thread, atexit, logging, os, queue, select, socket, threading, time

def last(say=print, {needs}):
{call}

atexit.register(last)
"""
    native = run_python(code)
    assert native.stdout != ""
    for patched in (run_python(PATCH + code), run_python(code + PATCH)):
        assert (patched.stdout, patched.stderr) == (native.stdout, native.stderr)


def test_tasks_run_yet_while_atexit_functions_wait_for_them():
    out = output_of(
        f"""
        import atexit, queue, threading
        answers = queue.Queue()
        atexit.register(lambda: print(answers.get()))
        {PATCH.replace(chr(10), chr(10) + " " * 8)}
        import time
        threading.Thread(target=lambda: (time.sleep(0.05), answers.put("late")), daemon=True).start()
        """
    )
    assert out == "late\n"


def test_pytest_in_a_patched_process_ends_without_a_line_on_stderr(tmp_path):
    (tmp_path / "conftest.py").write_text("from evergreen import patcher\n\npatcher.patch()\n")
    (tmp_path / "test_it.py").write_text(
        "import threading, time\n\n"
        "def test_it(caplog):\n"
        "    thread = threading.Thread(target=time.sleep, args=[0.01])\n"
        "    thread.start()\n"
        "    thread.join()\n"
    )
    child = run_python(
        "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))", cwd=tmp_path
    )
    assert (child.returncode, child.stderr) == (0, ""), child.stdout


def test_waits_of_our_own_are_native_in_finalisers():
    out = output_of(
        """
        import evergreen
        from evergreen.event import Event
        from evergreen.locks import RLock

        class Last:
            def __init__(self):
                self.me = self

            def __del__(self, event=Event(), lock=RLock(), sleep=evergreen.sleep, say=print):
                sleep(0.001)
                say(event.wait(0.001))
                with lock:
                    say("locked")

        evergreen.sleep(0)
        last = Last()
        """
    )
    assert out == "False\nlocked\n"


@pytest.mark.parametrize("end", ["", "raise SystemExit(5)"])
def test_threads_that_wait_for_ever_after_main_has_ended_are_a_failure(end):
    code = "import threading\nthreading.Thread(target=threading.Event().wait).start()"
    child = run_python(f"{PATCH}\n{code}\n{end}")
    assert child.returncode == 1
    assert "Deadlock: nothing can ever wake" in child.stderr


def test_a_program_that_ends_well_has_its_own_status():
    assert run_python(f"{PATCH}\nimport threading\nthreading.Thread(target=int).start()").returncode == 0
    assert run_python(f"{PATCH}\nraise SystemExit(5)").returncode == 5
