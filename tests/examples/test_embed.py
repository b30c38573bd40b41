"""examples/embed.py: tasks inside asyncio's loop."""

import subprocess
import sys
from pathlib import Path

EMBED = Path(__file__).parents[2] / "examples" / "embed.py"


def test_tasks_and_coroutines_take_turns():
    done = subprocess.run([sys.executable, EMBED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    for kind in ("task", "coroutine"):
        assert [line for line in lines if line.startswith(kind)] == [
            f"{kind} {number}" for number in range(3)
        ]
