"""The figures of one run of `run.py`: every measurement, their medians, and the targets judged by them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

from targets import TARGETS, Target
from workloads import Workload

__all__ = ["Case", "Results"]

Case = tuple[str, str, int]  # workload, framework, count


@dataclass
class Results:
    """What was measured, where and with what.

    frameworks: by name, its ``version`` or its ``absence``.
    measured: the figures of each round.
    failures: how a case failed; it is not tried again.
    """

    machine: dict[str, object]
    rounds: int
    frameworks: dict[str, dict[str, str]]
    measured: dict[Case, list[dict[str, float]]] = field(default_factory=dict)
    failures: dict[Case, dict[str, str]] = field(default_factory=dict)

    def add(self, workload: str, framework: str, count: int, answer: dict) -> None:
        """Keep the answer of a measurement."""
        case = workload, framework, count
        if "failure" in answer:
            self.failures[case] = answer
        else:
            self.measured.setdefault(case, []).append(answer)

    def tried(self, workload: str, framework: str, count: int) -> bool:
        case = workload, framework, count
        return case in self.measured or case in self.failures

    def failed(self, workload: str, framework: str, count: int) -> bool:
        return (workload, framework, count) in self.failures

    def values(self, workload: Workload, framework: str, count: int, key: str) -> list[float]:
        """Return the figures of all rounds in the column *key*, lowest first; empty if there are none."""
        case = workload.name, framework, count
        if case in self.failures:
            return []
        return sorted(answer[key] for answer in self.measured.get(case, []))

    def median(self, workload: Workload, framework: str, count: int, key: str = "") -> float | None:
        """Return the median of the column *key*, or of the workload's first; None if there is none."""
        values = self.values(workload, framework, count, key or workload.meter.columns[0].key)
        return statistics.median(values) if values else None

    def judge(self, target: Target, workload: Workload) -> float | None:
        """Return the figure that *target* is about; None if something it needs was not measured."""
        return target.figure(partial(self.median, workload, key=target.column), workload.counts)

    def as_json(self, workloads: Mapping[str, tuple[Workload, dict]]) -> dict[str, object]:
        """Return everything, in types that JSON has."""
        written = {}
        for name, (workload, _) in workloads.items():
            written[name] = {
                "title": workload.title,
                "per": workload.per,
                "steady": workload.meter.steady,
                "columns": [asdict(column) for column in workload.meter.columns],
                "rows": [
                    self._row(workload, framework, count)
                    for framework in self.frameworks
                    for count in workload.counts
                    if (name, framework, count) in self.measured or (name, framework, count) in self.failures
                ],
            }
        judged = [
            (target, self.judge(target, workloads[target.workload][0]))
            for target in TARGETS
            if target.workload in workloads
        ]
        return {
            "machine": self.machine,
            "rounds": self.rounds,
            "frameworks": self.frameworks,
            "workloads": written,
            "targets": [
                {
                    "workload": target.workload,
                    "target": str(target),
                    "figure": figure,
                    "met": figure is not None and target.met(figure),
                }
                for target, figure in judged
            ],
        }

    def _row(self, workload: Workload, framework: str, count: int) -> dict[str, object]:
        case = workload.name, framework, count
        if case in self.failures:
            return {"framework": framework, "count": count, **self.failures[case]}
        rounds = self.measured[case]
        medians = {
            column.key: statistics.median(answer[column.key] for answer in rounds)
            for column in workload.meter.columns
        }
        return {"framework": framework, "count": count, "median": medians, "rounds": rounds}
