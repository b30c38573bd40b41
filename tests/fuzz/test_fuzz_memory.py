"""Memory that ends: in each operation the k-th allocation fails, for each k there is.

An operation then raises MemoryError or gives the right result, and a failure inside a task or a callback is
raised or reported. Nothing is lost, left behind or half done, and the event loop goes on.

No fork is among them: CPython ends a child that finds no memory for its locks.

Each operation has an interpreter of its own, in which `_testcapi.set_nomemory` makes the allocations fail.
"""

import _thread
import contextlib
import errno
import faulthandler
import gc
import itertools
import os
import queue
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import greenlet
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # when it is the program
from helpers import CERTIFICATE, settle

import evergreen
from evergreen import _evergreen_c as core
from evergreen import futures, iwait, patcher, spawn, wait
from evergreen.event import Event
from evergreen.io import dns, fs, process
from evergreen.io.pipe import PipeClient, PipeServer
from evergreen.io.tcp import TCPClient, TCPServer
from evergreen.io.tls import TLSServer, connect
from evergreen.io.udp import UDPEndpoint
from evergreen.local import local
from evergreen.locks import Barrier, BoundedSemaphore, Condition, Lock, RLock, Semaphore
from evergreen.pool import Pool
from evergreen.queue import LifoQueue, PriorityQueue, Queue
from evergreen.timeout import fail_after, move_on_after

try:
    from _testcapi import remove_mem_hooks, set_nomemory
except ImportError:
    set_nomemory = None

WITHIN = 20  # seconds for one operation
ENOUGH = 25  # successes in a row: the operation allocates no more
OPERATIONS = {}


def operation(function):
    """function() makes ready and returns what to do, its right result and, perhaps, a check afterwards."""
    OPERATIONS[function.__name__] = function
    return function


# ---- tasks ---------------------------------------------------------------------------------------


@operation
def task():
    return lambda: spawn(lambda: 7).result(), 7


@operation
def many_tasks():
    return lambda: [t.result() for t in [spawn(lambda n=n: n) for n in range(12)]], list(range(12))


@operation
def join():
    def act():
        blocker.set()
        return sleeper.join(), sleeper.join(5)

    blocker = Event()
    sleeper = spawn(blocker.wait)
    settle()
    return act, (True, True)


@operation
def failure():
    def fail():
        raise KeyError(7)

    def act():
        try:
            spawn(fail).result()
        except KeyError as exc:
            return exc.args

    return act, (7,)


@operation
def unobserved_failure():
    """A failure that nobody waits for is reported, as itself or as a MemoryError."""

    def fail():
        ran.append(1)
        raise KeyError(7)

    def act():
        spawn(fail)
        evergreen.sleep(0)
        evergreen.sleep(0)
        gc.collect()

    def check():
        gc.collect()
        assert not ran or [kind for kind in kinds(reported) if kind in ("KeyError", "MemoryError")], (
            "not reported"
        )
        reported[:] = [args for args in reported if args.exc_type is not KeyError]

    ran = []
    return act, None, check


@operation
def kill():
    def act():
        sleeper.kill()
        return sleeper.join()

    def check():
        sleeper.kill()
        assert sleeper.join(5)

    sleeper = spawn(Event().wait)
    settle()
    return act, True, check


@operation
def kill_before_start():
    def act():
        t = spawn(evergreen.sleep, 100)
        t.kill(reason="enough")
        return t.join()

    return act, True


@operation
def done_callback():
    def act():
        t = spawn(lambda: 3)
        t.add_done_callback(lambda t: seen.append(t.result()))
        t.join()
        return list(seen)

    seen = []
    return act, [3]


@operation
def sleep():
    def act():
        evergreen.sleep(0)
        evergreen.sleep(0.0005)
        return 1

    return act, 1


@operation
def many_sleeps():
    def nap(n):
        evergreen.sleep(0.0001 * (n % 7 + 1))
        return n

    return lambda: [t.result() for t in [spawn(nap, n) for n in range(12)]], list(range(12))


@operation
def group():
    def act():
        with evergreen.TaskGroup() as tasks:
            for n in range(3):
                tasks.spawn(done.append, n)
        return sorted(done)

    done = []
    return act, [0, 1, 2]


