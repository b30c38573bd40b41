"""What outlives its event loop, in every use: ``python outlive.py KIND`` prints how many uses there were.

An object of the kind is made in a loop, the loop ends in one of the ENDINGS, and each method is then called
in each of the PLACES, in this order and in reverse; with ``thorough`` after KIND also by itself, and twice.
A call may do what it does, or raise; a crash and a hang end the process with a trace.  ``verbose``
prints each step.
"""

import contextlib
import faulthandler
import gc
import os
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import greenlet

import evergreen
from evergreen import EventLoop, Task, fail_after, futures, move_on_after, shield, sleep, spawn
from evergreen import _evergreen_c as core
from evergreen.event import Event
from evergreen.io import file as files
from evergreen.io import fs, pipe, process, tcp, tls, tty, udp
from evergreen.local import local
from evergreen.locks import Barrier, BoundedSemaphore, Condition, Lock, RLock, Semaphore
from evergreen.pool import Pool
from evergreen.queue import LifoQueue, PriorityQueue, Queue
from evergreen.timeout import Timeout

PEM = Path(__file__).parent / "data" / "localhost.pem"
native_sleep = time.sleep
HANG = 20  # seconds without a step
LONG = 100
SHORT = 0.002


def settle():
    while True:
        sleep(0)
        if not evergreen.current.loop.stats()["ready"]:
            return


def waiting(function, *args):
    """A task inside function(*args)."""
    task = spawn(function, *args)
    settle()
    return task


# ---- the kinds: each function makes, in the loop that runs, what is used afterwards ------------------


def ended_task():
    task = spawn(int)
    task.join()
    return task


def stubborn_task():
    def work():
        for _ in range(3):
            with contextlib.suppress(evergreen.TaskExit):
                sleep(LONG)

    return waiting(work)


def joined_task():
    task = waiting(sleep, LONG)
    waiting(task.join)
    return task


def watcher():
    return evergreen.current.loop.add_reader(os.pipe()[0], int)


def queued_watcher():
    made = watcher()
    made.schedule()
    return made


def cancelled_timer():
    timer = evergreen.current.loop.call_later(LONG, int)
    timer.cancel()
    return timer


def used(kind, *args, wait="wait"):
    """One that a task waits in."""

    def make():
        made = kind(*args)
        if kind is Condition:
            made.acquire()
        waiting(getattr(made, wait))
        return made

    return make


def taken(kind):
    """One that a task holds and another one waits for."""

    def make():
        made = kind()

        def hold():
            made.acquire()
            sleep(LONG)

        waiting(hold)
        waiting(made.acquire)
        return made

    return make


def noticed(kind):
    """One whose waiter was woken, and has not run."""

    def make():
        made = kind()
        if isinstance(made, Event):
            waiting(made.wait)
            made.set()
        elif isinstance(made, Queue):
            waiting(made.get)
            made.put(1)
        else:
            made.acquire()
            waiting(made.acquire)
            made.release()
        return made

    return make


def condition():
    made = Condition()

    def wait():
        with made:
            made.wait()

    waiting(wait)
    return made


def full_queue(kind):
    def make():
        made = kind(1)
        made.put(1)
        waiting(made.put, 2)
        return made

    return make


def sending_channel():
    made = evergreen.Channel()
    waiting(made.send, 1)
    return made


def future():
    made = futures.Future()
    waiting(made.result)
    return made


def task_pool():
    made = futures.TaskPoolExecutor(1)
    made.submit(sleep, LONG)
    made.submit(int)
    settle()
    return made


def task_pool_future():
    return futures.TaskPoolExecutor(1).submit(sleep, LONG)


def thread_pool_future():
    made = futures.ThreadPoolExecutor(1)
    gate = threading.Lock()
    gate.acquire()
    later = made.submit(gate.acquire)
    waiting(later.result)
    threading.Timer(0.01, gate.release).start()
    return later


