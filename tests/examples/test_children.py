"""examples/children.py: what the manual says that it prints."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "children.py"


def test_children_run_together():
    child = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=60)
    assert child.stderr == ""
    lines = child.stdout.splitlines()
    assert lines[:-1] == [f"child {number}" for number in range(20)]
    assert float(lines[-1].split()[0]) < 3  # one after the other they take 4
