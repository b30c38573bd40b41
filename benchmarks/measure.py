"""One measurement, in a process of its own: ``measure.py WORKLOAD FRAMEWORK COUNT SECONDS`` prints JSON.

`run.py` starts it; by hand it is what to put under a profiler.  The adapter is called once to warm up,
unmeasured, then until about SECONDS of its work were measured; the result is the median of those calls.
With ``--probe FRAMEWORK`` it prints the framework's version, or why there is none.
"""

from __future__ import annotations

import json
import statistics
import sys

from frameworks import FRAMEWORKS
from workloads import all_workloads

__all__ = ["measure", "probe"]

MOST_CALLS = 25


def measure(workload_name: str, framework_name: str, count: int, seconds: float) -> dict[str, float]:
    """Return the median of each of the workload's columns, and how many calls it was taken from."""
    workload, adapters = all_workloads()[workload_name]
    framework = FRAMEWORKS[framework_name]
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
    framework = FRAMEWORKS[framework_name]
    try:
        return {"version": framework.version()}
    except ModuleNotFoundError as error:
        if error.name == framework.module:
            return {"absence": "not installed"}
        return {"absence": f"cannot be imported: {error}"}
    except Exception as error:  # whatever its import raises is the reader's answer
        return {"absence": f"cannot be imported: {type(error).__name__}: {error}"}


def main() -> None:
    if sys.argv[1] == "--probe":
        answer: dict = probe(sys.argv[2])
    else:
        workload, framework, count, seconds = sys.argv[1:]
        answer = measure(workload, framework, int(count), float(seconds))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
