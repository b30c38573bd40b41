"""Task-local storage: an attribute read and written; for asyncio, a context variable."""

from workloads import Workload

WORKLOADS = (Workload("local", "get and set of a local", per="pair", counts=(200_000,)),)


def read_and_write(count, local):
    for number in range(count):
        _ = local.value
        local.value = number


def on_evergreen(count, meter):
    from evergreen.local import local

    storage = local()
    storage.value = 0
    with meter:
        read_and_write(count, storage)


def on_gevent(count, meter):
    from gevent.local import local

    storage = local()
    storage.value = 0
    with meter:
        read_and_write(count, storage)


async def on_asyncio(count, meter):
    from contextvars import ContextVar

    variable = ContextVar("value", default=0)
    get, put = variable.get, variable.set
    with meter:
        for number in range(count):
            get()
            put(number)