def thread_pool():
    made = futures.ThreadPoolExecutor(1)
    made.submit(int).result()
    return made


def entered(kind, *args):
    def make():
        made = kind(*args)
        made.__enter__()
        return made

    return make


def scope_of_a_task():
    made = fail_after(LONG)

    def work():
        with made:
            sleep(LONG)

    waiting(work)
    return made


def group():
    made = evergreen.TaskGroup()
    made.__enter__()
    made.spawn(sleep, LONG)
    settle()
    return made


def pool():
    made = Pool(1)
    made.spawn(sleep, LONG)
    waiting(made.spawn, int)
    return made


def watch():
    made = core.Watch([waiting(sleep, LONG), Event()])
    waiting(made.take)
    return made


def iterated():
    made = evergreen.iwait([Event(), spawn(int), waiting(sleep, LONG)])
    next(made)
    return made


def connection():
    listener = socket.create_server(("127.0.0.1", 0))
    client = tcp.TCPClient()
    client.connect(listener.getsockname())
    peer = listener.accept()[0]
    peer.send(b"line\n")
    client.peer = peer
    return client


def read_connection():
    client = connection()
    client.read(5)
    waiting(client.read)
    return client


def full_connection():
    client = connection()
    client.high_water = 1 << 30
    client.write(b"x" * (4 << 20))
    waiting(client.flush)
    return client


def closing_connection():
    client = full_connection()
    client.close()
    return client


def server(kind=tcp.TCPServer, *args):
    def handle(connection):
        connection.read()

    made = kind(handle, *args)
    made.bind(("127.0.0.1", 0))
    spawn(made.serve)
    made.peer = socket.create_connection(made.sockname)
    settle()
    return made


def accepted():
    made = []
    served = tcp.TCPServer(lambda connection: (made.append(connection), connection.read()))
    served.bind(("127.0.0.1", 0))
    spawn(served.serve)
    peer = socket.create_connection(served.sockname)
    while not made:
        sleep(0.001)
    made[0].peer = peer
    return made[0]


def contexts():
    client = ssl.create_default_context(cafile=PEM)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(PEM)
    return client, serving


def tls_server():
    return server(tls.TLSServer, contexts()[1])


def tls_stream():
    client, serving = contexts()
    served = tls.TLSServer(lambda connection: connection.read(), serving)
    served.bind(("127.0.0.1", 0))
    spawn(served.serve)
    made = tls.connect(served.sockname, client, server_hostname="localhost")
    waiting(made.read)
    return made


def pipe_end():
    ours, peer = socket.socketpair()
    made = pipe.PipeStream()
    made.open(ours.detach())
    made.peer = peer
    waiting(made.read)
    return made


def terminal():
    ours, theirs = os.openpty()
    made = tty.TTYStream(theirs, readable=True)
    made.peer = ours
    waiting(made.read)
    return made


def endpoint():
    made = udp.UDPEndpoint()
    made.bind(("127.0.0.1", 0))
    waiting(made.receive)
    return made


def child():
    made = process.Process(["cat"], stdin=process.PIPE, stdout=process.PIPE)
    waiting(made.wait)
    return made


def child_pipe():
    made = child()
    made.stdout.process = made
    waiting(made.stdout.read)
    return made.stdout


def request():
    return fs.stat("/", callback=int)


def waiting_request():
    read, write = os.pipe()
    made = fs.read(read, 10, callback=int)
    made.pipe = write
    return made


def waiting_for_work():
    read, write = os.pipe()
    task = waiting(fs.read, read, 10)
    os.write(write, b"x")
    return task


def looking_up():
    return waiting(core.dns_getaddrinfo, b"localhost", b"1", 0, 0, 0, 0)


def changes():
    made = fs.watch(tempfile.gettempdir())
    waiting(made.next)
    return made


def file():
    return files.open(__file__)


def arriving():
    made = evergreen.signals(signal.SIGUSR1)
    if core.in_main_thread():
        made.__enter__()
        waiting(made.next)
    return made


