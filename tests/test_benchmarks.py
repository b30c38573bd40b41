"""benchmarks/report.py and check.py: what becomes of the figures."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def figures(ours, theirs, alone=1.0):
    def workload(rows):
        return {
            "title": "a title & more",
            "per": "turn",
            "columns": [{"key": "cpu", "unit": "µs"}],
            "rows": [
                {"framework": name, "count": 10, "median": {"cpu": cpu}, "rounds": [{"cpu": cpu}]}
                for name, cpu in rows.items()
            ],
        }

    machine = {"python": "CPython 3", "cores": 2, "processor": "x", "system": "y", "date": "z", "load": 0}
    return {
        "machine": machine,
        "rounds": 1,
        "frameworks": {"evergreen": {"version": "1"}, "peer": {"version": "2"}},
        "workloads": {
            "turns": workload({"evergreen": ours, "peer": theirs}),
            "alone": workload({"evergreen": alone}),
        },
        "targets": [{"workload": "turns", "target": "peer ≥ 2 ×", "figure": theirs / ours, "met": False}],
    }


def run(script, *args):
    command = [sys.executable, BENCHMARKS / script, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def files(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return write


def test_check_compares_ratios_and_not_speeds(files):
    before, now = files("a", figures(1, 4)), files("b", figures(2, 8))
    done = run("check.py", before, now)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing got worse" in done.stdout


def test_check_names_what_got_worse(files):
    done = run("check.py", files("a", figures(1, 4)), files("b", figures(1, 3, alone=2.0)))
    assert done.returncode == 1
    assert "turns against peer, 10: 4 before, 3 now (-25%)" in done.stdout
    assert "alone alone, 10: 1 before, 0.5 now (-50%)" in done.stdout


def test_check_of_a_file_that_is_none_is_one_clear_line(files, tmp_path):
    done = run("check.py", files("a", {}), tmp_path / "missing")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_report_writes_a_table_and_a_chart_for_each_workload(files, tmp_path):
    done = run("report.py", files("a", figures(1, 4)), tmp_path / "page.md")
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "page.md").read_text()
    assert "| peer | 4.00 | 4.00 to 4.00 | 4.00 |" in page
    assert "| `turns` | peer ≥ 2 × | 4.00 | **short** |" in page
    for name in ("turns", "alone"):
        assert f"page/{name}.svg" in page
        ElementTree.parse(tmp_path / "page" / f"{name}.svg")  # it is well-formed