@operation
def group_that_fails():
    def act():
        try:
            with evergreen.TaskGroup() as tasks:
                tasks.spawn(evergreen.sleep, 100)
                tasks.spawn(int, "x")
        except BaseExceptionGroup as exc:
            if exc.subgroup(MemoryError):
                raise MemoryError from exc
            return [type(one).__name__ for one in exc.exceptions]
        except ValueError:
            return ["ValueError"]

    return act, ["ValueError"]


@operation
def scopes():
    def act():
        with move_on_after(0.001) as scope:
            evergreen.sleep(100)
        try:
            with fail_after(0.001):
                evergreen.sleep(100)
        except TimeoutError:
            pass
        with evergreen.shield():
            evergreen.sleep(0)
        return scope.expired

    return act, True


@operation
def task_local():
    def act():
        def visit(n):
            values.x = n
            evergreen.sleep(0)
            return values.x

        return [t.result() for t in [spawn(visit, n) for n in range(5)]]

    values = local()
    return act, list(range(5))


# ---- locks, queues, channels -----------------------------------------------------------------------


def handed_over(make):
    """Three tasks pass a lock around; afterwards it is free."""

    def setup():
        def visit():
            with lock:
                evergreen.sleep(0)
            return 1

        def check():
            assert lock.acquire(timeout=5), "the lock is lost"
            lock.release()

        lock = make()
        return lambda: [t.result() for t in [spawn(visit) for _ in range(3)]], [1, 1, 1], check

    return setup


for make in Lock, RLock, Semaphore, BoundedSemaphore, Condition:
    OPERATIONS[make.__name__.lower()] = handed_over(make)


@operation
def lock_timeout():
    lock = Lock()
    lock.acquire()
    return lambda: lock.acquire(timeout=0.001), False


@operation
def condition_wait():
    def consume():
        with condition:
            while not items:
                condition.wait(5)
            return items.pop()

    def act():
        with condition:
            items.extend([1, 1])
            condition.notify_all()
        return [t.result() for t in consumers]

    def check():
        assert condition.acquire(timeout=5), "the lock is lost"
        condition.release()

    condition, items = Condition(), []
    consumers = [spawn(consume), spawn(consume)]
    settle()
    return act, [1, 1], check


@operation
def condition_waiter():
    def act():
        with condition:
            return condition.wait(0.001)

    def check():
        assert condition.acquire(timeout=5), "the lock is lost"
        condition.release()

    condition = Condition()
    return act, False, check


@operation
def barrier():
    def act():
        others = [spawn(gate.wait, 1) for _ in range(2)]
        try:
            mine = gate.wait(1)
        except threading.BrokenBarrierError:
            for other in others:
                other.result()
            raise
        return sorted([mine] + [t.result() for t in others])

    gate = Barrier(3)
    return act, [0, 1, 2]


@operation
def event():
    def act():
        waiters = [spawn(flag.wait, 5) for _ in range(3)]
        evergreen.sleep(0)
        flag.set()
        return [t.result() for t in waiters]

    flag = Event()
    return act, [True] * 3


def passed_on(make):
    """What goes in comes out, or put() has raised, or it is still there."""

    def setup():
        def produce():
            for n in range(6):
                items.put(n, timeout=5)
                put.append(n)

        def act():
            producer = spawn(produce)
            try:
                for n in range(6):
                    taken[n] = items.get(timeout=1)
            except queue.Empty:
                producer.result(1)  # it has failed
                raise
            producer.join()
            return sorted(taken)

        def check():
            for _ in range(4):
                evergreen.sleep(0)
            got = [n for n in taken if n is not None]
            while not items.empty():
                got.append(items.get_nowait())
            assert set(put) <= set(got), f"put {put}, got {got}"
            assert len(got) == len(set(got)) <= len(put) + 1, f"put {put}, got {got}"

        items, put, taken = make(2), [], [None] * 6
        return act, list(range(6)), check

    return setup


for make in Queue, LifoQueue, PriorityQueue:
    OPERATIONS[make.__name__.lower()] = passed_on(make)


