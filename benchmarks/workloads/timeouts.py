"""A timeout that is entered and left in time, as around every request of a server."""

from workloads import Workload

WORKLOADS = (Workload("timeout", "timeout entered and left", per="block", counts=(50_000,)),)


def on_evergreen(count, meter):
    from evergreen.timeout import Timeout

    with meter:
        for _ in range(count):
            with Timeout(10):
                pass


def on_gevent(count, meter):
    from gevent import Timeout

    with meter:
        for _ in range(count):
            with Timeout(10):
                pass


async def on_asyncio(count, meter):
    from asyncio import timeout

    with meter:
        for _ in range(count):
            async with timeout(10):
                pass
