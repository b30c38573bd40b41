"""Say what got worse: ``check.py BEFORE.json NOW.json`` compares two runs that ``run.py --json`` wrote.

Machines differ, and so do days, so what is compared are ratios: the peer's median divided by ours, in the
same run.  A ratio that fell by more than 15 % is named, and makes the exit code 1.  Rows that are
Evergreen's alone (memory, delays, growth) are compared as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from frameworks import OURS

__all__ = ["worse"]

TOLERANCE = 0.15


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the ratios of two runs.")
    parser.add_argument("before", type=Path, help="what run.py --json wrote, to compare with")
    parser.add_argument("now", type=Path, help="what it wrote now")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, metavar="PART", help="0.15: 15 %%")
    options = parser.parse_args()
    runs = []
    for path in (options.before, options.now):
        try:
            runs.append(dict(ratios(json.loads(path.read_text()))))
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"{path}: {error!r}")
    before, now = runs
    lines = list(worse(before, now, options.tolerance))
    print("\n".join(lines) or f"nothing got worse by more than {options.tolerance:.0%}")
    print(f"{len(before.keys() & now.keys())} ratios compared")
    return 1 if lines else 0


def ratios(figures: dict) -> Iterator[tuple[tuple[str, str, int], float]]:
    """Yield ((workload, peer, count), how good we are); higher is better."""
    for name, workload in figures["workloads"].items():
        key = workload["columns"][0]["key"]
        medians = {
            (row["framework"], row["count"]): row["median"][key]
            for row in workload["rows"]
            if "median" in row
        }
        peers = {framework for framework, _ in medians} - {OURS}
        for (framework, count), value in medians.items():
            ours = medians.get((OURS, count))
            if not ours or not value:
                continue
            if framework != OURS:
                yield (name, framework, count), value / ours
            elif not peers:
                yield (name, OURS, count), 1 / ours


def worse(before: dict, now: dict, tolerance: float = TOLERANCE) -> Iterator[str]:
    """Yield a line for each ratio that fell by more than *tolerance*."""
    for case in sorted(before.keys() & now.keys()):
        change = now[case] / before[case] - 1
        if change < -tolerance:
            workload, peer, count = case
            against = "alone" if peer == OURS else f"against {peer}"
            yield (
                f"{workload} {against}, {count:,}: {before[case]:.3g} before, {now[case]:.3g} now"
                f" ({change:+.0%})"
            )


if __name__ == "__main__":
    sys.exit(main())