@operation
def channel():
    def act():
        def give():
            for n in range(4):
                channel.send(n)

        giver = spawn(give)
        try:
            got = [channel.receive() for _ in range(4)]
        except evergreen.Deadlock:
            giver.result(1)  # it has failed
            raise
        giver.result()
        return got

    channel = evergreen.Channel()
    return act, [0, 1, 2, 3]


# ---- waiting, futures, pools --------------------------------------------------------------------------


@operation
def waiting():
    def act():
        tasks = [spawn(lambda n=n: n) for n in range(4)]
        flag.set()
        some = wait([*tasks, flag], timeout=5)
        rest = [t.result() for t in iwait(tasks, timeout=5)]
        return len(some), sorted(rest)

    flag = Event()
    return act, (5, [0, 1, 2, 3])


@operation
def future():
    def act():
        promise = futures.Future()
        promise.add_done_callback(lambda f: seen.append(f.result()))
        getter = spawn(promise.result, 5)
        evergreen.sleep(0)
        promise.set_result(3)
        return getter.result(), seen in ([3], [])  # a callback's failure is logged

    seen = []
    return act, (3, True)


def through(make):
    def setup():
        def act():
            executor.append(make(2))
            with executor[0] as pool:
                return sorted(f.result(10) for f in [pool.submit(pow, 2, n) for n in range(5)])

        def check():
            for one in executor:
                one.shutdown()

        executor = []
        return act, [1, 2, 4, 8, 16], check

    return setup


OPERATIONS["task_executor"] = through(futures.TaskPoolExecutor)
OPERATIONS["thread_executor"] = through(futures.ThreadPoolExecutor)


@operation
def pool():
    def act():
        return pool.map(lambda n: n * n, range(5)), sorted(pool.imap_unordered(lambda n: n, range(4)))

    def check():
        assert pool.join(5)

    pool = Pool(2)
    return act, ([0, 1, 4, 9, 16], [0, 1, 2, 3]), check


@operation
def offload():
    return lambda: evergreen.offload(pow, 2, 5), 32


# ---- callbacks, timers, readers, loops ---------------------------------------------------------------


@operation
def callbacks():
    def act():
        loop = evergreen.current.loop
        loop.call_soon(seen.append, 1)
        loop.call_later(0.0002, seen.append, 2)
        loop.call_later(100, seen.append, 4).cancel()
        loop.call_from_thread(seen.append, 3)
        evergreen.sleep(0.001)
        evergreen.sleep(0)
        return sorted(seen)

    seen = []
    return act, [1, 2, 3]


@operation
def reader():
    def act():
        loop = evergreen.current.loop
        handle = loop.add_reader(a, lambda: (seen.append(a.recv(10)), flag.set()))
        b.send(b"x")
        flag.wait(1)
        handle.cancel()
        return seen

    def check():
        evergreen.current.loop.remove_reader(a)
        a.close()
        b.close()

    a, b = socket.socketpair()
    a.setblocking(False)
    seen, flag = [], Event()
    return act, [b"x"], check


@operation
def descriptor():
    def act():
        waiting = spawn(core.wait_fd, a.fileno(), 1, 5)
        evergreen.sleep(0)
        b.send(b"x")
        return waiting.result()

    def check():
        a.close()
        b.close()

    a, b = socket.socketpair()
    return act, True, check