def handler_of_a_signal():
    if core.in_main_thread():
        return evergreen.current.loop.add_signal_handler(signal.SIGUSR2, int)
    return None


def foreign_greenlet():
    here = greenlet.getcurrent()

    def work():
        sleep(0)
        here.switch()
        sleep(SHORT)

    made = greenlet.greenlet(work)
    made.switch()
    return made


def parked_greenlet():
    gate, here = Event(), greenlet.getcurrent()
    made = greenlet.greenlet(gate.wait)
    spawn(here.switch)
    made.switch()
    return gate


def data():
    made = local()
    made.name = 1
    waiting(lambda: (setattr(made, "name", 2), sleep(LONG)))
    return made


def turn():
    class Reader:
        @core.in_turn
        def read(self):
            sleep(LONG)

    made = Reader()
    made._turn = None
    waiting(made.read)
    return made


KINDS = {
    "loop": EventLoop.current,
    "main task": lambda: evergreen.current.loop.main_task,
    "new task": lambda: Task(int),
    "ready task": lambda: spawn(int),
    "parked task": lambda: waiting(sleep, LONG),
    "joined task": joined_task,
    "ended task": ended_task,
    "stubborn task": stubborn_task,
    "foreign greenlet": foreign_greenlet,
    "parked greenlet": parked_greenlet,
    "handler": lambda: evergreen.current.loop.call_soon(int),
    "timer": lambda: evergreen.current.loop.call_later(LONG, int),
    "cancelled timer": cancelled_timer,
    "watcher": watcher,
    "queued watcher": queued_watcher,
    "signals": arriving,
    "signal handler": handler_of_a_signal,
    "new event": Event,
    "event": used(Event),
    "noticed event": noticed(Event),
    "lock": taken(Lock),
    "noticed lock": noticed(Lock),
    "rlock": taken(RLock),
    "semaphore": taken(Semaphore),
    "bounded semaphore": taken(BoundedSemaphore),
    "condition": condition,
    "barrier": used(Barrier, 3),
    "queue": used(Queue, wait="get"),
    "noticed queue": noticed(Queue),
    "joined queue": full_queue(Queue),
    "stack": full_queue(LifoQueue),
    "heap": full_queue(PriorityQueue),
    "channel": used(evergreen.Channel, wait="receive"),
    "sending channel": sending_channel,
    "future": future,
    "task pool": task_pool,
    "task pool's future": task_pool_future,
    "thread pool": thread_pool,
    "thread pool's future": thread_pool_future,
    "timeout": entered(Timeout, LONG),
    "new timeout": lambda: Timeout(LONG),
    "move_on_after": entered(move_on_after, LONG),
    "expiring scope": entered(move_on_after, 0),
    "scope of a task": scope_of_a_task,
    "shield": entered(shield),
    "group": group,
    "pool": pool,
    "watch": watch,
    "iwait": iterated,
    "connection": connection,
    "read connection": read_connection,
    "full connection": full_connection,
    "closing connection": closing_connection,
    "server": server,
    "accepted": accepted,
    "tls": tls_stream,
    "tls server": tls_server,
    "pipe": pipe_end,
    "terminal": terminal,
    "udp": endpoint,
    "child": child,
    "child's pipe": child_pipe,
    "request": request,
    "waiting request": waiting_request,
    "work": waiting_for_work,
    "look-up": looking_up,
    "changes": changes,
    "file": file,
    "local": data,
    "turn": turn,
}

# ---- uses: every method, and the thing dropped ---------------------------------------------------

