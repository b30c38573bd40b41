"""One measurement, in a process of its own: ``measure.py WORKLOAD FRAMEWORK COUNT SECONDS`` prints JSON.

`run.py` starts it; by hand it is what to put under a profiler.  The adapter is called once to warm up,
unmeasured, then until about SECONDS of its work were measured; the result is the median of those calls.
With ``--probe FRAMEWORK`` it prints the framework's version, or why there is none; with ``--try FRAMEWORK``
it only warms up, for each workload that the framework has (or those that are named after it).
"""

from __future__ import annotations

import json
import statistics
import sys

from frameworks import FRAMEWORKS, Absent
from workloads import all_workloads

__all__ = ["measure", "probe", "try_out"]

MOST_CALLS = 25


def measure(workload_name: str, framework_name: str, count: int, seconds: float) -> dict[str, float]:
    """Return the median of each of the workload's columns, and how many calls it was taken from."""
    workload, adapters = all_workloads()[workload_name]
    framework = FRAMEWORKS[framework_name]
    framework.prepare()
    adapter = adapters[framework.adapters]
    framework.run(adapter, workload.warm_up, workload.meter(), **workload.options)
    results: list[dict[str, float]] = []
    spent = 0.0
    while not results or workload.meter.repeatable and spent < seconds and len(results) < MOST_CALLS:
        meter = workload.meter()
        framework.run(adapter, count, meter, **workload.options)
        results.append(meter.result(count))
        spent += getattr(meter, "wall", 0.0)
    medians = {
        column.key: statistics.median(result[column.key] for result in results)
        for column in workload.meter.columns
    }
    return {**medians, "calls": len(results)}


def probe(framework_name: str) -> dict[str, str]:
    """Return the framework's ``version``, or its ``absence`` in words."""
    try:
        return {"version": FRAMEWORKS[framework_name].version()}
    except Absent as absent:
        return {"absence": str(absent)}


def try_out(framework_name: str, names: list[str]) -> dict[str, dict[str, float]]:
    """Return by workload what a call with few operations gives: whether it works, not how fast it is."""
    framework = FRAMEWORKS[framework_name]
    framework.prepare()
    results = {}
    for name, (workload, adapters) in all_workloads().items():
        adapter = adapters.get(framework.adapters)
        if adapter is None or names and name not in names:
            continue
        print(f"trying {name}", file=sys.stderr, flush=True)
        meter = workload.meter()
        framework.run(adapter, workload.warm_up, meter, **workload.options)
        results[name] = meter.result(workload.warm_up)
    return results


def main() -> None:
    if sys.argv[1] == "--probe":
        answer: dict = probe(sys.argv[2])
    elif sys.argv[1] == "--try":
        answer = try_out(sys.argv[2], sys.argv[3:])
    else:
        workload, framework, count, seconds = sys.argv[1:]
        answer = measure(workload, framework, int(count), float(seconds))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
