"""What the C core leaves to Python: reports, signals, native threads.

The core calls these functions by name (``eg_policy_call`` in ``_evergreen_c/module.c``); nothing
here is public.  None of it runs on a hot path.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself imports enum
import atexit
import fcntl
import gc
import os
import struct
import sys
import threading
from collections import namedtuple
from functools import partial
from time import monotonic

from evergreen import _asyncio, _drivers, _threads
from evergreen import _evergreen_c as core

# ---- exceptions nobody observes ------------------------------------------------------------


TYPE_CHECKING = False  # as in module typing; that, signal and traceback are imported when they are needed
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType, ModuleType
    from typing import Any, NamedTuple, NoReturn

    class ExceptHookArgs(NamedTuple):
        """What an `EventLoop.excepthook` is called with; the fields of `sys.unraisablehook`'s argument."""

        exc_type: type[BaseException]
        exc_value: BaseException
        exc_traceback: Any
        err_msg: str
        object: Any
else:
    ExceptHookArgs = namedtuple("ExceptHookArgs", "exc_type exc_value exc_traceback err_msg object")


def report(loop: core.EventLoop | None, what: str, source: object, exc: BaseException) -> None:
    """Give an exception to the loop's excepthook, or print it."""
    args = ExceptHookArgs(type(exc), exc, exc.__traceback__, what, source)
    hook = loop.excepthook if loop is not None else None
    try:
        (hook or print_exception)(args)
    except BaseException:
        if hook is not None:
            print_exception(args)  # a broken hook loses nothing
        raise


def print_exception(args: ExceptHookArgs) -> None:
    """The default excepthook: the traceback, headed by whose it is, on ``sys.stderr``."""
    import traceback

    stream = sys.stderr
    if stream is None:
        return
    source = args.object
    whose = repr(source.name) if isinstance(source, core.Task) else repr(source) if source else ""
    stream.write(f"{args.err_msg} {whose}".rstrip() + ":\n")
    traceback.print_exception(args.exc_type, args.exc_value, args.exc_traceback, file=stream)
    stream.flush()


@atexit.register
def _report_the_rest() -> None:
    """Tasks that failed and are still referred to: nobody will ever ask."""
    if core.unobserved():
        for candidate in gc.get_objects():
            if isinstance(candidate, core.Task):
                core.report(candidate)


# ---- the end of the program ------------------------------------------------------------------------


@atexit.register
def _begin_to_exit() -> None:
    """Have patched functions be native once the interpreter finalizes, also for the first finaliser."""
    core.exit_begin()
    gc.callbacks.append(core.exit_collect)


# ---- deadlock --------------------------------------------------------------------------------


def describe(task: core.Task) -> str:
    """One paragraph: the task, what it waits for and since when, and where in the code."""
    lines = [repr(task)]
    if task.waiting is not None:
        kind, source, _, since = task.waiting
        seconds = max(0.0, (task.loop.time() if task.loop else since) - since)
        of = "" if source is None else f" {source!r}"
        lines[0] += f" waits for {kind}{of} since {seconds:.3f} s"
    frame = getattr(task.greenlet, "gr_frame", None)
    if frame is not None:
        import traceback

        lines += [line.rstrip() for line in traceback.format_stack(frame, limit=10)]
    return "\n".join(lines)


def _a_signal_may_come() -> bool:
    """Whether the program handles a signal in Python, other than by KeyboardInterrupt."""
    if not core.in_main_thread():
        return False
    for signum in _signal.valid_signals():
        handler = _signal.getsignal(signum)
        if callable(handler) and handler is not _signal.default_int_handler:
            return True
    return False


