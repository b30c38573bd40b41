"""Run CPython's own tests with everything patched, and list those that pass only without.

    python tools/conformance.py                   the modules below
    python tools/conformance.py test_os test_ssl  these
    python tools/conformance.py --files test_io   with regular files patched, too

Each module of the interpreter's `test` package runs twice in processes of their own, unpatched and patched;
what passes only unpatched gets a second chance, because many tests are timed.  A test that reports nothing
for 20 seconds is ended and counted as hung.  The exit status is 1 if there are regressions that
docs/reference/conformance.rst does not explain.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Set
from pathlib import Path

from reports import follow

MODULES = """
    test_socket test_ssl test_select test_poll test_epoll test_selectors test_time test_timeout
    test_threading test_threading_local test_thread test_threadsignals test_threadedtempfile test_queue
    test_sched test_subprocess test_signal test_eintr test_socketserver test_httplib test_httpservers
    test_urllib2_localnet test_urllib test_urllib2 test_robotparser test_ftplib test_poplib test_imaplib
    test_smtplib test_smtpd test_telnetlib test_xmlrpc test_docxmlrpc test_asyncore test_asynchat
    test_wsgiref test_asyncio test_concurrent_futures test_multiprocessing_spawn test_logging
    test_context test_contextlib test_contextlib_async test_asyncgen test_functools test_weakref
    test_os test_posix test_pty test_openpty test_popen test_fork1 test_wait3 test_wait4
    test_fileio test_file test_bufio test_io test_tempfile test_syslog
    test_importlib.test_locks test_importlib.test_threaded_import
""".split()
LOOPBACK = {"test_socketserver"}  # it asks for the network, and uses no other host
HANG = 20  # seconds
GOOD = ("passed", "skipped")
DOCUMENTED = Path(__file__).parent.parent / "docs" / "reference" / "conformance.rst"


def run_child(module: str, patched: str, leave_out: set[str], report: str) -> None:
    """Run one module's tests in this process; write one line of JSON for each start and each end."""
    if patched != "native":
        from evergreen import patcher

        patcher.patch(all=True, files=patched == "files")
    import unittest

    from test import support

    support.use_resources = ["network"] if module in LOOPBACK else []
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


def run(module: str, patched: str, leave_out: Set[str] = frozenset(), limit: float = 600) -> dict[str, str]:
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
                [*command, *outcome, *leave_out],
                cwd=folder,
                stdin=-3,
                stdout=-3,
                stderr=-3,
                start_new_session=True,
            )
            running, ended = follow(child, report, outcome, HANG, end)
        if running is None:
            break
        outcome[running] = "crashed" if ended else "hung"
    return outcome


def expand(name: str) -> list[str]:
    """The modules of a package of tests, or the module itself; nothing if this interpreter has none."""
    try:
        spec = importlib.util.find_spec(f"test.{name}")
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        print(f"{name}: this interpreter has no such tests")
        return []
    folders = spec.submodule_search_locations
    if folders is None:
        return [name]
    return [f"{name}.{path.stem}" for folder in folders for path in sorted(Path(folder).glob("test_*.py"))]


def main(names: list[str], patched: str = "patched") -> int:
    """Run the modules, print what regressed; return how many regressions nobody has explained."""
    known = DOCUMENTED.read_text() if DOCUMENTED.exists() else ""
    unexplained = regressions = total = 0
    for module in [module for name in names or MODULES for module in expand(name)]:
        native, ours = run(module, "native"), run(module, patched)
        passed = [test for test, status in native.items() if status == "passed"]
        regressed = [test for test in passed if ours.get(test) not in GOOD]
        if regressed:
            ours |= run(module, patched, leave_out={*native, *ours} - {*regressed})
            regressed = [test for test in regressed if ours.get(test) not in GOOD]
        total += len(passed)
        regressions += len(regressed)
        print(f"{module}: {len(passed) - len(regressed)} of {len(passed)}", flush=True)
        for test in regressed:
            explained = re.search(rf"\b{re.escape(test.rpartition('.')[2])}\b", known) is not None
            unexplained += not explained
            print(f"    {test} {ours.get(test, 'did not run')}{' (known)' if explained else ''}", flush=True)
    print(
        f"{regressions} regressions of {total} tests that pass unpatched, {unexplained} of them unexplained"
    )
    return unexplained


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.path.pop(0)
        run_child(sys.argv[2], sys.argv[3], set(sys.argv[5:]), sys.argv[4])
    elif sys.argv[1:2] == ["--files"]:
        sys.exit(1 if main(sys.argv[2:], "files") else 0)
    else:
        sys.exit(1 if main(sys.argv[1:]) else 0)
