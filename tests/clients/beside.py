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
# A machine that does much else is late by itself; docs/howto/clients.rst has what was measured.
LATEST = 2.5 if "asan" in os.environ.get("LD_PRELOAD", "") else 0.25

HEAD = """
import sys, time
ARGS = sys.argv[1:]
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

def mark():
    marks.append((time.monotonic(), time.thread_time()))

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
gaps = [(after[0] - before[0], after[1] - before[1]) for before, after in zip(marks, marks[1:])]
late, busy = max(gap[0] for gap in gaps) - PERIOD, max(gap[1] for gap in gaps)
print(json.dumps(dict(took=took, ticks=len(gaps), late=late, busy=busy)))
"""

# Of each run, for conftest.py: client, version, seconds, ticks, the longest lateness of the ticker, and
# the most processor time that the tasks took between two ticks; in seconds.
figures: list[tuple[str, str, float, int, float, float]] = []


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
    took, ticks, late = found["took"], found["ticks"], found["late"]
    figures.append((name, version, took, ticks, late, found["busy"]))
    assert slow <= took < slow * tasks / 2, f"{tasks} tasks of {slow} s took {took:.3f} s"
    assert ticks > slow / PERIOD / 2, f"the ticker ticked {ticks} times in {took:.3f} s"
    assert late < LATEST, f"the ticker was {late * 1000:.0f} ms late"
    return found
