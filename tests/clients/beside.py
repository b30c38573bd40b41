"""Run a client in many tasks of a patched interpreter, beside a task that ticks.

The client is a script that defines ``work(n)`` and, to check what the tasks returned, ``check(results)``.
Patching comes before or after its imports.  The servers are other processes, or threads of this one.
"""

import json
import os
import pathlib
import sys

from helpers import run_python

TASKS = 20
PERIOD = 0.005  # of the ticker, in seconds
# How late the ticker may be, in seconds.  The time for which the kernel had given the processor to others,
# such as the server, does not count, where the kernel tells it.
ASAN = "asan" in os.environ.get("LD_PRELOAD", "")
LATEST, LATEST_ON_THE_CLOCK = (0.2, 2.5) if ASAN else (0.02, 0.25)

HEAD = """
import os, sys, time
ARGS = sys.argv[1:]
read_native = os.pread
"""

PATCH = """
from evergreen import patcher
patcher.patch()
"""

TAIL = """
import json
import evergreen
from evergreen import patcher

TASKS, PERIOD = {tasks}, {period}
marks = []
try:
    kernel = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
except OSError:
    kernel = None

def waited():  # for how many seconds the thread could have run and the kernel did not let it
    return int(read_native(kernel, 100, 0).split()[1]) / 1e9 if kernel is not None else 0.0

def mark():
    marks.append((time.monotonic(), time.thread_time(), waited()))

def tick():
    while True:
        mark()
        time.sleep(PERIOD)

work(0)  # what is imported, or looked up, only when it is first needed
ticker = evergreen.spawn(tick)
evergreen.sleep(0)
start = time.monotonic()
jobs = [evergreen.spawn(work, n) for n in range(TASKS)]
results = [job.result() for job in jobs]
took = time.monotonic() - start
mark()
ticker.kill()
check = globals().get("check", lambda results: None)
check(results)
assert not [finding for finding in patcher.audit() if finding.state == "replaced"]
gaps = [[b - a for a, b in zip(before, after)] for before, after in zip(marks, marks[1:])]
print(json.dumps(dict(
    took=took,
    ticks=len(gaps),
    late_on_the_clock=max(gap[0] for gap in gaps) - PERIOD,
    late=max(gap[0] - gap[2] for gap in gaps) - PERIOD,
    busy=max(gap[1] for gap in gaps),
)))
"""

# Of each run, for conftest.py: client, version, and what the script printed: the seconds that it took, the
# ticks, the longest lateness of the ticker, by the clock and without the time in which others had the
# processor, and the most processor time that the tasks took between two ticks; in seconds.
figures: list[tuple[str, str, dict[str, float]]] = []


def beside_a_ticker(name, code, *args, slow, patch="first", tasks=TASKS, version="", env=None):
    """Run work(0) to work(tasks - 1) at once, each at least *slow* seconds long in the server.

    They must not take turns, the ticker must go on meanwhile, and all must succeed.
    """
    parts = [HEAD, PATCH if patch == "first" else "", code, PATCH if patch == "last" else ""]
    script = "\n".join(parts) + TAIL.format(tasks=tasks, period=PERIOD)
    path = [str(pathlib.Path(__file__).parents[2]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), **(env or {})}
    child = run_python(script, *args, timeout=90, env=environment)
    assert child.returncode == 0, child.stdout + child.stderr
    found = json.loads(child.stdout.splitlines()[-1])
    took, ticks, late, by_clock = (found[key] for key in ("took", "ticks", "late", "late_on_the_clock"))
    figures.append((name, version, found))
    assert slow <= took < slow * tasks / 2, f"{tasks} tasks of {slow} s took {took:.3f} s"
    assert ticks > slow / PERIOD / 2, f"the ticker ticked {ticks} times in {took:.3f} s"
    assert late < LATEST, f"the ticker was {late * 1000:.0f} ms late"
    assert by_clock < LATEST_ON_THE_CLOCK, f"the ticker was {by_clock * 1000:.0f} ms late by the clock"
    return found