ARGUMENTS = {
    "_enlist": None,
    "_discharge": None,
    "_make_call": (int, (), {}),
    "_pin": (1,),
    "_queue": (b"x",),
    "_attach": None,
    "add_done_callback": (lambda _: None,),
    "add_reader": (0, int),
    "add_signal_handler": (signal.SIGUSR2, int),
    "add_writer": (1, int),
    "bind": (("127.0.0.1", 0),),
    "call_at": (0, int),
    "call_from_thread": (int,),
    "call_later": (0, int),
    "call_soon": (int,),
    "connect": (("127.0.0.1", 9),),
    "fromkeys": None,
    "handle_connection": None,
    "imap": (int, [1]),
    "imap_unordered": (int, [1]),
    "join_group": ("224.0.0.1",),
    "leave_group": ("224.0.0.1",),
    "map": (int, [1]),
    "open": None,
    "put": (1,),
    "put_nowait": (1,),
    "read": (1,),
    "read_bytes": (1,),
    "read_exactly": (1,),
    "read_until": (b"\n",),
    "read_until_regex": (b"\n",),
    "readinto": (bytearray(1),),
    "recv_fds": (1, 1),
    "remove_reader": (0,),
    "remove_signal_handler": (signal.SIGUSR2,),
    "remove_writer": (1,),
    "run_forever": None,
    "send": (b"x",),
    "send_exception": (ValueError,),
    "send_fds": (b"x", [0]),
    "send_signal": (signal.SIGCONT,),
    "set_broadcast": (True,),
    "set_exception": (ValueError(),),
    "set_multicast_interface": ("127.0.0.1",),
    "set_multicast_loop": (True,),
    "set_multicast_ttl": (1,),
    "set_raw_mode": (False,),
    "set_result": (1,),
    "set_ttl": (1,),
    "setattr": ("x", 1),
    "spawn": (int,),
    "start_tls": (contexts()[0],),
    "submit": (int,),
    "unread": (b"x",),
    "wait_for": (bool, SHORT),
    "with_traceback": (None,),
    "write": (b"x",),
    "writelines": ([b"x"],),
}
EXTRA = ("__enter__", "__exit__", "__iter__", "__next__", "__repr__")
EXTRA += ("_pin", "_peer_state", "_queue", "_threadpool")


def methods_of(made):
    named = [name for name in dir(made) if not name.startswith("_") or name in EXTRA]
    return [name for name in named if ARGUMENTS.get(name, ()) is not None]


def use(made, name):
    if name == "_threadpool":
        return made._threadpool.spawn(int).get()
    found = getattr(made, name)
    if not callable(found):
        return found
    if name == "__exit__":
        return found(None, None, None)
    if name == "send" and isinstance(made, udp.UDPEndpoint):
        return found(b"x", ("127.0.0.1", 9))
    return found(*ARGUMENTS.get(name, ()))


def may_be_raised(exc):
    ours = evergreen.TaskExit, greenlet.GreenletExit, core.Scope, core.Deadlock
    return isinstance(exc, ours) or (isinstance(exc, Exception) and not isinstance(exc, SystemError))


def step(*words):
    """Note what is tried, for whoever reads the end of a process that crashed or hangs."""
    global steps
    steps += 1
    last[:] = words
    if os.getpid() == process_id:  # a child cannot end its parent's watch; see in_child()
        faulthandler.dump_traceback_later(HANG, exit=True)
    if VERBOSE:
        print(*words, file=sys.stderr, flush=True)


def attempt(made, name):
    try:
        return f"{name}: {use(made, name)!r}"
    except BaseException as exc:
        if not may_be_raised(exc):
            raise
        return f"{name}: {type(exc).__name__}: {exc}"


def attempt_in_time(made, name):
    """The same for a thread that has a loop, or makes one by this."""
    result = None
    with contextlib.suppress(greenlet.GreenletExit), move_on_after(SHORT):
        result = attempt(made, name)
    return result


def attempt_until_alarm(made, name):
    """The same in the main thread, which has no loop yet."""
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        return attempt(made, name)
    except TimeoutError:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def on_alarm(*_):
    raise TimeoutError


# ---- places --------------------------------------------------------------------------------------


def use_each(made, names, attempt):
    for name in names:
        step(*last[:4], name)
        said = attempt(made, name)
        if VERBOSE:
            print("    ", said, file=sys.stderr, flush=True)


