"""What every server of the workloads does around its work: clients are started, waited for, let loose, heard.

run = Run(count, meter, kind="tcp", size=1024, connections=50, idle=0, ended=done.set)
...                                # start a server; its handlers count run.begun, and call run.ended()
with run.connecting(port):
    while not run.ready():
        sleep(PAUSE)               # each in its own way
with run.messages():
    done.wait()
run.finish()
while not run.over():
    sleep(PAUSE)
"""

from __future__ import annotations

import contextlib
import resource
import tempfile
from collections.abc import Callable, Iterator
from itertools import count as counter

from meters import Memory, Meter
from programs import Clients, certificate

__all__ = ["BACKLOG", "PAUSE", "Countdown", "Run"]

BACKLOG = 4096
PAUSE = 0.002  # seconds
SPARE = 100  # descriptors that a process has for other things


class Countdown:
    """Call it for each of *n* that ended; the last time, it calls *reached*.  Threads may share it."""

    def __init__(self, n: int, reached: Callable[[], object]) -> None:
        self._n, self._reached, self._next = n, reached, counter(1).__next__
        self.so_far = 0

    def __call__(self) -> None:
        self.so_far = so_far = self._next()
        if so_far == self._n:
            self._reached()


class Run:
    """One call of an adapter.

    kind: as in ``native/load.c``; path: where a Unix socket may be; begun: how many connections have a task.
    connections, idle: how many send messages, and how many do not.
    ends: how often *ended* is called until it is over; as often as there are *connections*, or messages.

    Messages are what is measured.  With a meter for memory, it is what happens until each connection has its
    task.
    """

    def __init__(
        self,
        count: int,
        meter: Meter,
        *,
        kind: str,
        size: int,
        connections: int,
        idle: int = 0,
        ends: int | None = None,
        ended: Callable[[], object],
    ) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        wanted = connections + idle + SPARE
        if most != resource.RLIM_INFINITY and most < wanted:
            raise RuntimeError(f"{wanted} descriptors are needed, and {most} allowed: see ulimit -Hn")
        self.kind, self.size, self.count, self.meter = kind, size, count, meter
        self.connections, self.idle, self.begun = connections, idle, 0
        self.ended = Countdown(ends or connections, ended)
        self._folder = tempfile.TemporaryDirectory()
        self.path = f"{self._folder.name}/socket"

    def configure_tls(self, context):
        """Return an SSLContext, of whatever module, with the certificate in it."""
        context.load_cert_chain(*certificate())
        return context

    @contextlib.contextmanager
    def connecting(self, where: int | str) -> Iterator[None]:
        """Start the clients of the server that is there; in the ``with`` block, wait until it is `ready`."""
        with self.meter if isinstance(self.meter, Memory) else contextlib.nullcontext():
            self._clients = Clients(self.kind, where, self.size, self.count, self.connections, self.idle)
            yield

    def ready(self) -> bool:
        """Whether every connection is made and has its task."""
        if self.kind in ("udp", "accept"):
            return self._clients.ready()
        return self.begun == self.connections + self.idle and self._clients.ready()

    @contextlib.contextmanager
    def messages(self) -> Iterator[None]:
        """Let the clients begin; in the ``with`` block, wait until all have ended."""
        with contextlib.nullcontext() if isinstance(self.meter, Memory) else self.meter:
            self._clients.go()
            yield

    def finish(self) -> None:
        """Hear from the clients, and let the idle ones go; then wait until all is `over`."""
        self._clients.finish(self.meter)
        self._folder.cleanup()

    def over(self) -> bool:
        """Whether the last task has ended, so that it does not do so when others are measured."""
        return self.ended.so_far >= self.begun
