"""A few quick modules of CPython's own tests pass with everything patched; `make conformance` runs more."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "conformance.py"


@pytest.mark.skipif(
    importlib.util.find_spec("test") is None or importlib.util.find_spec("test.support") is None,
    reason="this interpreter was installed without its own tests",
)
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
    ],
)
def test_pythons_own_tests_pass(module):
    child = subprocess.run([sys.executable, TOOL, module], capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stdout + child.stderr
