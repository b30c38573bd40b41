"""Twenty commands at once in one thread, with the standard library's `subprocess` as it is.

python examples/children.py
"""

import subprocess
import time

import evergreen
from evergreen import patcher


def ask(number: int) -> str:
    """What a command prints, after a while."""
    command = ["sh", "-c", f"sleep 0.2; echo child {number}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Start them all, then say what they said, and how long that took."""
    patcher.patch()
    start = time.monotonic()
    tasks = [evergreen.spawn(ask, number) for number in range(20)]
    for task in tasks:
        print(task.result())
    print(f"{time.monotonic() - start:.1f} seconds")


if __name__ == "__main__":
    main()
