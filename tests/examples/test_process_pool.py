"""examples/process_pool.py: processes compute while a task goes on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "process_pool.py"


@pytest.mark.parametrize("how", [[], ["-m", "evergreen", "run"]], ids=["plain", "patched"])
def test_it_counts_the_primes_while_a_task_goes_on(how):
    done = subprocess.run([sys.executable, *how, EXAMPLE], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    *parts, last = done.stdout.splitlines()
    assert last == "17984 primes below 200000; the clock went on: True"
    counts = [re.fullmatch(r"from +(\d+): +(\d+)", part).groups() for part in parts]
    assert sorted(int(start) for start, _ in counts) == list(range(0, 200_000, 20_000))
    assert sum(int(count) for _, count in counts) == 17984
