"""examples/tail.py: files followed as they grow."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TAIL = Path(__file__).parents[2] / "examples" / "tail.py"


@pytest.fixture
def tail(tmp_path):
    """The example at work on two files of which one is there."""
    (tmp_path / "one").write_text("before\n")
    command = [sys.executable, TAIL, tmp_path / "one", tmp_path / "two"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "one: before\n"
    yield child
    child.kill()
    child.communicate()


def test_lines_come_as_they_are_written(tail, tmp_path):
    with open(tmp_path / "one", "a") as one, open(tmp_path / "two", "a") as two:
        for number in range(3):
            print("line", number, file=one, flush=True)
            assert tail.stdout.readline() == f"one: line {number}\n"
        print("half ", end="", file=two, flush=True)
        print("a line", file=two, flush=True)
        assert tail.stdout.readline() == "two: half a line\n"


def test_a_file_may_be_replaced_or_cut(tail, tmp_path):
    os.rename(tmp_path / "one", tmp_path / "one.1")
    (tmp_path / "one").write_text("of the new one\n")
    assert tail.stdout.readline() == "one: of the new one\n"
    (tmp_path / "one").write_text("cut\n")
    assert tail.stdout.readline() == "one: cut\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(tail, signum):
    tail.send_signal(signum)
    assert tail.wait(30) == 0
    assert tail.stderr.read() == ""


def test_without_a_file_it_says_how_to_use_it():
    done = subprocess.run([sys.executable, TAIL], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "FILE" in done.stderr
