"""Say what got worse: ``check.py BEFORE.json NOW.json`` compares two runs that ``run.py --json`` wrote.

Machines differ, and so do days, so what is compared are ratios: the peer's median divided by ours, in the
same run.  A ratio that fell by more than 15 % is named, and makes the exit code 1.  Rows that are
Evergreen's alone (memory, growth) are compared as they are; delays and start-up are not, since a single one
depends on whatever else the machine does.

With ``--again``, workloads that seem to have got worse are measured once more, with more rounds, and only
what is worse both times is named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from frameworks import OURS

__all__ = ["worse"]

TOLERANCE = 0.15
RUN = Path(__file__).with_name("run.py")

Case = tuple[str, str, int]  # workload, peer, count
Ratios = dict[Case, float]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the ratios of two runs.")
    parser.add_argument("before", type=Path, help="what run.py --json wrote, to compare with")
    parser.add_argument("now", type=Path, help="what it wrote now")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, metavar="PART", help="0.15: 15 %%")
    parser.add_argument("--again", action="store_true", help="measure again what seems worse")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often, then; as run.py, if not said")
    options = parser.parse_args()
    runs = []
    for path in (options.before, options.now):
        try:
            runs.append(dict(ratios(json.loads(path.read_text()))))
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"{path}: {error!r}")
    before, now = runs
    cases = worse(before, now, options.tolerance)
    if cases and options.again:
        print("\n".join(["worse at first:", *describe(cases, before, now), "", "again:"]), flush=True)
        now = measure_again(cases, options.rounds)
        cases = [case for case in worse(before, now, options.tolerance) if case in cases]
    print(
        "\n".join(describe(cases, before, now)) or f"nothing got worse by more than {options.tolerance:.0%}"
    )
    print(f"{len(before.keys() & runs[1].keys())} ratios compared")
    return 1 if cases else 0


def ratios(figures: dict) -> Iterator[tuple[Case, float]]:
    """Yield how good we are, by case; higher is better."""
    for name, workload in figures["workloads"].items():
        if not workload.get("steady", True):
            continue
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


def worse(before: Ratios, now: Ratios, tolerance: float = TOLERANCE) -> list[Case]:
    """Return the cases whose ratio fell by more than *tolerance*."""
    both = sorted(before.keys() & now.keys())
    return [case for case in both if now[case] < before[case] * (1 - tolerance)]


def describe(cases: Iterable[Case], before: Ratios, now: Ratios) -> Iterator[str]:
    for case in cases:
        workload, peer, count = case
        against = "alone" if peer == OURS else f"against {peer}"
        change = now[case] / before[case] - 1
        yield (
            f"{workload} {against}, {count:,}: {before[case]:.3g} before, {now[case]:.3g} now ({change:+.0%})"
        )


def measure_again(cases: Iterable[Case], rounds: int | None) -> Ratios:
    """Run the workloads of *cases*, with the peers that they are about."""
    workloads = {workload for workload, _, _ in cases}
    peers = {peer for _, peer, _ in cases} - {OURS}
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, str(RUN), "--json", str(figures), "--only", *sorted(workloads)]
        if peers:  # none: rows that are Evergreen's alone, which no peers must join
            command += ["--peers", *sorted(peers)]
        if rounds:
            command += ["--rounds", str(rounds)]
        subprocess.run(command, check=True)
        return dict(ratios(json.loads(figures.read_text())))


if __name__ == "__main__":
    sys.exit(main())
