"""Two commits in turns: ``turns.py OLD NEW`` says by which factor each workload of Evergreen's changed.

OLD and NEW are checkouts in which `make build` ran.  The workloads are this checkout's, the package is
theirs.  They alternate, and each turn the other one begins, so that a machine that slows down slows both; a
figure is the median of the turns.  The exit code is 1 if a figure of NEW is more than ``--tolerance`` times
that of OLD.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from frameworks import OURS
from workloads import all_workloads

__all__: list[str] = []

MEASURE = Path(__file__).with_name("measure.py")
SECONDS = 0.2
GIVE_UP = 120  # seconds for one measurement
TURNS = 5
TOLERANCE = 1.03


def main() -> int:
    workloads = all_workloads()
    parser = argparse.ArgumentParser(description="Compare two checkouts, in turns.")
    parser.add_argument("old", type=Path, help="a checkout that was built")
    parser.add_argument("new", type=Path, help="another")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(workloads), default=list(workloads))
    parser.add_argument("--turns", type=int, default=TURNS, metavar="N", help=f"{TURNS}")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help=f"a turn: {SECONDS}")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, metavar="F", help=f"{TOLERANCE}")
    options = parser.parse_args()
    trees = [options.old, options.new]
    for tree in trees:
        if not python_of(tree).exists():
            parser.error(f"{tree} has no .venv: run make build in it")
    slower = []
    print(f"{'workload':18}{'count':>8}  {'figure':12}{'old':>10}{'new':>10}{'new/old':>9}", flush=True)
    for name in options.only:
        workload, _ = workloads[name]
        for count in workload.counts:
            turns = [take_turn(trees, turn, name, count, options.seconds) for turn in range(options.turns)]
            for column in workload.meter.columns:
                old, new = (statistics.median(turn[side][column.key] for turn in turns) for side in (0, 1))
                ratio = new / old if old else 1.0
                case = f"{name:18}{count:>8}  {column.key:12}"
                print(f"{case}{old:>10.3f}{new:>10.3f}{ratio:>9.3f}", flush=True)
                if ratio > options.tolerance:
                    slower.append(f"{name} {count} {column.key}: {ratio:.3f}")
    print("\n".join(["", "slower:", *slower]) if slower else "\nnothing is slower")
    return 1 if slower else 0


def python_of(tree: Path) -> Path:
    return tree / ".venv" / "bin" / "python"


def take_turn(trees: list[Path], turn: int, name: str, count: int, seconds: float) -> list[dict[str, float]]:
    """Measure in both trees, in this order or the other; return their figures in this one."""
    figures: list[dict[str, float]] = [{}, {}]
    for side in (0, 1) if turn % 2 == 0 else (1, 0):
        command = [str(python_of(trees[side])), str(MEASURE), name, OURS, str(count), str(seconds)]
        done = subprocess.run(command, timeout=GIVE_UP, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} fails in {trees[side]}:\n{done.stderr}")
        figures[side] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    sys.exit(main())
