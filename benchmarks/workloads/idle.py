"""An echo server with 10,000 connections on which nothing happens, and their tasks wait: `workloads.echo`'s.

What a message costs on 100 others, and what memory each of the 10,000 takes.
"""

from meters import Memory, Served

from workloads import Workload, echo

WORKLOADS = (
    Workload(
        "idle",
        "echo server, 100 connections among 10,000 idle ones, 1 KiB",
        per="message",
        counts=(20_000,),
        meter=Served,
        options={"size": 1024, "connections": 100},
        quick=False,
    ),
    Workload(
        "idle_memory",
        "memory of an idle connection and its task, 10,000 of them",
        per="connection",
        counts=(10_000,),
        meter=Memory,
        options={"size": 1024, "connections": 1},
        warm_up=100,
        quick=False,
    ),
)


def silent(count, meter):
    """How many connections are idle: each that is counted, or one for two messages."""
    return count if isinstance(meter, Memory) else count // 2


def on_evergreen(count, meter, **options):
    echo.on_evergreen(count, meter, kind="tcp", idle=silent(count, meter), **options)


def on_gevent(count, meter, **options):
    echo.on_gevent(count, meter, kind="tcp", idle=silent(count, meter), **options)


def on_eventlet(count, meter, **options):
    echo.on_eventlet(count, meter, kind="tcp", idle=silent(count, meter), **options)


async def on_asyncio(count, meter, **options):
    await echo.on_asyncio(count, meter, kind="tcp", idle=silent(count, meter), **options)


async def on_protocol(count, meter, **options):
    await echo.on_protocol(count, meter, kind="tcp", idle=silent(count, meter), **options)
