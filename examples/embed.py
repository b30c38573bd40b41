#!/usr/bin/env python3
"""Run tasks inside asyncio: its loop watches Evergreen's and runs it when there is something to do."""

import asyncio

import evergreen
from evergreen import EventLoop


async def drive(loop, task):
    """Run the tasks of *loop* until *task* has ended."""
    happened = asyncio.Event()
    asyncio.get_running_loop().add_reader(loop.fileno(), happened.set)
    loop.run(EventLoop.RUN_NOWAIT)
    while task.is_alive():
        try:
            await asyncio.wait_for(happened.wait(), loop.get_timeout())
        except TimeoutError:
            pass
        happened.clear()
        loop.run(EventLoop.RUN_NOWAIT)
    asyncio.get_running_loop().remove_reader(loop.fileno())


def tick():
    for number in range(3):
        evergreen.sleep(0.02)
        print("task", number)


async def tock():
    for number in range(3):
        await asyncio.sleep(0.03)
        print("coroutine", number)


async def main():
    await asyncio.gather(drive(evergreen.current.loop, evergreen.spawn(tick)), tock())


if __name__ == "__main__":
    asyncio.run(main())
