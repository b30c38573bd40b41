"""A few quick modules of CPython's own tests pass with everything patched; `make conformance` runs more."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "conformance.py"


has_tests = pytest.mark.skipif(
    importlib.util.find_spec("test") is None or importlib.util.find_spec("test.support") is None,
    reason="this interpreter was installed without its own tests",
)


@has_tests
@pytest.mark.parametrize(
    "module",
    [
        "test_fileio",
        "test_select",
        "test_poll",
        "test_popen",
        "test_wait4",
        "test_threading_local",
        "test_syslog",
        "test_asyncio.test_selector_events",
        "test_builtin",
        "test_readline",
    ],
)
def test_pythons_own_tests_pass(module):
    check(module)


@has_tests
@pytest.mark.parametrize("module", ["test_fileio", "test_bufio", "test_tempfile", "test_shutil"])
def test_they_pass_with_regular_files_patched_too(module):
    check("--files", module)


def check(*arguments):
    child = subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stdout + child.stderr
