"""Reads of 4 KiB that the page cache does not have: for how long does the thread do nothing else?

A ticker beside it is due each millisecond; what is recorded is how late it is.  The file is 64 MiB; the
kernel is told to forget it (posix_fadvise(2), POSIX_FADV_DONTNEED) and to read nothing ahead, and no page is
read twice.  `plain` has no ticker: it is how long each read takes, and would hold up everybody.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from time import perf_counter

from meters import Stall

from workloads import Workload

WORKLOADS = (
    Workload(
        "cold4k",
        "delay of a ticker beside reads of 4 KiB from the disk",
        per="tick",
        counts=(3_000,),
        meter=Stall,
        warm_up=10,
    ),
)

SIZE, PAGE, TICK = 64 << 20, 4096, 0.001
HERE = Path(__file__).parent.parent.parent / "build"  # /tmp may be in memory


@contextlib.contextmanager
def cold_file():
    """Give the descriptor of a file that is on the disk alone, and a function: where to read next."""
    HERE.mkdir(exist_ok=True)
    with tempfile.TemporaryFile(dir=HERE) as file:
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        fd, place = file.fileno(), 0
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

        def next_place():
            nonlocal place
            place = (place + 7919 * PAGE) % SIZE  # it has 16,384 pages, and meets each
            return place

        yield fd, next_place


class Ticker:
    """Its `tick` is called after each sleep of a TICK, and tells the meter how late that is."""

    def __init__(self, meter):
        self.meter, self.reading, self.last = meter, True, perf_counter()

    def tick(self):
        now = perf_counter()
        self.meter.add(max(0.0, now - self.last - TICK))
        self.last = now


def on_evergreen(count, meter):
    from evergreen import sleep, spawn
    from evergreen.io import fs

    def run():
        while ticker.reading:
            sleep(TICK)
            ticker.tick()

    with cold_file() as (fd, next_place):
        ticker = Ticker(meter)
        task = spawn(run)
        for _ in range(count):
            assert len(fs.read(fd, PAGE, next_place())) == PAGE
        ticker.reading = False
        task.join()


def on_gevent(count, meter):
    from gevent import get_hub, sleep, spawn

    def run():
        while ticker.reading:
            sleep(TICK)
            ticker.tick()

    apply = get_hub().threadpool.apply
    with cold_file() as (fd, next_place):
        ticker = Ticker(meter)
        task = spawn(run)
        for _ in range(count):
            assert len(apply(os.pread, (fd, PAGE, next_place()))) == PAGE
        ticker.reading = False
        task.join()


async def on_asyncio(count, meter):
    from asyncio import create_task, get_running_loop, sleep

    async def run():
        while ticker.reading:
            await sleep(TICK)
            ticker.tick()

    in_thread = get_running_loop().run_in_executor
    with cold_file() as (fd, next_place):
        ticker = Ticker(meter)
        task = create_task(run())
        for _ in range(count):
            assert len(await in_thread(None, os.pread, fd, PAGE, next_place())) == PAGE
        ticker.reading = False
        await task


def on_plain(count, meter):
    with cold_file() as (fd, next_place):
        for _ in range(count):
            place, began = next_place(), perf_counter()
            assert len(os.pread(fd, PAGE, place)) == PAGE
            meter.add(perf_counter() - began)
