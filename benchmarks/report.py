"""Write what a run measured as a page with tables and charts: ``report.py FIGURES.json docs/benchmarks.md``.

FIGURES.json is what ``run.py --json`` wrote; the charts are SVG files in a folder beside the page.  The page
names machine, versions and the command for each table, so no figure in it is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

from frameworks import OURS

__all__ = ["chart", "page"]

WIDTH, LABEL, ROW, BAR = 640, 170, 24, 16  # pixels
GREEN, GREY = "#2e7d32", "#9e9e9e"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a run's figures as a page with tables and charts.")
    parser.add_argument("figures", type=Path, help="what run.py --json wrote")
    parser.add_argument("page", type=Path, help="the Markdown file to write")
    options = parser.parse_args()
    try:
        figures = json.loads(options.figures.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"{options.figures}: {error}")
    folder = options.page.with_suffix("")
    folder.mkdir(exist_ok=True)
    for name, workload in figures["workloads"].items():
        (folder / f"{name}.svg").write_text(chart(workload))
    options.page.write_text(page(figures, folder.name))


def page(figures: dict, folder: str) -> str:
    """Return the page, whose charts are in *folder* beside it."""
    machine, frameworks = figures["machine"], figures["frameworks"]
    versions = [
        f"{name} {answer['version']}".replace(" standard library", "")
        for name, answer in frameworks.items()
        if "version" in answer
    ]
    lines = [
        "# Benchmarks",
        "",
        f"{machine['python']} on {machine['cores']} cores of {machine['processor']}, {machine['system']};"
        f" {machine['date']}, load {machine['load']}. Medians of up to {figures['rounds']} rounds, in which"
        f" the frameworks took turns; lower is better. Compared: {', '.join(versions)}.",
        "",
        "All of it: `make bench`. What each workload does is in `benchmarks/README.md`.",
        "",
        *_targets(figures["targets"]),
    ]
    for name, workload in figures["workloads"].items():
        lines += _section(name, workload, folder)
    return "\n".join(lines) + "\n"


def _targets(targets: list[dict]) -> list[str]:
    if not targets:
        return []
    lines = ["## What is promised", "", "| workload | target | figure | |", "|---|---|--:|---|"]
    for target in targets:
        figure = "not measured" if target["figure"] is None else number(target["figure"])
        met = "" if target["figure"] is None else "met" if target["met"] else "**short**"
        lines.append(f"| `{target['workload']}` | {target['target']} | {figure} | {met} |")
    return [*lines, ""]


def _section(name: str, workload: dict, folder: str) -> list[str]:
    columns = workload["columns"]
    heads = [f"{column['key']} {column['unit']}" for column in columns]
    lines = [
        f"## {workload['title']}",
        "",
        f"![{workload['title']}]({folder}/{name}.svg)",
        "",
        f"Per {workload['per']}: `python benchmarks/run.py --only {name}`",
        "",
        f"| | {' | '.join(heads)} | lowest to highest {columns[0]['key']} | ÷ ours |",
        "|---|" + "--:|" * (len(heads) + 2),
    ]
    for row in workload["rows"]:
        label = _label(row, workload["rows"])
        if "median" not in row:
            lines.append(f"| {label} | {row['failure']} |" + " |" * (len(heads) + 1))
            continue
        cells = [number(row["median"][column["key"]]) for column in columns]
        rounds = sorted(answer[columns[0]["key"]] for answer in row["rounds"])
        cells.append(f"{number(rounds[0])} to {number(rounds[-1])}")
        ours = _ours(row, workload)
        theirs = row["median"][columns[0]["key"]]
        cells.append(f"{theirs / ours:.2f}" if ours and row["framework"] != OURS else "")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return [*lines, ""]


def _label(row: dict, rows: Iterable[dict]) -> str:
    counts = {other["count"] for other in rows}
    return row["framework"] if len(counts) == 1 else f"{row['framework']}, {row['count']:,}"


def _ours(row: dict, workload: dict) -> float | None:
    key = workload["columns"][0]["key"]
    for other in workload["rows"]:
        if other["framework"] == OURS and other["count"] == row["count"] and "median" in other:
            return other["median"][key]
    return None


def chart(workload: dict) -> str:
    """Return a bar for each row of a workload, as an SVG image."""
    column = workload["columns"][0]
    rows = [row for row in workload["rows"] if "median" in row]
    longest = max((row["median"][column["key"]] for row in rows), default=0) or 1
    height = ROW * len(rows) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" role="img"'
        ' font-family="sans-serif" font-size="12">',
        f"<title>{escape(workload['title'])}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for place, row in enumerate(rows):
        value = row["median"][column["key"]]
        length = max(1, round((WIDTH - LABEL - 90) * value / longest))
        top = place * ROW + 4
        colour = GREEN if row["framework"] == OURS else GREY
        parts += [
            f'<text x="{LABEL - 8}" y="{top + 12}" text-anchor="end">'
            f"{escape(_label(row, workload['rows']))}</text>",
            f'<rect x="{LABEL}" y="{top}" width="{length}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LABEL + length + 6}" y="{top + 12}">{number(value)}</text>',
        ]
    unit = f"{column['key']} {column['unit']} per {workload['per']}, lower is better"
    parts += [f'<text x="{LABEL}" y="{height - 8}" fill="#616161">{escape(unit)}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def number(value: float) -> str:
    """Three significant digits, as plain as can be."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


if __name__ == "__main__":
    main()
