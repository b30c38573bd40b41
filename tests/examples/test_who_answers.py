"""examples/who_answers.py tells ports that listen from ports that do not."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "who_answers.py"


def test_one_answers_and_one_does_not():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"127\.0\.0\.1:\d+ answers\n127\.0\.0\.1:\d+ does not: Connection refused\n", done.stdout
    )


def test_arguments_are_addresses():
    done = subprocess.run(
        [sys.executable, SCRIPT, "127.0.0.1:1", "no-such-host.invalid:80"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"127\.0\.0\.1:1 does not: .+\nno-such-host\.invalid:80 does not: .+\n", done.stdout)