def in_main(made, names):
    use_each(made, names, attempt_in_time if core.loop_here() is not None else attempt_until_alarm)
    if core.loop_here() is not None:
        settle_in_time()


def settle_in_time():
    with contextlib.suppress(core.Scope):
        settle()
        sleep(SHORT)


def in_thread_with_loop(made, names):
    def work():
        loop = EventLoop()
        use_each(made, names, attempt_in_time)
        settle_in_time()
        loop.destroy()

    join(work)


def in_thread_without_loop(made, names):
    for name in names:
        join(lambda name=name: use_each(made, [name], attempt), 0.05)


def join(function, seconds=HANG):
    """Run it in a native thread; one that waits for what nobody does is left there."""
    raised = []

    def work():
        try:
            function()
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]


PLACES = in_main, in_thread_with_loop, in_thread_without_loop

# ---- endings: how a loop ends, and the object made in it goes on ---------------------------------


def destroyed(make, then):
    loop = EventLoop()
    made = make()
    loop.destroy()
    then(made)


def replaced(make, then):
    loop = EventLoop()
    made = make()
    loop.destroy()
    EventLoop()
    then(made)


def thread_ended(make, then, destroys=True):
    box = []

    def work():
        loop = EventLoop()
        box.append(make())
        if destroys:
            loop.destroy()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    EventLoop()
    then(box.pop())


def thread_left(make, then):
    thread_ended(make, then, False)


def forked(make, then):
    loop = EventLoop()
    made = make()
    in_child(then, made)
    del made
    loop.destroy()


def forked_beside(make, then):
    """The loop is that of a thread, which is not in the child."""
    box, made, end = [], threading.Event(), threading.Event()

    def work():
        loop = EventLoop()
        box.append(make())
        made.set()
        end.wait()
        box.clear()
        loop.destroy()

    thread = threading.Thread(target=work)
    thread.start()
    made.wait()
    in_child(then, box.pop())
    end.set()
    thread.join()


def in_child(function, *args):
    pid = os.fork()
    if not pid:
        status = 1
        try:
            function(*args)
            gc.collect()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    deadline = time.monotonic() + HANG / 2
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGABRT)  # it prints its stack
        native_sleep(0.002)
    assert ended[1] == 0, f"the child ended with {ended[1]:#x}"


ENDINGS = destroyed, replaced, thread_ended, thread_left, forked, forked_beside


# ---- the program ---------------------------------------------------------------------------------


def orders(names, thorough):
    yield names
    yield names[::-1]
    if thorough:
        yield []
        for name in names:
            yield [name]
            yield [name, name]


def try_one(kind, ending, place, index, thorough):
    """Make one, end its loop, use it and drop it; return whether there are more orders to try."""
    names = []

    def then(made):
        names.append(list(orders(methods_of(made), thorough)))
        step(kind, ending.__name__, place.__name__, index)
        place(made, names[0][index])

    step(kind, ending.__name__, place.__name__, index, "make")
    ending(KINDS[kind], then)
    step(kind, ending.__name__, place.__name__, index, "drop")
    gc.collect()
    loop = core.loop_here()
    if loop is not None:
        attempt_in_time(loop, "destroy")
        if not loop.destroyed:
            loop.destroy()
    gc.collect()
    return index + 1 < (len(names[0]) if names else 2)


def main(kind, *options):
    thorough = "thorough" in options
    signal.signal(signal.SIGALRM, on_alarm)
    warnings.simplefilter("ignore")
    for ending in ENDINGS:
        for place in PLACES:
            index = 0
            while try_one(kind, ending, place, index, thorough):
                index += 1
    print(steps)
    sys.stdout.flush()
    os._exit(0)  # threads that wait for ever are left


VERBOSE = "verbose" in sys.argv
steps, last, process_id = 0, [], os.getpid()

if __name__ == "__main__":
    faulthandler.enable()
    main(*sys.argv[1:])
