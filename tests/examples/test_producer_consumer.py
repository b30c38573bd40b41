"""examples/producer_consumer.py: back-pressure."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "producer_consumer.py"


@pytest.mark.parametrize(("items", "room", "consumers"), [(200, 10, 4), (50, 1, 1), (30, 5, 50)])
def test_the_producer_is_never_far_ahead(items, room, consumers):
    command = [sys.executable, EXAMPLE, "--items", items, "--room", room, "--consumers", consumers]
    done = subprocess.run(map(str, command), capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    used, ahead, _ = map(int, re.findall(r"\d+", done.stdout))
    assert used == items
    # What is in the queue, what each consumer has in hand, and the one that was just let in.
    assert 0 < ahead <= room + consumers + 1
