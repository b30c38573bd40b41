"""Run CPython's own tests with everything patched, and list those that pass only without.

    python tools/conformance.py                   the modules below
    python tools/conformance.py test_os test_ssl  these
    python tools/conformance.py --files test_io   with regular files patched, too

Each module of the interpreter's `test` package runs twice in processes of their own, unpatched and patched.
A test that reports nothing for 20 seconds is ended and counted as hung.  The exit status is 1 if there are
regressions that docs/reference/conformance.rst does not explain.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODULES = """
    test_socket test_ssl test_select test_poll test_epoll test_selectors test_time test_timeout
    test_threading test_threading_local test_thread test_threadsignals test_queue test_subprocess
    test_os test_posix test_pty test_popen test_wait3 test_wait4 test_fork1 test_fileio test_bufio test_io
    test_signal test_socketserver test_httplib test_httpservers test_ftplib test_smtplib test_logging
    test_asyncio.test_events test_asyncio.test_base_events test_asyncio.test_tasks
    test_asyncio.test_subprocess test_concurrent_futures
""".split()
HANG = 20  # seconds
DOCUMENTED = Path(__file__).parent.parent / "docs" / "reference" / "conformance.rst"


def run_child(module: str, patched: str, leave_out: set[str], report: str) -> None:
    """Run one module's tests in this process; write one line of JSON for each start and each end."""
    if patched != "native":
        from evergreen import patcher

        patcher.patch(all=True, files=patched == "files")
    import unittest

    pid = os.getpid()

    def say(*event: str) -> None:
        if os.getpid() != pid:  # a forked child that came back into the runner
            os._exit(70)
        with open(report, "a") as stream:
            stream.write(json.dumps(event) + "\n")

    class Result(unittest.TestResult):
        before = 0  # on 3.12 a skipped class's tests end without having started

        def startTest(self, test: unittest.TestCase) -> None:
            super().startTest(test)
            self.before = len(self.failures) + len(self.errors) + len(self.unexpectedSuccesses)
            say("start", test.id())

        def stopTest(self, test: unittest.TestCase) -> None:
            failed = len(self.failures) + len(self.errors) + len(self.unexpectedSuccesses) > self.before
            skipped = bool(self.skipped) and self.skipped[-1][0] is test
            say("end", test.id(), "failed" if failed else "skipped" if skipped else "passed")
            super().stopTest(test)

    def cases(suite: unittest.TestSuite) -> None:
        for at, test in enumerate(suite):
            if isinstance(test, unittest.TestSuite):
                cases(test)
            elif test.id() in leave_out:
                suite._tests[at] = unittest.TestSuite()  # type: ignore[attr-defined]

    suite = unittest.defaultTestLoader.loadTestsFromName(f"test.{module}")
    cases(suite)
    suite.run(Result())


def run(module: str, patched: str, limit: float = 600) -> dict[str, str]:
    """What became of each test of a module: passed, failed, skipped, hung or crashed.

    *patched* is "native" for nothing, "patched", or "files" for regular files as well.
    """
    outcome: dict[str, str] = {}
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "report")
            report.touch()
            command = [sys.executable, __file__, "--child", module, patched, str(report)]
            child = subprocess.Popen(
                [*command, *outcome], cwd=folder, stdin=-3, stdout=-3, stderr=-3, start_new_session=True
            )
            running, ended = _follow(child, report, outcome, end)
            try:
                os.killpg(child.pid, signal.SIGKILL)  # what it left behind
            except ProcessLookupError:
                pass
            child.wait()
        if running is None:
            break
        outcome[running] = "crashed" if ended else "hung"
    return outcome


def _follow(
    child: subprocess.Popen[bytes], report: Path, outcome: dict[str, str], end: float
) -> tuple[str | None, bool]:
    """Read what a child reports until it ends or hangs: the test that was running, and whether it ended."""
    running, quiet, seen = None, time.monotonic(), 0
    while True:
        ended = child.poll() is not None
        lines = report.read_text().splitlines()
        for line in lines[seen:]:
            what, test, *status = json.loads(line)
            running = test if what == "start" else None
            if what == "end":
                outcome[test] = status[0]
        if len(lines) > seen:
            quiet, seen = time.monotonic(), len(lines)
        if ended or time.monotonic() > min(quiet + HANG, end):
            return running, ended
        time.sleep(0.05)


def main(modules: list[str], patched: str = "patched") -> int:
    """Run the modules, print what regressed; return how many regressions nobody has explained."""
    known = DOCUMENTED.read_text() if DOCUMENTED.exists() else ""
    unexplained = 0
    for module in modules or MODULES:
        if importlib.util.find_spec("test") is None or importlib.util.find_spec(f"test.{module}") is None:
            print(f"{module}: this interpreter has no such tests")
            continue
        native, ours = run(module, "native"), run(module, patched)
        passed = [test for test, status in native.items() if status == "passed"]
        regressed = [test for test in passed if ours.get(test) not in ("passed", "skipped")]
        print(f"{module}: {len(passed) - len(regressed)} of {len(passed)}", flush=True)
        for test in regressed:
            explained = re.search(rf"\b{re.escape(test.rpartition('.')[2])}\b", known) is not None
            unexplained += not explained
            print(f"    {test} {ours.get(test, 'did not run')}{' (known)' if explained else ''}", flush=True)
    return unexplained


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.path.pop(0)
        run_child(sys.argv[2], sys.argv[3], set(sys.argv[5:]), sys.argv[4])
    elif sys.argv[1:2] == ["--files"]:
        sys.exit(1 if main(sys.argv[2:], "files") else 0)
    else:
        sys.exit(1 if main(sys.argv[1:]) else 0)