@operation
def signal_handler():
    def act():
        loop = evergreen.current.loop
        loop.add_signal_handler(signal.SIGUSR1, flag.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        return flag.wait(1)

    def check():
        evergreen.current.loop.remove_signal_handler(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    del before
    flag = Event()
    return act, True, check


@operation
def loop_in_thread():
    """The thread is there before: without memory, CPython's Thread.start() may wait for ever."""

    def live():
        greenlet.getcurrent()  # greenlet's part of a thread
        begin.acquire()
        try:
            loop = evergreen.EventLoop()
            try:
                outcome.append(spawn(lambda: 5).result())
            finally:
                loop.destroy()
        except MemoryError as exc:
            outcome.append(exc)
        finally:
            ended.release()

    def act():
        begin.release()
        ended.acquire()
        if isinstance(outcome[-1], MemoryError):
            raise outcome[-1]
        return outcome[-1]

    begin, ended, outcome = _thread.allocate_lock(), _thread.allocate_lock(), [None]
    begin.acquire()
    ended.acquire()
    _thread.start_new_thread(live, ())
    return act, 5


# ---- input and output ---------------------------------------------------------------------------------


class Served:
    def __init__(self, server, address):
        self.server = server
        server.bind(address)
        self.task = spawn(server.serve)
        settle()

    def check(self):
        self.server.close(1)
        self.task.join()


def echo(connection):
    while data := connection.read_bytes(1000):
        connection.write(data)


def echoed(make_server, make_client, size=200):
    """A client sends lines and gets them back, each one once; another connection is not in its way."""

    def setup():
        def act():
            with fail_after(3), make_client(served.server) as client:
                client.write(b"a" * size + b"\n")
                client.writelines([b"b" * size, b"\n"])
                return client.readline(), client.read_until(b"\n")

        served = Served(make_server(), address())
        return act, (b"a" * size + b"\n", b"b" * size + b"\n"), served.check

    address = lambda: ("127.0.0.1", 0)  # noqa: E731
    if make_server is pipe_server:
        address = lambda: tempfile.mktemp()  # noqa: E731
    return setup


def pipe_server():
    return PipeServer(echo)


def tcp_client(server):
    client = TCPClient()
    client.connect(server.sockname)
    return client


def pipe_client(server):
    client = PipeClient()
    client.connect(server.sockname)
    return client


def tls_server():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return TLSServer(echo, context)


def tls_client(server):
    return connect(
        server.sockname, ssl.create_default_context(cafile=CERTIFICATE), server_hostname="localhost"
    )


OPERATIONS["tcp"] = echoed(lambda: TCPServer(echo), tcp_client)
OPERATIONS["tcp_large"] = echoed(lambda: TCPServer(echo), tcp_client, 300_000)
OPERATIONS["pipe"] = echoed(pipe_server, pipe_client)
OPERATIONS["tls"] = echoed(tls_server, tls_client)


@operation
def udp():
    def act():
        with fail_after(1):
            b.send(b"x" * 100, a.sockname)
            data, peer = a.receive()
            a.send(data, peer)
            return b.receive()[0]

    def check():
        a.close()
        b.close()

    a, b = UDPEndpoint(), UDPEndpoint()
    a.bind(("127.0.0.1", 0))
    b.bind(("127.0.0.1", 0))
    return act, b"x" * 100, check


@operation
def files():
    def act():
        fd = fs.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fs.write(fd, b"hello", 0)
            data = fs.read(fd, 5, 0)
        finally:
            os.close(fd)
        fs.rename(path, path + "2")
        fs.utime(path + "2", (1, 2))
        size = fs.stat(path + "2").st_size
        fs.unlink(path + "2")
        return data, size

    def check():
        for name in path, path + "2":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    path = tempfile.mktemp()
    return act, (b"hello", 5), check


@operation
def file_callback():
    def act():
        fs.stat("/", callback=lambda request: (seen.append(request.error), done.set()))
        done.wait(1)
        if isinstance(seen[0], MemoryError):
            raise seen[0]
        return len(seen)

    seen, done = [], Event()
    return act, 1


@operation
def directories():
    return lambda: sorted(entry.name for entry in fs.scandir("/usr"))[:2], sorted(os.listdir("/usr"))[:2]


@operation
def names():
    def act():
        return dns.getaddrinfo("localhost", 80, socket.AF_INET, socket.SOCK_STREAM)[0][4]

    return act, ("127.0.0.1", 80)


@operation
def child():
    return lambda: process.run(["/bin/echo", "x"], capture_output=True).stdout, b"x\n"


# ---- the patched standard library ------------------------------------------------------------------------


@operation
def patched_time():
    def act():
        time.sleep(0)
        time.sleep(0.0005)
        return 1

    return act, 1


@operation
def patched_socket():
    def serve():
        peer, _ = listener.accept()
        with peer:
            data = peer.recv(100)
            peer.sendall(data)

    def act():
        server = spawn(serve)
        with fail_after(1):
            try:
                with socket.create_connection(listener.getsockname(), 5) as client:
                    client.sendall(b"hello")
                    data = client.recv(100)
            finally:
                if server.join(0.01):
                    server.result()
        return data

    listener = socket.create_server(("127.0.0.1", 0))
    return act, b"hello", listener.close


@operation
def patched_select():
    def act():
        poll = select.poll()
        poll.register(a, select.POLLIN)
        with select.epoll() as epoll:
            epoll.register(a, select.EPOLLIN)
            b.send(b"x")
            ready = select.select([a], [], [], 1)[0] == [a]
            return ready, len(poll.poll(1000)), len(epoll.poll(1))

    def check():
        a.close()
        b.close()

    a, b = socket.socketpair()
    return act, (True, 1, 1), check


@operation
def patched_lock():
    def visit():
        with lock:
            evergreen.sleep(0)
        return 1

    def check():
        assert lock.acquire(timeout=5), "the lock is lost"
        lock.release()

    lock = threading.Lock()
    return lambda: [t.result() for t in [spawn(visit) for _ in range(3)]], [1, 1, 1], check


@operation
def patched_thread():
    def act():
        thread = threading.Thread(target=seen.append, args=(3,))
        thread.start()
        thread.join()
        return seen

    seen = []
    return act, [3]


@operation
def patched_queue():
    return passed_on(queue.Queue)()


@operation
def patched_simple_queue():
    def act():
        items.put(2)
        return items.get(timeout=1), got.result()

    items, other = queue.SimpleQueue(), queue.SimpleQueue()
    got = spawn(other.get)
    settle()
    other.put(1)
    return act, (2, 1)


@operation
def patched_subprocess():
    return lambda: subprocess.run(["/bin/echo", "x"], capture_output=True, check=False).stdout, b"x\n"


# ---- the program: plays one operation ---------------------------------------------------------------------

reported = []


def kinds(reports):
    return [args.exc_type.__name__ for args in reports]


# CPython says so when a thread or its lock finds no memory.
THREADS_OWN = "can't start new thread", "can't allocate lock"


def of_memory(exc, seen=()):
    """Is it a failure for want of memory, or because of one?"""
    while exc is not None and exc not in seen:
        if (
            isinstance(exc, MemoryError)
            or str(exc) in THREADS_OWN
            or getattr(exc, "errno", 0) == errno.ENOMEM
        ):
            return True
        if isinstance(exc, BaseExceptionGroup):
            return all(of_memory(one) for one in exc.exceptions)
        seen = (*seen, exc)
        exc = exc.__cause__ or exc.__context__
    return False


def attempt(act, k):
    set_nomemory(k, k + 1)
    try:
        return act(), None
    except BaseException as exc:
        return None, exc
    finally:
        remove_mem_hooks()


def play(setup, k):
    """Return a complaint, or None; and whether the operation succeeded."""
    del reported[:]
    parts = setup()
    act, expected = parts[:2]
    check = parts[2] if len(parts) > 2 else None
    result, exc = attempt(act, k)
    complaints = []
    if exc is None:
        if result != expected and not any(of_memory(args.exc_value) for args in reported):
            complaints.append(f"{result!r} instead of {expected!r}; reported: {kinds(reported)}")
    elif not of_memory(exc) and not any(of_memory(args.exc_value) for args in reported):
        complaints.append(f"raised {exc!r}; reported: {kinds(reported)}")
    succeeded = exc is None and result == expected
    if isinstance(exc, SystemError):
        complaints.append(f"{exc!r}")
    if exc is not None:
        exc.__traceback__ = exc.__context__ = exc.__cause__ = None
    del exc, result
    try:
        if check:
            check()
        complaints += live_on()
    except BaseException as exc:
        complaints.append("afterwards: " + "".join(traceback.format_exception(exc)))
        for args in reported:
            complaints.append("reported before: " + "".join(traceback.format_exception(args.exc_value)))
    ok = succeeded and not reported
    for args in reported:
        if not of_memory(args.exc_value) or isinstance(args.exc_value, SystemError):
            complaints.append("reported " + "".join(traceback.format_exception(args.exc_value)))
    return complaints, ok


def live_on():
    """Kill what is left, see that the event loop goes on, and that nothing is left in it."""
    loop = evergreen.current.loop
    for left in loop.tasks():
        if left is not loop.main_task:
            left.kill()
    lock = Lock()
    lock.acquire()
    taker = spawn(lock.acquire, timeout=5)
    evergreen.sleep(0.0001)
    lock.release()
    assert taker.result() is True, "the hand-over failed"
    settle()
    gc.collect()
    for _ in range(500):
        stats = loop.stats()
        left = {name: stats[name] for name in ("tasks", "timers", "descriptors", "streams", "pins", "ready")}
        if not any(left.values()):
            return []
        evergreen.sleep(0.001)
    return [f"left in the loop: {left} {loop.tasks()}"]


# greenlet copies a stack aside when it switches, and ends the process if there is no memory for that:
# "Fatal Python error: g_switchstack: greenlet: Failed low-level slp_switch(). The stack is probably corrupt."
GREENLETS_OWN = "greenlet: Failed low-level slp_switch()"
# Operations in which the process may crash elsewhere than in Evergreen, and where.
CRASHES_OF_OTHERS = {
    "loop_in_thread": "greenlet::Greenlet::Greenlet(this=0x0), of a new greenlet",
    "patched_subprocess": "CPython 3.11: dictiter_new(), dictiter_dealloc() of what is not tracked yet",
}
# Not searched, since more than Evergreen is in it: CPython's Thread may end before it says that it has
# started, `with lock` of CPython 3.11 makes a tuple for __exit__(), clean-up in Python may end in the middle,
# and next() of CPython 3.11 may return NULL without an exception.
NOT_SEARCHED = {
    "thread_executor",
    "patched_thread",
    "patched_lock",
    "patched_queue",
    "task_executor",
    "child",
    "directories",
}
FAILED, NO_MEMORY, SUCCEEDED = 1, 3, 4


def play_alone(name, k):
    """In a process forked for it: exit with what came of it."""
    faulthandler.dump_traceback_later(WITHIN, exit=True)
    if name.startswith("patched_"):
        patcher.patch()
    evergreen.EventLoop().excepthook = reported.append
    sys.unraisablehook = threading.excepthook = reported.append
    play(OPERATIONS[name], 1 << 30)  # what is made once, and kept, is there
    complaints, ok = play(OPERATIONS[name], k)
    for complaint in complaints:
        print(complaint, file=sys.stderr, flush=True)
    os._exit(FAILED if complaints else SUCCEEDED if ok else NO_MEMORY)


def main(name, *numbers):
    """Print what is wrong with an operation: for these numbers, or for all from the first one."""
    succeeded = 0
    with tempfile.TemporaryFile("w+") as said:
        for k in map(int, numbers) if len(numbers) > 1 else itertools.count(int(numbers[0])):
            said.seek(0)
            said.truncate()
            pid = os.fork()
            if not pid:
                os.dup2(said.fileno(), 2)
                play_alone(name, k)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            said.seek(0)
            text = said.read()
            succeeded = succeeded + 1 if code == SUCCEEDED else 0
            if succeeded == ENOUGH:
                break
            if code in (SUCCEEDED, NO_MEMORY) or GREENLETS_OWN in text:
                continue
            if code != -signal.SIGSEGV or name not in CRASHES_OF_OTHERS:
                print(f"{name} {k}: exit code {code}\n{text}", flush=True)


@pytest.mark.skipif(set_nomemory is None, reason="nothing makes allocations fail without _testcapi")
def test_an_operation_without_memory_loses_nothing(rounds):
    for rng in rounds(5):
        name = rng.choice(sorted(OPERATIONS.keys() - NOT_SEARCHED))
        numbers = sorted(rng.sample(range(120), 5))
        command = [sys.executable, __file__, name, *map(str, numbers)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert (said.stdout, said.stderr) == ("", ""), said.stdout + said.stderr


if __name__ == "__main__":
    faulthandler.enable()
    main(*sys.argv[1:])
