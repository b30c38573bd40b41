"""Find tests that leak: `python3.11-dbg tools/leaks.py [PYTEST ARGUMENT...]`.

Each test runs again and again in one process: a few times to fill caches, then measured.  It leaks when a
figure grew in *every* measured round, which is the rule of CPython's own `python -m test -R`; a suspect gets
more rounds, twice, so that caches and dictionaries which are still filling are not taken for a leak.  The
figures:

references   sys.gettotalrefcount(); needs a debug build of Python, and of the extensions that the tests use
blocks       sys.getallocatedblocks(): what PyMem_Malloc and PyObject_Malloc gave and did not get back
descriptors  entries of /proc/self/fd

Not seen: what tests do in child processes, so those that start one are left out, and memory that comes
from malloc() itself.
"""

import gc
import os
import re
import sys
from array import array
from itertools import pairwise

import pytest
from _pytest.runner import runtestprotocol

WARM_UP = 3
MEASURED = 3
SUSPECT = 16, 64  # further rounds for a test that grew in each of those before


def references() -> int:
    return sys.gettotalrefcount()


def blocks() -> int:
    return sys.getallocatedblocks()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


FIGURES = (references, blocks, descriptors)

TESTS = [
    "tests",
    *(f"--ignore=tests/{path}" for path in ("examples", "c/test_fork.py", "test_docs.py", "test_main.py")),
]
EXAMPLES = 10  # of hypothesis, in each round
CHILDREN = {
    "output_of",
    "run_python",
    "child_python",
    "subprocess",
    "fork",
    "run_child",
}  # what tests with a child process call or are given


def has_children(item) -> bool:
    """Whether what the test is about happens in another process."""
    return bool(CHILDREN & {*item.function.__code__.co_names, *item.fixturenames})


class LeakCheck:
    """A pytest plugin that runs each test many times and fails those that leak."""

    def __init__(self):
        self.leaks: list[str] = []
        self.checked = 0

    def pytest_configure(self):
        from hypothesis import settings  # not sooner: pytest rewrites its assertions

        settings.register_profile("leaks", max_examples=EXAMPLES, database=None, deadline=None)
        settings.load_profile("leaks")

    def pytest_collection_modifyitems(self, config, items):
        from hypothesis import settings

        left_out = [item for item in items if has_children(item)]
        items[:] = [item for item in items if not has_children(item)]
        config.hook.pytest_deselected(items=left_out)
        for item in items:
            wanted = getattr(item.obj, "_hypothesis_internal_use_settings", None)
            if wanted is not None:
                function = getattr(item.obj, "__func__", item.obj)
                function._hypothesis_internal_use_settings = settings(wanted, max_examples=EXAMPLES)

    def pytest_collection_finish(self):
        gc.collect()
        gc.freeze()  # what is there now stays: the collections of each round look at the rest alone

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = self.repeat(item, WARM_UP)
        if all(report.passed for report in reports):
            reports = self.measure(item)
        if not any(report.failed for report in reports):
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def measure(self, item):
        """Run *item* and note what grew; return the reports of the last run."""
        self.checked += 1
        suspects = list(FIGURES)
        for rounds in (MEASURED, *SUSPECT):
            # Arrays keep no int objects, and are read at one and the same point: measuring leaks nothing.
            readings = {figure: array("q", [0] * (rounds + 1)) for figure in suspects}
            for i in range(rounds + 1):
                reports = self.repeat(item, 1)
                if not all(report.passed for report in reports):
                    return reports
                for figure in suspects:
                    readings[figure][i] = figure()
            growth = {figure: [b - a for a, b in pairwise(readings[figure])] for figure in suspects}
            suspects = [figure for figure in suspects if min(growth[figure]) > 0]
            if not suspects:
                return reports
        for figure in suspects:
            self.leaks.append(f"{item.nodeid} leaked {growth[figure]} {figure.__name__}")
        return reports

    def repeat(self, item, rounds: int):
        """Run *item* so many times, or until it does not pass; return the last run's reports."""
        for _ in range(rounds):
            item._report_sections.clear()
            # No next item: fixtures of every scope go.  Those that stay gather finalizers, pytest's own leak.
            reports = runtestprotocol(item, log=False, nextitem=None)
            if not all(report.passed for report in reports):
                break
        re.purge()  # pytest.raises(match=) compiles what the test asks for, a port's number and all
        sys.path_importer_cache.clear()  # tests import from folders of their own
        gc.collect()
        return reports

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section("leaks")
        for leak in self.leaks:
            terminalreporter.line(leak, red=True)
        terminalreporter.line(f"{self.checked} tests checked, {len(self.leaks)} leaks")

    def pytest_sessionfinish(self, session, exitstatus):
        if self.leaks and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def main(arguments: list[str]) -> int:
    if not hasattr(sys, "gettotalrefcount"):
        sys.exit(f"leaks.py: {sys.executable} is no debug build of Python and counts no references")
    settings = ["-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=600", "-m", "not slow"]
    return pytest.main([*settings, *(arguments or TESTS)], plugins=[LeakCheck()])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
