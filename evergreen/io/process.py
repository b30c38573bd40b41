"""Child processes, without blocking the event loop.

`run` runs a program and collects its output; `Process` is a child to talk to, with its pipes as streams::

    from evergreen.io import process

    done = process.run(["git", "log", "-1"], capture_output=True, check=True)

    with process.Process(["sort"], stdin=process.PIPE, stdout=process.PIPE) as child:
        child.stdin.write(b"b\\na\\n")
        child.stdin.close()
        for line in child.stdout:
            ...

Names, arguments and exceptions are those of `subprocess`, which starts the children (by vfork where it can);
a task waits for the end of one by its pidfd (pidfd_open(2)), so nobody's children are reaped but these.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError, CompletedProcess, TimeoutExpired
from types import TracebackType
from typing import Any, TypeAlias

import evergreen
from evergreen import _evergreen_c as core
from evergreen import _policy

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CalledProcessError",
    "CompletedProcess",
    "Pipe",
    "Process",
    "TimeoutExpired",
    "run",
]

_Args: TypeAlias = str | bytes | os.PathLike[Any] | Sequence[str | bytes | os.PathLike[Any]]
_CHUNK = 65536  # bytes: what a pipe holds


class Pipe:
    """One end of a pipe, as a stream of bytes.

    Several tasks may use it: each call waits until the one before it has ended.
    """

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._buffer = bytearray()
        self._turn = core.Turn()

    def fileno(self) -> int:
        """Return the descriptor; ValueError: it was closed."""
        if self._fd < 0:
            raise ValueError("I/O operation on closed pipe")
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether it was closed at this end."""
        return self._fd < 0

    def _fill(self) -> bool:
        """Wait for more; False: there is no more."""
        data = core.fs_read(self.fileno(), _CHUNK)
        self._buffer += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    @core.in_turn
    def read(self, size: int = -1) -> bytes:
        """Return *size* bytes, or fewer if the other end is closed before; all until then if negative."""
        self.fileno()
        while (size < 0 or len(self._buffer) < size) and self._fill():
            pass
        return self._take(len(self._buffer) if size < 0 else size)

    @core.in_turn
    def read1(self, size: int = -1) -> bytes:
        """Return what there is, up to *size* bytes, waiting for some; b"" if the other end is closed."""
        self.fileno()
        if not self._buffer and size:
            self._fill()
        return self._take(len(self._buffer) if size < 0 else size)

    @core.in_turn
    def readline(self) -> bytes:
        """Return the next line with its newline; what is left without one at the end; b"" after it."""
        self.fileno()
        start = 0
        while (end := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            if not self._fill():
                return self._take(start)
        return self._take(end + 1)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line: bytes = self.readline()
        if not line:
            raise StopIteration
        return line

    @core.in_turn
    def write(self, data: Any) -> int:
        """Write all of *data*, waiting while the pipe is full; return its length in bytes.

        BrokenPipeError: the other end was closed.
        """
        with memoryview(data) as view, view.cast("B") as rest:
            size = len(rest)
            sent = core.fs_write(self.fileno(), data) if size else 0
            while sent < size:
                sent += core.fs_write(self.fileno(), rest[sent : sent + 1048576])
            return size

    def flush(self) -> None:
        """Do nothing: write() keeps nothing back."""

    def close(self) -> None:
        """Close this end; who waits at it gets OSError EBADF. Harmless twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            core.fs_close(fd)

    def __enter__(self) -> Pipe:
        return self

    def __exit__(
        self, typ: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            warnings.warn(f"unclosed {self!r} of fd {fd}", ResourceWarning, stacklevel=2, source=self)
            os.close(fd)

    def __repr__(self) -> str:
        return f"<Pipe {'closed' if self._fd < 0 else self._fd}>"


class Process:
    """A child process.

    *args*, *cwd*, *env* and the *options* are those of `subprocess.Popen` (``shell``, ``pass_fds``,
    ``start_new_session``, ``umask``, ...); *stdin*, *stdout* and *stderr* are `PIPE`, `DEVNULL`, a file, a
    descriptor, None for this process's own, or, for *stderr*, `STDOUT`.  *uid* and *gid* are a number or a
    name.  With `PIPE`, the attribute of the same name is a `Pipe`, else None.

    OSError: the program cannot be run.
    """

    def __init__(
        self,
        args: _Args,
        *,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        cwd: str | bytes | os.PathLike[Any] | None = None,
        env: Mapping[Any, Any] | None = None,
        uid: int | str | None = None,
        gid: int | str | None = None,
        **options: Any,
    ) -> None:
        self.args = args
        self.stdin: Pipe | None = None
        self.stdout: Pipe | None = None
        self.stderr: Pipe | None = None
        self._pidfd = -1
        self._exchange: _Exchange | None = None
        if uid is not None:
            options["user"] = uid
        if gid is not None:
            options["group"] = gid
        mine: dict[str, int] = {}
        theirs: list[int] = []
        redirected = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        try:
            for name, target in redirected.items():
                if target == PIPE:
                    ends = os.pipe()
                    mine[name], redirected[name] = ends[::-1] if name == "stdin" else ends
                    theirs.append(redirected[name])
            self._popen = subprocess.Popen(args, bufsize=0, cwd=cwd, env=env, **redirected, **options)
        except BaseException:
            for fd in mine.values():
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.pid = self._popen.pid
        for name, fd in mine.items():
            setattr(self, name, Pipe(fd))

    @property
    def returncode(self) -> int | None:
        """The exit status, negative if a signal ended it; None: nobody has asked since it ended."""
        return self._popen.returncode

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        code = self._popen.poll()
        if code is not None and self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        return code

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; return the exit status.

        `TimeoutExpired`: it has not in *timeout* seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if until is None else max(0.0, until - time.monotonic())
            if self._pidfd < 0 and not self._open_pidfd():
                _policy.offload(self._popen.wait, (left,))
            elif not core.wait_fd(self._pidfd, 1, left):
                assert timeout is not None
                raise TimeoutExpired(self.args, timeout)
        return code

    def _open_pidfd(self) -> bool:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (OSError, AttributeError):  # another system, or no descriptor is left
            return False
        return True

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        self._popen.send_signal(sig)

    def terminate(self) -> None:
        """Ask it to end: SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it: SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(
        self, input: Any = None, timeout: float | None = None
    ) -> tuple[bytes | None, bytes | None]:
        """Write *input*, read all output, wait for the end; return (stdout, stderr), None where no `PIPE`.

        `TimeoutExpired`: it has not ended in *timeout* seconds; nothing is lost if one asks again.
        """
        if core.loop_here() is None and threading.get_ident() != threading.main_thread().ident:
            return evergreen.run(self.communicate, input, timeout)  # it takes tasks
        if self._exchange is None:
            self._exchange = _Exchange(self, input)
        elif input:
            raise ValueError("Cannot send input after starting communication")
        until = None if timeout is None else time.monotonic() + timeout
        try:
            self._exchange.wait(until)
            self.wait(None if until is None else max(0.0, until - time.monotonic()))
        except (TimeoutError, TimeoutExpired):
            assert timeout is not None
            out, err = self._exchange.output()
            raise TimeoutExpired(self.args, timeout, out, err) from None
        except BaseException:
            self._exchange.stop()
            raise
        return self._exchange.output()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, typ: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._exchange is not None:
            self._exchange.stop()
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream is not None:
                stream.close()
        self.wait()

    def __del__(self) -> None:
        if getattr(self, "_pidfd", -1) >= 0:
            os.close(self._pidfd)

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"returned {self.returncode}"
        return f"<Process {self.args!r} pid {self.pid}: {state}>"


class _Exchange:
    """What communicate() does with the three pipes: a task for each."""

    def __init__(self, process: Process, input: Any) -> None:
        self._parts: dict[str, list[bytes]] = {}
        self._tasks: list[core.Task] = []
        if process.stdin is not None:
            self._tasks.append(core.spawn(self._feed, process.stdin, input))
        elif input:
            raise ValueError("input needs stdin=PIPE")
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            if stream is not None:
                self._parts[name] = []
                self._tasks.append(core.spawn(self._drain, stream, self._parts[name]))

    @staticmethod
    def _feed(stream: Pipe, input: Any) -> None:
        try:
            if input:
                stream.write(input)
        except BrokenPipeError:
            pass  # it did not want all of it
        finally:
            stream.close()

    @staticmethod
    def _drain(stream: Pipe, parts: list[bytes]) -> None:
        while data := stream.read1():
            parts.append(data)
        stream.close()

    def wait(self, until: float | None) -> None:
        """Wait for all of them; TimeoutError: they are not done in time."""
        for task in self._tasks:
            task.result(None if until is None else max(0.0, until - time.monotonic()))

    def stop(self) -> None:
        """End those that are at work."""
        for task in self._tasks:
            if task.is_alive():
                task.kill()

    def output(self) -> tuple[bytes | None, bytes | None]:
        """What has come so far."""
        out, err = (
            b"".join(self._parts[name]) if name in self._parts else None for name in ("stdout", "stderr")
        )
        return out, err


def run(
    args: _Args,
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    text: bool = False,
    encoding: str | None = None,
    errors: str | None = None,
    **options: Any,
) -> CompletedProcess[Any]:
    """Run a program to its end; return its `CompletedProcess`, as `subprocess.run` does.

    *options* are those of `Process`.  With *text*, *encoding* or *errors*, input and output are str.
    `TimeoutExpired`: it did not end in *timeout* seconds, and was killed.  `CalledProcessError`: *check*, and
    it returned something other than 0.  A task that is killed meanwhile kills the program, too.
    """
    if input is not None:
        if options.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        options["stdin"] = PIPE
    if capture_output:
        if options.get("stdout") is not None or options.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        options["stdout"] = options["stderr"] = PIPE
    text = text or encoding is not None or errors is not None
    encoding, errors = encoding or "utf-8", errors or "strict"
    if text and input is not None:
        input = input.encode(encoding, errors)

    def shown(data: bytes | None) -> Any:
        if data is None or not text:
            return data
        return data.decode(encoding, errors).replace("\r\n", "\n").replace("\r", "\n")

    with Process(args, **options) as child:
        try:
            out, err = child.communicate(input, timeout)
        except TimeoutExpired as expired:
            child.kill()
            child.wait()
            expired.output, expired.stderr = child._exchange.output()  # type: ignore[union-attr]
            raise
        except BaseException:
            child.kill()
            raise
    assert child.returncode is not None
    done = CompletedProcess(args, child.returncode, shown(out), shown(err))
    if check:
        done.check_returncode()
    return done
