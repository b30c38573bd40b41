"""Python code that runs in the middle of any call, and uses the very object the call is about.

A round is a child process, since it may crash. Most arguments are hostile: each special method of theirs
calls methods of the objects in play, with arguments that are hostile, too; or it initializes such an object
again, drops references, yields, kills tasks, collects garbage, raises. Methods, attributes and types are
found by introspection. No result is checked: a round fails by a signal, a report of a sanitizer, a
SystemError, or a child process that does not end.
"""

import copy
import faulthandler
import fcntl
import functools
import gc
import inspect
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import traceback
import types
import weakref
from collections import deque

import greenlet

STEPS = 300
ACTS = 4  # hostile methods within each other
SECONDS = 60  # for a round, which takes three

# Names of internals that trust their caller, and of calls that end the game or touch other people's files.
LEFT_OUT = {
    "_pin",
    "__del__",
    "__init_subclass__",
    "__subclasshook__",
    "__class_getitem__",
    "__dir__",
    "__sizeof__",
    "destroy",
    "fs_chmod",
    "fs_chown",
    "fs_copyfile",
    "fs_lchown",
    "fs_listdir",
    "fs_rename",
    "fs_rmdir",
    "fs_scandir",
    "fs_unlink",
    "game",
    "restore",
    "serve_forever",
}


# CPython's own: of sizes, and of its compiler if greenlets switch within it.
NOT_OURS = "Negative size passed", "AST constructor recursion depth mismatch"


class Boom(Exception):
    pass


class Boom2(BaseException):
    pass


