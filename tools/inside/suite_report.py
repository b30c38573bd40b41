"""Inside a process that tools/suites.py runs: report each test's start and end, and leave out what it says.

It is a plugin of pytest (``-p suite_report``), and the settings of Django's tests (``--settings``).
SUITE_REPORT is the report's path, SUITE_LEAVE_OUT the path of a list of tests, and SUITE_PATTERN a regular
expression of more of them.  SUITE_QUIET names a logger whose records the tests' own runner suppresses.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import unittest
from pathlib import Path
from typing import Any

FINISHED = "(exit)"  # starts when the last test has ended, and ends with the process
_pid = os.getpid()
_without = set(json.loads(Path(os.environ["SUITE_LEAVE_OUT"]).read_text()))
_pattern = re.compile(os.environ["SUITE_PATTERN"])
_outcome = ""
if "SUITE_QUIET" in os.environ:
    logging.getLogger(os.environ["SUITE_QUIET"]).setLevel(logging.CRITICAL)


def say(*event: str) -> None:
    if os.getpid() != _pid:  # a forked child that came back into the runner
        os._exit(70)
    with open(os.environ["SUITE_REPORT"], "a") as stream:
        stream.write(json.dumps(event) + "\n")


def name(test: str) -> str:
    """A test's id without what differs from run to run."""
    return re.sub(r"\b0x[0-9a-f]{4,}", "0x", test)


def is_left_out(test: str) -> bool:
    return test in _without or _pattern.search(test) is not None


# ---- pytest -------------------------------------------------------------------------------------
def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    out = [item for item in items if is_left_out(name(item.nodeid))]
    items[:] = [item for item in items if not is_left_out(name(item.nodeid))]
    config.hook.pytest_deselected(items=out)


def pytest_collectreport(report: Any) -> None:
    if report.failed and not is_left_out(report.nodeid):
        say("end", report.nodeid, "failed")


def pytest_runtest_logstart(nodeid: str) -> None:
    global _outcome
    _outcome = "passed"
    say("start", name(nodeid))


def pytest_runtest_logreport(report: Any) -> None:
    global _outcome
    if report.failed:
        _outcome = "failed"
    elif report.skipped and _outcome == "passed":
        _outcome = "skipped"  # or failed as expected


def pytest_runtest_logfinish(nodeid: str) -> None:
    say("end", name(nodeid), _outcome)


def pytest_sessionfinish() -> None:
    say("start", FINISHED)


# ---- Django -------------------------------------------------------------------------------------
if "django" in sys.modules:
    from django.test.runner import DiscoverRunner
    from test_sqlite import *  # noqa: F403

    TEST_RUNNER = "suite_report.Runner"

    class Result(unittest.TextTestResult):
        def startTest(self, test: unittest.TestCase) -> None:
            super().startTest(test)
            self.before = self.bad()
            say("start", test.id())

        def stopTest(self, test: unittest.TestCase) -> None:
            skipped = bool(self.skipped) and self.skipped[-1][0] is test
            bad = self.bad() > self.before
            say("end", test.id(), "failed" if bad else "skipped" if skipped else "passed")
            super().stopTest(test)

        def addError(self, test: unittest.TestCase, err: Any) -> None:
            super().addError(test, err)
            if not isinstance(test, unittest.TestCase):  # a class or a module that could not be set up
                say("end", test.id(), "failed")

        def bad(self) -> int:
            return len(self.failures) + len(self.errors) + len(self.unexpectedSuccesses)

    class Runner(DiscoverRunner):
        def build_suite(self, *args: Any, **kwargs: Any) -> unittest.TestSuite:
            suite = super().build_suite(*args, **kwargs)
            suite._tests = [test for test in suite if not is_left_out(test.id())]
            return suite

        def get_resultclass(self) -> type[unittest.TestResult]:
            return Result

        def run_suite(self, *args: Any, **kwargs: Any) -> unittest.TestResult:
            result = super().run_suite(*args, **kwargs)
            say("start", FINISHED)
            return result
