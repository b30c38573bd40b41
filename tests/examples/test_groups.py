"""examples/groups.py: groups and deadlines."""

import subprocess
import sys
from pathlib import Path

GROUPS = Path(__file__).parents[2] / "examples" / "groups.py"


def test_each_job_ends_as_it_should():
    done = subprocess.run([sys.executable, GROUPS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "everybody: barbara, ada",
        "  hung up on barbara",
        "in time: ada (expired)",
        "  hung up on ada",
        "all or nothing: grace is down",
        "  hung up on ada",
        "first: barbara",
    ]
