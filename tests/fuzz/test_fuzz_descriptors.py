"""Descriptors opened, dropped, given to others, closed and used again by every way that Python has.

Each round runs in a process of its own, which ends in time, prints True and says nothing else. A waiter of
a file that is still there gets what was sent to that file and nothing else; a waiter of one that is gone
gets an error, or what that call answers natively.
"""

import textwrap

from helpers import output_of

PLAYER = """
import ctypes, errno, gc, io, mmap, multiprocessing.connection, os, random, select, selectors, signal, socket
import subprocess, sys, threading, time, traceback
import evergreen
from evergreen import TaskExit, patcher, sleep, spawn
from evergreen import _evergreen_c as core
from evergreen.event import Event
from evergreen.io import tcp

libc = ctypes.CDLL(None)
start_native_thread = core.patch_native("_thread", "start_new_thread")
rng = random.Random(int(sys.argv[1]))
if rng.random() < 0.8:
    patcher.patch()
loop = evergreen.current.loop
sleep(0.001)

# ---- pairs of files, with a number of their own that goes over them ----------------------------------

class Pair:
    count = 0

    def __init__(self):
        Pair.count += 1
        self.word = b"%06d" % Pair.count
        how = rng.choice(["pipe", "socketpair", "tcp", "connection", "fdopen", "child", "passed", "fileno"])
        getattr(self, how)()

    def own(self, reader, writer, keep=()):
        self.reader, self.writer, self.keep = reader, writer, keep

    def pipe(self):
        self.own(*os.pipe())

    def socketpair(self):
        a, b = socket.socketpair()
        self.own(a.fileno(), b.fileno(), (a, b))
        self.sock = a

    def tcp(self):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            a = socket.socket()
            a.connect(server.getsockname())
            b = server.accept()[0]
        self.own(a.fileno(), b.fileno(), (a, b))
        self.sock = a

    def connection(self):
        a, b = multiprocessing.connection.Pipe()
        self.own(a.fileno(), b.fileno(), (a, b))

    def fdopen(self):
        r, w = os.pipe()
        a, b = open(r, "rb", 0), open(w, "wb", 0)
        self.own(r, w, (a, b))

    def child(self):
        r, w = os.pipe()
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=w, bufsize=0)
        os.close(w)
        self.own(r, child.stdin.fileno(), (child,))
        children.append(child)

    def passed(self):
        a, b = socket.socketpair()
        r, w = os.pipe()
        socket.send_fds(a, [b"x"], [r, w])
        _, (r2, w2), _, _ = socket.recv_fds(b, 1, 2)
        os.close(r), os.close(w), a.close(), b.close()
        self.own(r2, w2)

    def fileno(self):
        a, b = socket.socketpair()
        a2, b2 = socket.socket(fileno=a.detach()), socket.socket(fileno=b.detach())
        self.own(a2.fileno(), b2.fileno(), (a2, b2))
        self.sock = a2

    sock = None

    def end(self):
        for thing in self.keep:
            if isinstance(thing, subprocess.Popen):
                thing.stdin.close()
            else:
                thing.close()
        if not any(not isinstance(thing, subprocess.Popen) for thing in self.keep):
            os.close(self.reader)
        if not self.keep:
            os.close(self.writer)


children = []

# ---- ways to wait --------------------------------------------------------------------------------------

def by_read(pair):
    if not patched:
        core.wait_fd(pair.reader, 1)
    return os.read(pair.reader, 6)

def by_recv(pair):
    if not pair.sock or not patched:
        return by_read(pair)
    return pair.sock.recv(6)

def by_select(pair):
    if not patched:
        return by_read(pair)
    while not select.select([pair.reader], [], [pair.reader])[0]:
        pass
    return os.read(pair.reader, 6)

def by_poll(pair):
    if not patched:
        return by_read(pair)
    poller = select.poll()
    poller.register(pair.reader, select.POLLIN | select.POLLPRI)
    while True:
        for _, events in poller.poll():
            if events & select.POLLNVAL:
                raise OSError(errno.EBADF, "closed")
            return os.read(pair.reader, 6)

def by_epoll(pair):
    if not patched:
        return by_read(pair)
    poller = select.epoll()  # dropped, not closed
    poller.register(pair.reader, select.EPOLLIN)
    while not poller.poll():
        pass
    return os.read(pair.reader, 6)

def by_selector(pair):
    if not patched:
        return by_read(pair)
    selector = selectors.DefaultSelector()
    selector.register(pair.reader, selectors.EVENT_READ)
    while not selector.select():
        pass
    return os.read(pair.reader, 6)

def by_callback(pair):
    event = Event()
    loop.add_reader(pair.reader, event.set)
    try:
        event.wait()
    finally:
        loop.remove_reader(pair.reader)
    return os.read(pair.reader, 6)

WAITS = [by_read, by_recv, by_select, by_poll, by_epoll, by_selector, by_callback]
patched = patcher.is_patched("os")

def exchange():
    "One word through a new pair, waited for in a task: it comes, and nothing else does."
    pair = Pair()
    wait = rng.choice(WAITS)
    task = spawn(wait, pair)
    for _ in range(rng.randrange(3)):
        sleep(rng.choice([0, 0, 0.001]))
    if rng.random() < 0.1:
        task.kill()
        task.join()
    else:
        os.write(pair.writer, pair.word)
        got = task.result(20)
        assert got == pair.word, (wait, got, pair.word)
    pair.end()
    return 1

# ---- ways to close what is not ours to wait for ---------------------------------------------------------

def some_number():
    return os.open("/dev/null", os.O_RDONLY)

def drop_epoll():
    a, b = socket.socketpair()
    poller = select.epoll()
    poller.register(a, select.EPOLLIN)
    if patched:
        poller.poll(0.0005)
    else:
        core.wait_fd(poller.fileno(), 1, 0.0005)

def drop_sockets():
    a, b = socket.socketpair()
    core.wait_fd(a.fileno(), 1, 0.0005)
    if rng.random() < 0.5:
        a.detach(), b.detach()
        return a
    libc.close(a.detach())

def close_natively():
    r, w = os.pipe()
    core.wait_fd(r, 1, 0)
    for fd in (r, w):
        rng.choice([libc.close, os.close, lambda fd: os.closerange(fd, fd + 1)])(fd)

def close_natively_under_a_waiter():
    r, w = os.pipe()
    task = spawn(core.wait_fd, r, 1)
    while not task.waiting:
        sleep(0)
    rng.choice([libc.close, os.close])(r)
    if rng.random() < 0.5:
        r2, w2 = os.pipe()
        task2 = spawn(core.wait_fd, r2, 1, 20)
        sleep(0)
        os.write(w2, b"x")
        assert task2.result(20) is True
        os.close(r2), os.close(w2)
    try:
        got = task.result(20)
    except OSError as exc:
        assert exc.errno == errno.EBADF, exc
    else:
        raise AssertionError(got)
    os.close(w)

def dup2_over():
    r, w = os.pipe()
    core.wait_fd(r, 1, 0)
    r2, w2 = os.pipe()
    rng.choice([os.dup2, libc.dup2])(r2, r)
    task = spawn(core.wait_fd, r, 1, 20)
    sleep(0)
    os.write(w2, b"x")
    assert task.result(20) is True
    for fd in (r, w, r2, w2):
        os.close(fd)

def close_in_a_thread():
    r, w = os.pipe()
    core.wait_fd(r, 1, 0)
    event = Event()
    start_native_thread(lambda: (rng.choice([libc.close, os.close])(r), event.set()), ())
    assert event.wait(20)
    os.close(w)

def map_and_drop():
    fd = os.memfd_create("x")
    os.ftruncate(fd, 4096)
    kept = mmap.mmap(fd, 4096)
    os.close(fd)

def file_dropped():
    r, w = os.pipe()
    core.wait_fd(r, 1, 0)
    io.FileIO(r), io.FileIO(w, "w")

def own_closed():
    "The loop's own, by C code."
    fd = rng.choice([fd for fd in map(int, os.listdir("/proc/self/fd")) if fd >= 100])
    how = rng.random()
    if how < 0.5:
        libc.close(fd)
    elif how < 0.7:
        null = some_number()
        libc.dup2(null, fd)
        os.close(null)
        sleep(0.001)  # the loop has looked
        libc.close(fd) if how < 0.6 and os.path.realpath(f"/proc/self/fd/{fd}") == "/dev/null" else None
    elif how < 0.9:
        libc.closefrom(100)
    else:
        try:
            os.close(fd)
        except OSError:
            pass

def forked():
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if rng.random() < 0.5:
                gc.disable()  # objects of the parent's would close what has their numbers now
                rng.choice([lambda: libc.closefrom(3), lambda: os.closerange(3, 1024)])()
            for _ in range(3):
                exchange()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        sleep(0.001)
    assert ended[1] == 0, ended

def streams():
    class Echo(tcp.TCPServer):
        def handle_connection(self, connection):
            connection.write(connection.read_bytes(5))
            connection.close()
    server = Echo()
    server.bind(("127.0.0.1", 0))
    spawn(server.serve)
    sleep(0)
    client = tcp.TCPClient()
    client.connect(server.sockname)
    client.write(b"hello")
    assert client.read_bytes(5) == b"hello"
    client.close()
    server.close()

TROUBLES = [
    drop_epoll, drop_sockets, close_natively, close_natively_under_a_waiter, dup2_over, close_in_a_thread,
    map_and_drop, file_dropped, own_closed, forked, streams,
]
garbage = []
signal.alarm(50)
count = 0
for _ in range(int(sys.argv[2])):
    trouble = rng.choice(TROUBLES)
    garbage.append(trouble())
    if rng.random() < 0.1 or len(garbage) > 10:
        garbage.clear()
        gc.collect()
    tasks = [spawn(exchange) for _ in range(rng.randrange(1, 5))]
    count += sum(task.result(30) for task in tasks)
for child in children:
    child.wait()
print(count > 0)
sys.stdout.flush()
os._exit(0)
"""
QUIET = ("-W", "ignore")


def test_numbers_of_descriptors_come_and_go_and_nobody_waits_in_vain(rounds):
    for rng in rounds(6):
        seed = rng.randrange(1 << 30)
        assert output_of(textwrap.dedent(PLAYER), seed, 40, options=QUIET, timeout=120) == "True\n", seed