def deadlock(loop: core.EventLoop) -> BaseException | None:
    """The exception that says who waits for what, or None if a signal handler may still wake them."""
    if _a_signal_may_come():
        return None
    tasks = [loop.main_task, *loop.tasks()]
    shown = "\n".join(describe(task) for task in tasks[:50])
    more = f"\n... and {len(tasks) - 50} more" if len(tasks) > 50 else ""
    exc = core.Deadlock(f"nothing can ever wake the {len(tasks)} tasks that are left:\n{shown}{more}")
    exc.tasks = tasks
    if core.in_main_thread() and getattr(threading, "_SHUTTING_DOWN", False):  # main has ended
        core.exit_status(1)  # it is printed as an exception that is ignored, and the status would be 0
    if loop._orphan:  # a forked child has no main greenlet of its own to tell
        print_exception(ExceptHookArgs(type(exc), exc, None, "Deadlock in a forked child", None))
        leave_child(exc)
    return exc


def leave_child(exc: BaseException | None) -> NoReturn:
    """End a forked child whose last task has ended, as a thread's would: nothing of the parent runs.

    The exit code is what it would be if *exc* had reached the top of a program.
    """
    code = 0 if exc is None or isinstance(exc, core.TaskExit) else 1
    if isinstance(exc, SystemExit):
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        if isinstance(exc.code, str) and sys.stderr is not None:
            sys.stderr.write(exc.code + "\n")
    elif isinstance(exc, KeyboardInterrupt):
        code = 128 + _signal.SIGINT
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or never there: there is nobody left to tell
    os._exit(code & 0xFF)


# ---- signals -----------------------------------------------------------------------------------

_signal_handlers: dict[int, tuple[Any, list[core.Watcher]]] = {}


class SignalHandler:
    """What `EventLoop.add_signal_handler` returns: a callback that cancel() takes out."""

    def __init__(self, signum: int, handler: core.Watcher) -> None:
        self._signum = signum
        self._handler = handler

    @property
    def cancelled(self) -> bool:
        """Whether cancel() was called."""
        return self._handler.cancelled

    def cancel(self) -> None:
        """Have the callback not be called any more. Harmless twice."""
        self._handler.cancel()
        _, handlers = _signal_handlers.get(self._signum, (None, []))
        if self._handler in handlers:
            handlers.remove(self._handler)
            if not handlers:
                _restore(self._signum)

    def __repr__(self) -> str:
        import signal

        return f"<SignalHandler {signal.Signals(self._signum).name} {self._handler!r}>"


def _on_signal(signum: int, frame: FrameType | None) -> None:
    for handler in _signal_handlers[signum][1]:
        handler.schedule()


def _restore(signum: int) -> None:
    before, _ = _signal_handlers.pop(signum)
    if _signal.getsignal(signum) is _on_signal:
        _signal.signal(signum, before if before is not None else _signal.SIG_DFL)


def _check_signum(signum: object) -> int:
    if not isinstance(signum, int):
        raise TypeError(f"sig must be an int, not {signum!r}")
    if not 1 <= signum < _signal.NSIG:
        raise ValueError(f"sig {signum} out of range(1, {_signal.NSIG})")
    return int(signum)


def add_signal_handler(loop: core.EventLoop, sig: object, handler: core.Watcher) -> SignalHandler:
    """One more callback for a signal, beside those that it has."""
    signum = _check_signum(sig)
    if signum not in _signal_handlers:
        try:
            before = _signal.signal(signum, _on_signal)
        except (OSError, ValueError) as exc:
            raise RuntimeError(f"signal {signum} cannot be handled here: {exc}") from None
        _signal_handlers[signum] = (before, [])
    _signal_handlers[signum][1].append(handler)
    return SignalHandler(signum, handler)


def remove_signal_handler(loop: core.EventLoop, sig: object) -> bool:
    """Take out all callbacks of a signal, and put the handler of before back."""
    signum = _check_signum(sig)
    if signum not in _signal_handlers:
        return False
    for handler in _signal_handlers[signum][1]:
        handler.cancel()
    _restore(signum)
    return True


destroy_hooks: list[Callable[[core.EventLoop], object]] = []  # what else a loop takes along


def before_destroy(loop: core.EventLoop) -> None:
    """Signals are the main thread's: its loop takes its handlers along."""
    for hook in destroy_hooks:
        hook(loop)
    if core.in_main_thread():
        for signum in list(_signal_handlers):
            remove_signal_handler(loop, signum)


