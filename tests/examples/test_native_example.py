"""examples/native.py: calls of C code wait together, or one after the other."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "native.py"
SAYS = re.compile(
    r"native: (\w+); calls that parked: (\d+)\n20 calls of 0.1 s took (.*) s; .* ticked (\d+) times\n"
)


def run(*options):
    command = [sys.executable, "-m", "evergreen", "run", *options, EXAMPLE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    active, parked, seconds, ticks = SAYS.fullmatch(done.stdout).groups()
    return active, int(parked), float(seconds), int(ticks)


def test_with_native_they_wait_together():
    active, parked, seconds, ticks = run("--native")
    assert (active, parked) == ("True", 20)
    assert seconds < 1
    assert ticks >= 5


def test_without_it_one_after_the_other():
    active, parked, seconds, ticks = run()
    assert (active, parked) == ("False", 0)
    assert seconds >= 2
