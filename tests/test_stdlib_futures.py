"""CPython's own tests of `concurrent.futures`, with the futures and executors of Evergreen.

Each runs twice: with nothing patched, and with everything.
"""

import concurrent.futures.process
import concurrent.futures.thread
import gc
import importlib
import logging
import os
import sys
import types
import unittest
from unittest import mock

import pytest

from evergreen import futures, patcher

reason = "this interpreter comes without CPython's tests of concurrent.futures"
pytestmark = pytest.mark.slow
pytest.importorskip("test.test_concurrent_futures", reason=reason)
try:
    util = importlib.import_module("test.test_concurrent_futures.util")
except ImportError:  # 3.11: one module, which is left to those who have it
    pytest.skip(reason, allow_module_level=True)

MODULES = {
    name: importlib.import_module(f"test.test_concurrent_futures.test_{name}")
    for name in (
        "future",
        "as_completed",
        "wait",
        "thread_pool",
        "process_pool",
        "init",
        "shutdown",
        "deadlock",
    )
}
EXECUTOR_TESTS = importlib.import_module("test.test_concurrent_futures.executor").ExecutorTest

# What the tests call `futures`: the standard library's package with our names in it.
package = types.ModuleType("futures")
package.__dict__.update(concurrent.futures.__dict__)
for name in futures.__all__:
    setattr(package, name, getattr(futures, name))

util.Future = futures.Future
util.ThreadPoolMixin.executor_type = futures.ThreadPoolExecutor
for name in ("Fork", "Spawn", "Forkserver"):
    getattr(util, f"ProcessPool{name}Mixin").executor_type = futures.ProcessPoolExecutor
STATES = {
    "PENDING_FUTURE": util.create_future(state=util.PENDING),
    "RUNNING_FUTURE": util.create_future(state=util.RUNNING),
    "CANCELLED_FUTURE": util.create_future(state=util.CANCELLED),
    "CANCELLED_AND_NOTIFIED_FUTURE": util.create_future(state=util.CANCELLED_AND_NOTIFIED),
    "EXCEPTION_FUTURE": util.create_future(state=util.FINISHED, exception=OSError()),
    "SUCCESSFUL_FUTURE": util.create_future(state=util.FINISHED, result=42),
}
for module in MODULES.values():
    for name, ours in {"futures": package, "Future": futures.Future, **STATES}.items():
        if hasattr(module, name):
            setattr(module, name, ours)


def with_our_names(run):
    """Scripts that a test runs in an interpreter of its own import our executors, too."""

    def run_ours(*args):
        args = [
            arg.replace("from concurrent.futures import", "from evergreen.futures import") for arg in args
        ]
        return run(*args, PYTHONPATH=os.pathsep.join(sys.path))

    return run_ours


MODULES["shutdown"].assert_python_ok = with_our_names(MODULES["shutdown"].assert_python_ok)


class TaskPoolMixin(util.ExecutorMixin):
    executor_type = futures.TaskPoolExecutor


class Unhandled:
    """The tests look for what logging prints where nobody handles it; pytest does."""

    def run(self, result=None):
        if "Resources" in type(self).__name__:  # counts semaphores of the process: none of dropped pools
            gc.collect()
        with mock.patch.object(logging.getLogger(), "handlers", []):
            return super().run(result)


class Patched(Unhandled):
    """Everything is patched, from before the executor is made until after it is shut down."""

    def run(self, result=None):
        with patcher.patched():
            return super().run(result)


LEFT_OUT = {
    "test_shutdown_deadlock_pickle": "hangs now and then in CPython 3.13.0, with its own executor, too",
}


def left_out(case):
    for test, reason in LEFT_OUT.items():
        if hasattr(case, test):
            yield test, unittest.skip(reason)(lambda self: None)


def collect():
    for module in MODULES.values():
        for name, case in list(vars(module).items()):
            if (
                isinstance(case, type)
                and case.__module__ == module.__name__
                and issubclass(case, unittest.TestCase)
            ):
                yield type(f"Test{name}", (Unhandled, case), dict(left_out(case)))
                if "Forkserver" not in name:  # as Spawn, here
                    yield type(f"Test{name}Patched", (Patched, case), dict(left_out(case)))
    for name, tests in {
        "Executor": EXECUTOR_TESTS,
        "Wait": MODULES["wait"].WaitTests,
        "AsCompleted": MODULES["as_completed"].AsCompletedTests,
    }.items():
        yield type(f"TestTaskPool{name}", (Patched, TaskPoolMixin, tests, util.BaseTestCase), {})


globals().update({case.__name__: case for case in collect()})
