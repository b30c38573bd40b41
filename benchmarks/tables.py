"""What `run.py` prints: plain text, one table per workload, and at the end every target."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from frameworks import FRAMEWORKS, OURS
from results import Results
from targets import TARGETS, Target
from workloads import Workload, adapters_of

__all__ = ["heading", "summary", "workload_table"]


def heading(results: Results) -> str:
    """Say on what machine, and what is compared."""
    machine = results.machine
    lines = [
        f"{machine['python']}, {machine['cores']} × {machine['processor']}, {machine['system']}",
        f"{machine['date']}, load {machine['load']}, {results.rounds} rounds",
        "",
    ]
    for name, answer in results.frameworks.items():
        lines.append(f"  {name:17}{answer.get('version') or answer['absence']}")
    return "\n".join(lines)


def workload_table(workload: Workload, results: Results) -> str:
    """Lay out one workload: a row per framework (and count) with medians, spread, ratio and target."""
    first = workload.meter.columns[0]
    header = ["", f"{first.key} {first.unit}", "lowest-highest"]
    header += [f"{column.key} {column.unit}" for column in workload.meter.columns[1:]]
    rows = [[*header, "÷ ours", "target", ""]]
    adapters = adapters_of(workload.name)
    for framework, answer in results.frameworks.items():
        if FRAMEWORKS[framework].adapters not in adapters:
            continue
        for count in workload.counts:
            if "absence" not in answer and not results.tried(workload.name, framework, count):
                continue
            label = framework if len(workload.counts) == 1 else f"{framework}, {count:,}"
            rows.append([label, *_cells(workload, framework, count, answer, results)])
    return f"\n{workload.name}: {workload.title} ({first.unit} per {workload.per})\n{_aligned(rows)}"


def summary(workloads: Iterable[Workload], results: Results) -> str:
    """List the targets of the workloads that were run, each with its figure and whether it is met."""
    by_name = {workload.name: workload for workload in workloads}
    rows, marks = [], []
    for target in TARGETS:
        if target.workload in by_name:
            figure = results.judge(target, by_name[target.workload])
            marks.append(_mark(target, figure))
            rows.append([target.workload, str(target), "-" if figure is None else _number(figure), marks[-1]])
    counted = ", ".join(
        f"{marks.count(mark)} {mark}" for mark in ("ok", "short", "not measured") if mark in marks
    )
    lines = [f"\ntargets: {counted or 'none'}", _aligned(rows)] if rows else []
    for (workload, framework, count), failure in results.failures.items():
        lines.append(
            f"\n{workload}, {framework}, {count:,} failed: {failure.get('stderr') or failure['failure']}"
        )
    return "\n".join(lines)


def _cells(workload: Workload, framework: str, count: int, answer: dict, results: Results) -> list[str]:
    if "absence" in answer:
        return [answer["absence"]]
    case = workload.name, framework, count
    if case in results.failures:
        return [f"failed: {results.failures[case]['failure']}"]
    cells = []
    for number, column in enumerate(workload.meter.columns):
        values = results.values(workload, framework, count, column.key)
        cells.append(_number(statistics.median(values)))
        if number == 0:
            cells.append(f"{_number(values[0])}-{_number(values[-1])}")
    ours, theirs = results.median(workload, OURS, count), results.median(workload, framework, count)
    cells.append(_number(theirs / ours) if ours and theirs is not None and framework != OURS else "")
    of_row = [
        target
        for target in TARGETS
        if target.workload == workload.name and target.row(workload.counts) == (framework, count)
    ]
    if of_row:
        cells += [
            "; ".join(texts)
            for texts in zip(*(_claim(target, workload, results) for target in of_row), strict=True)
        ]
    return cells


def _claim(target: Target, workload: Workload, results: Results) -> tuple[str, str]:
    return str(target), _mark(target, results.judge(target, workload))


def _mark(target: Target, figure: float | None) -> str:
    if figure is None:
        return "not measured"
    return "ok" if target.met(figure) else "short"


def _number(value: float) -> str:
    """Three significant digits, as plain as can be."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _aligned(rows: list[list[str]]) -> str:
    """Right-align the columns but the first; a sentence in a row's second cell takes the room it needs."""
    sized = [row for row in rows if len(row) > 2]
    widths = [
        max(len(row[i]) for row in sized if i < len(row)) for i in range(max(map(len, sized), default=0))
    ]
    widths[:1] = [max((len(row[0]) for row in rows), default=0)]
    lines = []
    for row in rows:
        cells = [f"{row[0]:{widths[0]}}"]
        if len(row) == 2:
            cells.append(row[1])
        else:
            cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=False)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)