# ---- native threads -----------------------------------------------------------------------------


def offload(fn: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
    """Make a call that may block without end in a native thread while the task waits; return its result."""
    return _threads.slow.run(fn, args, kwargs or {})


def offload_name_lookup(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
    """The same for the resolver, in a lane of its own: slow names delay nothing else."""
    return _threads.dns.run(fn, args, kwargs or {}, quiet=True)


def offload_file(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
    """The same for regular files and the file system."""
    return _threads.file.run(fn, args, kwargs or {}, quiet=True)


def offload_computation(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
    """The same for what computes without the GIL: no more of it at once than leaves loops a processor."""
    return _threads.compute.run(fn, args, kwargs or {}, quiet=True)


def wait_for_child(idtype: int, ident: int, options: int) -> None:
    """Wait until `os.waitid` with these arguments would find a child; take it from nobody."""
    try:
        _threads.slow.run(_waitid, (idtype, ident, options | os.WEXITED | os.WNOWAIT), {}, quiet=True)
    except ChildProcessError:
        pass  # the caller finds out by itself


_waitid = core.patch_native("posix", "waitid")


def wait_for_flock(fd: Any, operation: int) -> None:
    """`fcntl.flock` in a native thread; who is killed while waiting gets no lock."""
    # On a copy, which is the same lock: the number may mean another file before this one is locked.
    copy = os.dup(fd if isinstance(fd, int) else fd.fileno())
    _wait_for_lock(
        partial(_flock, copy, operation), partial(_flock, copy, fcntl.LOCK_UN), partial(os.close, copy)
    )


def wait_for_fcntl_lockf(fd: Any, operation: int, *rest: int) -> None:
    """`fcntl.lockf` in the same way; closing a copy would give up all locks of the file."""
    number = fd if isinstance(fd, int) else fd.fileno()
    lock, unlock = (partial(_fcntl_lockf, number, what, *rest) for what in (operation, fcntl.LOCK_UN))
    _wait_for_lock(lock, unlock, lambda: None)


def wait_for_fcntl(fd: Any, command: int, lock: bytes) -> bytes:
    """`fcntl.fcntl` with F_SETLKW or F_OFD_SETLKW in the same way; *lock* is a ``struct flock``."""
    number = fd if isinstance(fd, int) else fd.fileno()
    free = struct.pack("h", fcntl.F_UNLCK) + lock[2:]
    _wait_for_lock(
        partial(_fcntl, number, command, lock), partial(_fcntl, number, command, free), lambda: None
    )
    return lock


def wait_for_lockf(fd: int, command: int, length: int) -> None:
    """`os.lockf` in the same way."""
    lock, unlock = (partial(_lockf, fd, what, length) for what in (command, os.F_ULOCK))
    _wait_for_lock(lock, unlock, lambda: None)


_flock = core.patch_native("fcntl", "flock")
_fcntl_lockf = core.patch_native("fcntl", "lockf")
_lockf = core.patch_native("posix", "lockf")
_fcntl = core.patch_native("fcntl", "fcntl")


def wait_for_semaphore(owner: object, handle: int, timeout: float | None) -> bool:
    """Take a unit of the ``sem_t`` at *handle*, which lives as long as *owner*; False: not in time."""
    wait, post = partial(core.semaphore_wait, handle, 0.2), partial(core.semaphore_post, handle)
    return _wait_for_lock(wait, post, lambda: owner, timeout)


def wait_for_thread(acquire: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Take the lock that C code releases when a native thread ends (3.12 and before)."""
    return _wait_for_thread(acquire, *args, **kwargs)


def _wait_for_thread(acquire: Any, blocking: bool = True, timeout: float = -1) -> bool:
    release = partial(_lock_release, acquire.__self__)
    limit = None if timeout == -1 else timeout
    try:
        return _wait_for_lock(partial(acquire, True, 0.2), release, lambda: None, limit)
    except RuntimeError as exc:
        if not _threads.is_ending(exc):
            raise
    end = monotonic() + timeout
    while not acquire(False):  # it is one of those that the process waits for
        if timeout != -1 and monotonic() >= end:
            return False
        core.sleep(0.01)
    return True


_lock_release = core.patch_native("_thread.LockType", "release")


def _wait_for_lock(
    lock: Callable[[], Any],
    unlock: Callable[[], Any],
    close: Callable[[], Any],
    timeout: float | None = None,
) -> bool:
    """Call lock() in a native thread, again while it returns False; return whether it was in time.

    If the wait for it is cut short, unlock() is called as soon as it returns; close() is called last.
    """
    undecided = [True]  # whether somebody waits when it returns: pop() decides, for both sides
    taken = False

    def decide() -> bool:
        try:
            return undecided.pop()
        except IndexError:
            return False

    def work() -> None:
        nonlocal taken
        try:
            while undecided and not taken:
                taken = lock() is not False
        finally:
            if not decide():  # nobody waits any more
                if taken:
                    unlock()
                close()

    call = _threads.slow.submit(work, (), {}, quiet=True)
    in_time = True
    try:
        if not call._done.wait(timeout):
            in_time = not (call.cancel() or decide())
            if not in_time:
                return False
        call.get()
    except BaseException:
        if call.cancel() or not decide():
            if taken:
                unlock()
            close()
        raise
    close()
    return True


def native_call(name: str, run: Callable[[], None]) -> bool:
    """Run one of libc's calls, which C code made, in a native thread while the task waits."""
    lane = _threads.dns if name == "getaddrinfo" else _threads.slow
    lane.run(run, (), {}, quiet=True)
    return True


threading_modules: list[Any] = [threading]  # and `evergreen.lib.threading`


def forget_thread(ident: int) -> None:
    """Drop the stand-in that `threading` made for a task that asked which thread it is."""
    for module in threading_modules:
        if isinstance(module._active.get(ident), module._DummyThread):
            module._active.pop(ident, None)


# ---- files -----------------------------------------------------------------------------------------


def directory_entries(folder: Any, found: list[tuple[Any, int]]) -> Any:
    """What `evergreen.io.fs.scandir` returns, of (name, libuv's type)."""
    from evergreen.io.fs import DirEntry, Entries

    return Entries([DirEntry(folder, name, kind) for name, kind in found])


def directory_opened(folder: Any, fd: int) -> Any:
    """What `evergreen.io.fs.opendir` returns."""
    from evergreen.io.fs import Directory

    return Directory(folder, fd)


def directory_part(folder: Any, found: list[tuple[Any, int]]) -> Any:
    """What `evergreen.io.fs.readdir` returns."""
    from evergreen.io.fs import DirEntry

    return [DirEntry(folder, name, kind) for name, kind in found]


# ---- imports ---------------------------------------------------------------------------------------


def module_imported(module: ModuleType) -> None:
    """A module in C was imported after something was patched."""
    _drivers.imported(module)


# ---- asyncio ---------------------------------------------------------------------------------------

asyncio_runs = _asyncio.follow

# ---- what 0.2 kept on the loop --------------------------------------------------------------------


class HubTask:
    """The loop seen as a task: `EventLoop.task` of 0.2."""

    def __init__(self, loop: core.EventLoop) -> None:
        self._loop = loop

    def is_alive(self) -> bool:
        """Whether the loop can still run something: False after run() ended, or destroy()."""
        return self._loop._alive


hub_task = HubTask


class ThreadPool:
    """Native threads for calls that block: `EventLoop._threadpool` of 0.2."""

    def __init__(self, loop: core.EventLoop) -> None:
        self._loop = loop

    def spawn(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> _threads.Call:
        """Have fn(*args, **kwargs) run in a native thread; its get() waits for the result."""
        return _threads.user.submit(fn, args, kwargs)


threadpool = ThreadPool

# ---- fork ------------------------------------------------------------------------------------------

keep_tasks = False  # set by evergreen.fork() around the fork it makes


def _after_fork_in_child() -> None:
    _threads.after_fork_in_child()
    core.after_fork_in_child(keep_tasks)


os.register_at_fork(after_in_child=_after_fork_in_child)
