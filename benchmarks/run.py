"""Measure Evergreen and its peers side by side; README.md says how to read the result.

Each measurement is a fresh process (`measure.py`).  The frameworks take turns, A B C A B C, and so do the
workloads, so that a machine that slows down slows all of them; the figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import tables
from frameworks import FRAMEWORKS, OURS
from results import Results
from targets import TARGETS
from workloads import Workload, all_workloads

ROUNDS, QUICK_ROUNDS = 5, 2
SECONDS, QUICK_SECONDS = 0.2, 0.05
MINUTES, QUICK_MINUTES = 14.0, 1.8  # a round of a workload begins only if it will have ended by then
TURNS_OF_OTHERS = 2  # peers that no target of the workload names are in each second round
GIVE_UP = 60  # seconds for one measurement
MEASURE = Path(__file__).with_name("measure.py")


def main() -> int:
    """Run what the command line asks for; return 1 if a measurement failed, not if a target is short."""
    options = parse_arguments()
    workloads = {name: found for name, found in all_workloads().items() if name in options.only}
    if options.list:
        for name, (workload, _) in workloads.items():
            print(f"{name:18}{workload.title}")
        return 0
    started = time.monotonic()
    results = Results(
        machine=describe_machine(), rounds=options.rounds, frameworks=probe([OURS, *options.peers])
    )
    print(tables.heading(results))
    if options.left_out:
        print(f"\nleft out of a quick run: {', '.join(options.left_out)}; peers that no target names")
    sys.stdout.flush()
    measure(workloads, options, results, started + options.minutes * 60)
    for workload, _ in workloads.values():
        print(tables.workload_table(workload, results))
    print(tables.summary([workload for workload, _ in workloads.values()], results))
    print(f"\n{time.monotonic() - started:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps(results.as_json(workloads), indent=2) + "\n")
    return 1 if results.failures else 0


def parse_arguments() -> argparse.Namespace:
    names = list(all_workloads())
    peers = [name for name in FRAMEWORKS if name != OURS]
    parser = argparse.ArgumentParser(description="Measure Evergreen and its peers side by side.")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_ROUNDS} short rounds instead of {ROUNDS}, without the heaviest workloads and without"
        f" peers that no target names: rougher, {QUICK_MINUTES:g} minutes",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=names,
        help="only these workloads (see --list)",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        metavar="PEER",
        choices=peers,
        help=f"compare with these only, as often as with any; of {', '.join(peers)}",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each framework takes its turn")
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help=f"begin no round after the first that would not end by then ({MINUTES:g}; quick:"
        f" {QUICK_MINUTES:g})",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every figure, with machine and versions"
    )
    parser.add_argument("--list", action="store_true", help="list the workloads and exit")
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    if options.minutes is None:
        options.minutes = QUICK_MINUTES if options.quick else MINUTES
    options.chosen = options.peers is not None
    if options.peers is None:
        options.peers = peers
    heavy = [name for name, (workload, _) in all_workloads().items() if not workload.quick]
    options.left_out = heavy if options.quick and options.only is None else []
    if options.only is None:
        options.only = [name for name in names if name not in options.left_out]
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json: no folder {options.json.parent}")
    return options


def measure(workloads: dict, options: argparse.Namespace, results: Results, deadline: float) -> None:
    """Run the rounds into *results*; all of each workload's first, whatever the time."""
    took: dict[str, float] = {}
    for turn in range(options.rounds):
        for workload, adapters in workloads.values():
            began = time.monotonic()
            if turn and began + took[workload.name] > deadline:
                continue
            for name, count in cases(workload, adapters, options, results, turn):
                progress(f"round {turn + 1} of {options.rounds}: {workload.name}, {name}")
                seconds = QUICK_SECONDS if options.quick else SECONDS
                answer = child(workload.name, name, str(count), str(seconds))
                results.add(workload.name, name, count, answer)
            took[workload.name] = time.monotonic() - began
    progress("")


def cases(
    workload: Workload, adapters: dict, options: argparse.Namespace, results: Results, turn: int
) -> Iterator[tuple[str, int]]:
    """Yield which frameworks take their turn at a workload, and with which counts."""
    targets = [target for target in TARGETS if target.workload == workload.name]
    named = {OURS}.union(*(target.peers() for target in targets))
    for name, answer in results.frameworks.items():
        if FRAMEWORKS[name].adapters not in adapters or "absence" in answer:
            continue
        if name not in named and not options.chosen and (options.quick or turn % TURNS_OF_OTHERS):
            continue
        for count in workload.counts:
            if not results.failed(workload.name, name, count):
                yield name, count


def child(*arguments: str) -> dict:
    """Run `measure.py`; return what it printed, or how it failed under the key ``failure``."""
    try:
        done = subprocess.run(
            [sys.executable, str(MEASURE), *arguments],
            timeout=GIVE_UP,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"no result after {GIVE_UP} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = done.stderr.strip().splitlines() or ["it said nothing"]
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return {"failure": f"{ended}: {said[-1]}", "stderr": done.stderr}


def probe(names: list[str]) -> dict[str, dict[str, str]]:
    """Return, by framework, its ``version`` or its ``absence``."""
    answers = {}
    for name in names:
        answer = child("--probe", name)
        answers[name] = {"absence": answer["failure"]} if "failure" in answer else answer
    return answers


def describe_machine() -> dict[str, object]:
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        "processor": next(_processor_names(), platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _processor_names() -> Iterator[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        if line.startswith("model name"):
            yield line.partition(":")[2].strip()


def progress(text: str) -> None:
    """Show *text* on the terminal's current line; nothing when standard error is not one."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        progress("")
        sys.exit(130)
