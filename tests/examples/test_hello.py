"""examples/hello.py: the README's example runs, and is the one that the README shows."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "examples" / "hello.py"


def test_a_thousand_sleeps_of_a_second_take_seconds():
    started = time.monotonic()
    done = subprocess.run([sys.executable, HELLO], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "332833500 after one second, not a thousand\n"
    assert done.stderr == ""
    assert 1 <= time.monotonic() - started < 30


def test_the_readme_shows_this_file():
    assert f"```python\n{HELLO.read_text()}```\n" in (ROOT / "README.md").read_text()


def test_it_is_ten_lines_of_code():
    lines = [line for line in HELLO.read_text().splitlines() if line.strip()]
    assert len(lines) <= 10