class Game:
    def __init__(self, rng):
        self.rng = rng
        self.things = []
        self.current = deque(maxlen=8)  # what calls are under way for
        self.acts = 0
        self.tasks = deque()
        self.quiet = False
        self.collecting = False  # the collector's lists are on a stack: a finaliser may not switch
        self.main = greenlet.getcurrent()  # waits for the end, and for nothing else

    # ---- arguments ---------------------------------------------------------------------------------

    def number(self):
        return self.rng.choice([0, 0, 1, 1, 3, 10, 1000, 70_000, -1, -2, 2**31, 2**63, 2**64, -(2**63)])

    def argument(self):
        rng = self.rng
        kind = rng.randrange(24)
        if kind < 9:
            return Hostile(self)
        if kind == 9:
            return HostileStr(rng.choice(["x", "name", "seconds", "_state", "__class__"])).of(self)
        if kind == 10:
            return HostileInt(rng.choice([0, 1, 3, 100])).of(self)
        if kind == 11:
            return HostileList([self.argument() for _ in range(rng.randrange(3))]).of(self)
        if kind == 12:
            return HostileDict(a=1, timeout=Hostile(self)).of(self)
        if kind == 13:
            return self.pick()
        if kind == 14:
            return self.hostile_exception()
        if kind == 15:
            return rng.choice([Boom, Boom2, ValueError("x"), StopIteration(1), None])
        if kind == 16:
            return lambda *args, **kwargs: self.mischief()
        if kind == 17:
            return rng.choice([b"abc", bytearray(b"line\n" * 20), memoryview(bytearray(5)), b"\n", "text"])
        if kind == 18:
            return [self.pick() for _ in range(rng.randrange(3))]
        if kind == 19:
            return rng.choice([0.0, 0.001, -1.0, float("nan"), float("inf"), 1e300])
        return rng.choice([self.number(), None, True, False, (), ("127.0.0.1", 9)])

    def hostile_exception(self):
        game = self

        class Thrown(Boom):
            def __init__(self, *args):
                game.mischief()

            def __str__(self):
                game.mischief()
                return "thrown"

            def __del__(self):
                game.mischief()

        return Thrown

    def arguments(self, method):
        rng = self.rng
        args, kwargs = [], {}
        try:
            parameters = inspect.signature(method).parameters.values()
        except (ValueError, TypeError):
            return [self.argument() for _ in range(rng.choice([0, 1, 1, 2, 3]))], {}
        for parameter in parameters:
            if parameter.kind is parameter.VAR_POSITIONAL:
                args += [self.argument() for _ in range(rng.randrange(3))]
            elif parameter.kind is parameter.VAR_KEYWORD or parameter.name == "self":
                continue
            elif parameter.default is not parameter.empty and rng.random() < 0.4:
                if parameter.kind is not parameter.KEYWORD_ONLY and rng.random() < 0.5:
                    break
            elif parameter.kind is parameter.KEYWORD_ONLY:
                kwargs[parameter.name] = self.argument()
            elif "timeout" in parameter.name:
                args.append(rng.choice([0, 0.001, Hostile(self)]))
            else:
                args.append(self.argument())
        return args, kwargs

    # ---- the objects in play --------------------------------------------------------------------------

    def pick(self):
        if self.current and self.rng.random() < 0.6:
            return self.rng.choice(self.current)
        return self.rng.choice(self.things) if self.things else None

    def fill(self):
        for make in self.recipes:
            thing = self.guarded(make, self)
            if thing is not None:
                self.things.append(thing)

    # ---- what is done with them ----------------------------------------------------------------------

    def guarded(self, function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except SystemError as exc:
            fail(exc)
        except BaseException as exc:
            if isinstance(exc, core.TaskExit):
                raise
            if isinstance(exc, MemoryError):
                return None
        return None

    def use(self, thing):
        rng = self.rng
        kind = type(thing)
        if thing is None or issubclass(kind, (Hostile, HostileStr, HostileInt, HostileList, HostileDict)):
            return None
        self.current.append(thing)
        if rng.random() < 0.12:
            return self.guarded(self.anew, thing, kind)
        name = rng.choice(names_of(kind))
        note(kind, name)
        if isinstance(inspect.getattr_static(kind, name, None), DATA):
            how = rng.randrange(4)
            if how == 0:
                return self.guarded(setattr, thing, name, self.argument())
            if how == 1:
                return self.guarded(delattr, thing, name)
            return self.guarded(getattr, thing, name)
        method = self.guarded(getattr, thing, name)
        if not callable(method):
            return None
        args, kwargs = self.arguments(method)
        return self.guarded(method, *args, **kwargs)

    def anew(self, thing, kind):
        """Call __init__() again; make one without it, a copy, one of a subclass; change its class."""
        rng = self.rng
        how = rng.randrange(8)
        note(kind, f"anew {how}")
        if how < 3:
            args, kwargs = self.arguments(kind)
            kind.__init__(thing, *args, **kwargs)
        elif how == 3:
            self.things.append(kind.__new__(kind))
        elif how == 4:
            self.things.append(copy.copy(thing))
        elif how == 5:
            args, kwargs = self.arguments(kind)
            self.things.append(kind(*args, **kwargs))
        elif how == 6:
            thing.__class__ = type(rng.choice(self.things))
        else:

            class Sub(kind):
                game = self

                def __init__(self, *args):
                    pass

                def __getattribute__(self, name):
                    if not name.startswith("__"):
                        Sub.game.mischief()
                    return super().__getattribute__(name)

            self.things.append(Sub())

    def call_function(self):
        name = self.rng.choice(FUNCTIONS)
        note(core, name)
        function = getattr(core, name)
        args, kwargs = self.arguments(function)
        return self.guarded(function, *args, **kwargs)

    def mischief(self):
        """Do this and that with the objects in play: called by every hostile method."""
        if self.acts >= ACTS or self.quiet or self.collecting or greenlet.getcurrent() is self.main:
            return
        self.acts += 1
        rng = self.rng
        try:
            for _ in range(rng.choice([0, 1, 1, 2, 3])):
                what = rng.randrange(20)
                if what < 11:
                    self.use(self.pick())
                elif what < 13:
                    evergreen.sleep(0)
                elif what == 13:
                    gc.collect(rng.randrange(3))
                elif what == 14 and self.things:
                    self.things[rng.randrange(len(self.things))] = Hostile(self)
                    self.current.clear()
                elif what == 15:
                    self.kill()
                elif what == 16:
                    raise rng.choice([Boom, ValueError, KeyError, StopIteration, Boom2])
                elif what == 17:
                    self.tasks.append(evergreen.spawn(self.use, self.pick()))
                elif what == 18:
                    self.things.append(Hostile(self))
                else:
                    self.call_function()
        finally:
            self.acts -= 1

    def kill(self):
        if self.tasks:
            self.guarded(self.rng.choice(self.tasks).kill)

    def step(self):
        rng = self.rng
        if rng.random() < 0.08:
            self.fill()
        self.acts = 0
        thing = rng.choice(self.things)
        call = (self.use, thing) if rng.random() < 0.9 else (self.call_function,)
        self.tasks.append(evergreen.spawn(*call))
        del thing, call
        if rng.random() < 0.7:
            self.guarded(evergreen.sleep, 0)
        while len(self.tasks) > 20:
            self.guarded(self.tasks.popleft().kill)
        if len(self.things) > 150:
            rng.shuffle(self.things)
            del self.things[75:]

    def play(self):
        rng = self.rng
        sys.unraisablehook = unraisable
        evergreen.current.loop.excepthook = lambda args: None
        if rng.random() < 0.3:
            gc.set_threshold(1)
        self.collectors = rng.random() < 0.3
        gc.callbacks.append(self.on_collection)
        self.guarded(evergreen.spawn(self.guarded, self.fill).join, 0.1)
        for _ in range(STEPS):
            self.guarded(evergreen.spawn(self.guarded, self.step).join, 0.002)
        self.quiet = rng.random() < 0.5
        gc.callbacks.clear()
        self.end()

    def on_collection(self, phase, info):
        if phase == "start" and self.collectors:
            self.mischief()
        self.collecting = phase == "start"
        if phase == "stop" and self.collectors:
            self.mischief()

    def end(self):
        loop = evergreen.EventLoop.current()
        self.things.clear()
        self.current.clear()
        for _ in range(20):
            self.quiet = True
            for task in loop.tasks():
                self.guarded(task.kill)
            self.guarded(evergreen.sleep, 0)
            self.guarded(gc.collect)


# ---- hostile arguments ------------------------------------------------------------------------------


def hostile(result):
    def method(self, *args, **kwargs):
        self.game.mischief()
        return result(self)

    return method


def of(self, game):
    self.game = game
    return self


class Hostile:
    def __init__(self, game):
        self.game = game

    def __getattr__(self, name):
        if name == "game" or name.startswith("__"):
            raise AttributeError(name)
        self.game.mischief()
        if self.game.rng.random() < 0.3:
            raise AttributeError(name)
        return Hostile(self.game)

    @property
    def __class__(self):
        self.game.mischief()
        return self.game.rng.choice([Hostile, type(self.game.pick()), int])

    __call__ = hostile(lambda self: self.game.argument())
    __bool__ = hostile(lambda self: self.game.rng.random() < 0.5)
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __bool__
    __hash__ = hostile(lambda self: self.game.rng.randrange(3))
    __index__ = __int__ = __len__ = fileno = hostile(lambda self: self.game.rng.choice([0, 1, 3, 5, 100]))
    __float__ = hostile(lambda self: self.game.rng.choice([0.0, 0.001, 1.0, -1.0]))
    __str__ = __repr__ = __fspath__ = hostile(lambda self: "hostile")
    __bytes__ = hostile(lambda self: b"hostile")
    __iter__ = hostile(lambda self: iter([self.game.argument() for _ in range(self.game.rng.randrange(4))]))
    __enter__ = __getitem__ = hostile(lambda self: self.game.argument())
    __exit__ = __del__ = __setitem__ = __delitem__ = __bool__
    keys = hostile(lambda self: ["timeout", "x"])

    def __buffer__(self, flags):
        self.game.mischief()
        return memoryview(bytearray(self.game.rng.choice([0, 1, 100, 70_000])))

    def __release_buffer__(self, view):
        self.game.mischief()
        view.release()


class HostileStr(str):
    of = of
    __hash__ = hostile(lambda self: str.__hash__(self))
    __eq__ = hostile(lambda self: True)
    __str__ = __format__ = hostile(lambda self: "x")
    __del__ = hostile(lambda self: None)


class HostileInt(int):
    of = of
    __index__ = __int__ = __hash__ = hostile(lambda self: 1)
    __float__ = hostile(lambda self: 0.001)
    __bool__ = __lt__ = __gt__ = __eq__ = hostile(lambda self: self.game.rng.random() < 0.5)
    __del__ = hostile(lambda self: None)


class HostileList(list):
    of = of

    def __iter__(self):
        for thing in list.__iter__(self):
            self.clear()
            self.game.mischief()
            yield thing

    __len__ = hostile(lambda self: 7)
    __getitem__ = hostile(lambda self: self.game.argument())


class HostileDict(dict):
    of = of
    keys = __iter__ = hostile(lambda self: iter(["timeout", self.game.argument()]))
    __getitem__ = hostile(lambda self: self.game.argument())


# ---- what there is -----------------------------------------------------------------------------------

DATA = property, types.GetSetDescriptorType, types.MemberDescriptorType


@functools.cache
def names_of(kind):
    return [name for name in dir(kind) if name not in LEFT_OUT]


def pair(kind):
    ours, theirs = socket.socketpair()
    stream = kind()
    stream._attach(ours.detach())
    theirs.sendall(b"some\nlines\n")
    stream.theirs = theirs
    return stream


def udp(game):
    sock = core.UDPSocket()
    sock._open(socket.AF_INET)
    return sock


def entered(scope):
    scope.__enter__()
    return scope


def filled(queue, game):
    for _ in range(game.rng.randrange(4)):
        queue.put_nowait(Hostile(game))
    return queue


def put_off(task, game):
    game.tasks.append(task)
    return task


def recipes(game):
    """Functions that make an object each, of the core's types and of all others."""
    hostile = lambda: Hostile(game)  # noqa: E731
    mischief = game.mischief
    loop = evergreen.EventLoop.current()
    known = [
        lambda game: loop,
        lambda game: evergreen.Task(mischief, args=(hostile(),)),
        lambda game: put_off(evergreen.spawn(mischief), game),
        lambda game: evergreen.current.task,
        lambda game: loop.call_soon(mischief),
        lambda game: loop.call_later(0.001, hostile()),
        lambda game: loop.call_later(1000, mischief, hostile()),
        lambda game: loop.add_reader(game.sockets[0], mischief),
        lambda game: loop.add_writer(game.sockets[1], hostile(), hostile()),
        lambda game: loop.add_signal_handler(signal.SIGUSR1, mischief),
        lambda game: core.Event(),
        lambda game: core.Channel(),
        lambda game: core.Semaphore(game.rng.randrange(3)),
        lambda game: core.BoundedSemaphore(1),
        lambda game: core.Lock(),
        lambda game: core.RLock(),
        lambda game: core.Condition(),
        lambda game: core.Condition(hostile()),
        lambda game: core.Barrier(2, mischief),
        lambda game: filled(core.Queue(3), game),
        lambda game: filled(core.LifoQueue(3), game),
        lambda game: filled(core.PriorityQueue(), game),
        lambda game: core.Watch([core.Event(), core.Queue(), hostile()]),
        lambda game: core.Timeout(0.001, game.argument()),
        lambda game: core.Timeout(hostile()),
        lambda game: core.fail_after(hostile()),
        lambda game: core.move_on_after(1),
        lambda game: core.shield(),
        lambda game: core.TaskGroup(),
        lambda game: entered(core.TaskGroup()),
        lambda game: core.local(),
        lambda game: core.FutureCore(),
        lambda game: futures.Future(),
        lambda game: core.fs_stat(".", callback=game.argument()),
        lambda game: core.fs_read(game.file.fileno(), 10, 0, callback=mischief),
        lambda game: core.fs_write(game.file.fileno(), hostile(), 0, callback=mischief),
        lambda game: core.fs_opendir("."),
        lambda game: pair(pipe.PipeStream),
        lambda game: pair(tcp.TCPStream),
        udp,
        lambda game: tls.TLSStream(pair(tcp.TCPStream), ssl.create_default_context(), server_hostname="x"),
        lambda game: core._TLSMessages(),
        lambda game: core.in_turn(mischief),
        lambda game: core.Turn(),
        lambda game: weakref.ref(game.pick(), lambda ref: mischief()),
        lambda game: futures.TaskPoolExecutor(2),
        lambda game: futures.ThreadPoolExecutor(1),
        lambda game: pool.Pool(2),
        lambda game: util.StringBuffer(),
        lambda game: tcp.TCPServer(),
        lambda game: evergreen.spawn(mischief),
    ]
    rest = [lambda game, kind=kind: kind(*game.arguments(kind)[0]) for kind in public_classes()]
    return known + rest


def public_classes():
    found = {kind for kind in vars(core).values() if isinstance(kind, type)}
    for module in evergreen, event, locks, queue, timeout, futures, pool, stream, tcp, udp_, tls, util, fs:
        found |= {kind for kind in vars(module).values() if isinstance(kind, type)}
    left_out = {core.EventLoop, getattr(futures, "ProcessPoolExecutor", None), type(None)}
    ours = [kind for kind in found - left_out if kind.__module__.startswith("evergreen")]
    return sorted(ours, key=lambda kind: kind.__module__ + kind.__qualname__)


def note(kind, name):
    """For the report, if it crashes."""
    os.write(last, f"{getattr(kind, '__qualname__', kind)} {name}\n".encode(errors="replace"))


def fail(exc):
    if str(exc).startswith(NOT_OURS):
        return
    traceback.print_exception(exc)
    os._exit(3)


def unraisable(args):
    if isinstance(args.exc_value, SystemError):
        fail(args.exc_value)


def leave_descriptors():
    """Have only idle descriptors below 110, for the game to use and close."""
    sys.stdout, sys.stderr = (os.fdopen(fcntl.fcntl(fd, fcntl.F_DUPFD, 200), "w", 1) for fd in (1, 2))
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(2):  # an assertion of C code goes to the third
        os.dup2(null, fd)
    while os.dup(null) < 110:
        pass


def main(seed):
    global last
    leave_descriptors()
    faulthandler.enable(sys.stderr)
    faulthandler.dump_traceback_later(SECONDS - 10, exit=True, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        last = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        game = Game(random.Random(seed))
        game.file = open("hostile", "w+b")  # noqa: SIM115
        game.sockets = socket.socketpair()
        evergreen.EventLoop.current()
        game.recipes = recipes(game)
        game.play()
        os.chdir("/")
    print("played", flush=True)
    os._exit(0)


if __name__ == "__main__":
    import evergreen
    from evergreen import _evergreen_c as core
    from evergreen import event, futures, locks, pool, queue, timeout
    from evergreen.io import fs, pipe, stream, tcp, tls, util
    from evergreen.io import udp as udp_

    FUNCTIONS = ["spawn", "sleep", "wait_fd", "wait_fds", "in_turn", "loop_here", "unobserved"]
    FUNCTIONS += [name for name in vars(core) if name.startswith("fs_") and name not in LEFT_OUT]
    main(int(sys.argv[1]))


def play(rng, folder):
    seed, last = rng.randrange(2**32), folder / "last"
    child = subprocess.run(
        [sys.executable, __file__, str(seed), str(last)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        env={"PYTHONMALLOC": "debug", **os.environ},
    )
    calls = last.read_text().splitlines()[-5:] if last.exists() else []
    report = f"seed {seed}: {child.stderr[-6000:]}\nlast calls: {calls}"
    assert (child.returncode, child.stdout) == (0, "played\n"), report


def test_python_code_that_runs_in_the_middle_of_any_call_breaks_nothing(rounds, tmp_path):
    for rng in rounds(3):
        play(rng, tmp_path)
