"""Follow a process that runs tests and reports their starts and ends, one line of JSON each.

tools/conformance.py and tools/suites.py run tests of others in processes of their own, because a test may
hang or crash: a report says which one it was.  Its lines are ``["start", test]`` and
``["end", test, outcome]``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path


def follow(
    child: subprocess.Popen[bytes], report: Path, outcome: dict[str, str], silence: float, end: float
) -> tuple[str | None, bool]:
    """Read what a child reports into *outcome* until it ends, or reports nothing for *silence* seconds.

    *end* is the time by time.monotonic() at which it has to be done.  Return the test that was running, if
    one was, and whether the child ended.  The child leads a session, which is killed.
    """
    running, quiet, seen = None, time.monotonic(), 0
    try:
        while True:
            ended = child.poll() is not None
            lines = report.read_text().split("\n")[:-1]  # the last one may be half there
            for line in lines[seen:]:
                what, test, *status = json.loads(line)
                running = test if what == "start" else None
                if what == "end":
                    outcome[test] = status[0]
            if len(lines) > seen:
                quiet, seen = time.monotonic(), len(lines)
            if ended or time.monotonic() > min(quiet + silence, end):
                return running, ended
            time.sleep(0.05)
    finally:
        try:
            os.killpg(child.pid, signal.SIGKILL)  # it, or what it left behind
        except ProcessLookupError:
            pass
        child.wait()
