"""What a program pays before it does anything: the import, and one run of nothing.

Each is the difference between two short programs, which take turns; what they import is compiled already.
"""

import os
import sys

from meters import Startup
from programs import BUILD

from workloads import Workload

WORKLOADS = (
    Workload(
        "import",
        "import of the package, over python -c pass",
        per="process",
        counts=(15,),
        meter=Startup,
        options={"of": "import"},
        warm_up=1,
    ),
    Workload(
        "run_nothing",
        "run of a function that does nothing, over the import",
        per="process",
        counts=(15,),
        meter=Startup,
        options={"of": "run"},
        warm_up=1,
    ),
)


def compare(count, meter, of, package, run):
    """Run programs that import the *package*, and those that do less, or more: *run*."""
    programs = ("pass", f"import {package}") if of == "import" else (f"import {package}", run)
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(BUILD / "pycache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for _ in range(count):
        for program in programs:
            meter.run([sys.executable, "-c", program], environment, more=program == programs[1])


def on_evergreen(count, meter, of):
    compare(count, meter, of, "evergreen", "import evergreen; evergreen.run(lambda: None)")


def on_gevent(count, meter, of):
    compare(count, meter, of, "gevent", "import gevent; gevent.spawn(lambda: None).join()")


def on_eventlet(count, meter, of):
    compare(count, meter, of, "eventlet", "import eventlet; eventlet.spawn(lambda: None).wait()")


async def on_asyncio(count, meter, of):
    from asyncio import get_running_loop

    package = type(get_running_loop()).__module__.partition(".")[0]  # asyncio, or uvloop
    compare(count, meter, of, package, f"import asyncio, {package}; {package}.run(asyncio.sleep(0))")
