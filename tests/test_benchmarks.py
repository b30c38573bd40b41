"""benchmarks/: every adapter works, a run keeps to its time, and what becomes of the figures."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

# Each of these once with few operations, in one process: whether it works, not how fast it is.
FRAMEWORKS = (
    "evergreen gevent gevent_libuv eventlet asyncio uvloop uvloop_protocol threads go libuv greenlet"
    " greenlet_c plain"
).split()


COUNT = 200_000  # that of the real workload "lock"


def figures(ours, theirs, alone=1.0, delay=1.0, workload_name="turns", peer="peer"):
    def workload(rows, steady=True):
        return {
            "title": "a title & more",
            "per": "turn",
            "steady": steady,
            "columns": [{"key": "cpu", "unit": "µs"}],
            "rows": [
                {"framework": name, "count": COUNT, "median": {"cpu": cpu}, "rounds": [{"cpu": cpu}]}
                for name, cpu in rows.items()
            ],
        }

    machine = {"python": "CPython 3", "cores": 2, "processor": "x", "system": "y", "date": "z", "load": 0}
    return {
        "machine": machine,
        "rounds": 1,
        "frameworks": {"evergreen": {"version": "1"}, "peer": {"version": "2"}},
        "workloads": {
            workload_name: workload({"evergreen": ours, peer: theirs}),
            "alone": workload({"evergreen": alone}),
            "delay": workload({"evergreen": delay}, steady=False),
        },
        "targets": [{"workload": "turns", "target": "peer ≥ 2 ×", "figure": theirs / ours, "met": False}],
    }


def run(script, *args):
    command = [sys.executable, "-W", "ignore", BENCHMARKS / script, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_workload_of_a_framework_gives_its_figures(framework):
    if not shutil.which("cc") or not Path("/usr/include/openssl/ssl.h").exists():
        pytest.skip("the clients of the servers need a C compiler and OpenSSL's headers")
    probe = run("measure.py", "--probe", framework)
    answer = json.loads(probe.stdout)
    if "absence" in answer:
        pytest.skip(f"{framework}: {answer['absence']}")
    done = run("measure.py", "--try", framework)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results
    for name, figures in results.items():
        assert all(isinstance(figure, float) for figure in figures.values()), name


def test_the_readme_says_what_each_workload_does():
    listed = [line.split()[0] for line in run("run.py", "--list").stdout.splitlines()]
    assert "yield2" in listed
    readme = (BENCHMARKS / "README.md").read_text()
    assert [name for name in listed if f"`{name}`" not in readme] == []


def measured(tmp_path, *args):
    path = tmp_path / "figures.json"
    done = run("run.py", "--quick", "--json", path, *args)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text()), done.stdout


def test_a_run_prints_what_it_writes(tmp_path):
    written, printed = measured(tmp_path, "--only", "lock", "--peers", "plain", "asyncio", "--rounds", "1")
    assert list(written["workloads"]) == ["lock"]
    rows = {row["framework"]: row["median"]["cpu"] for row in written["workloads"]["lock"]["rows"]}
    assert rows.keys() == {"evergreen", "asyncio"}
    assert f"{rows['asyncio']:.2f}" in printed
    assert [target["workload"] for target in written["targets"]] == ["lock"]
    assert written["targets"][0]["figure"] is None  # gevent was left out


def test_no_second_round_begins_after_the_time_is_up(tmp_path):
    written, _ = measured(tmp_path, "--only", "lock", "queue", "--peers", "--rounds", "3", "--minutes", "0")
    for workload in written["workloads"].values():
        assert [len(row["rounds"]) for row in workload["rows"]] == [1]


def test_a_measurement_that_fails_is_named_and_makes_the_exit_code_1(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "uvloop.py").write_text("def new_event_loop():\n    raise RuntimeError('no loop today')\n")
    done = run("run.py", "--quick", "--only", "lock", "--peers", "uvloop", "--rounds", "1")
    assert done.returncode == 1
    assert "no loop today" in done.stdout


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
    assert "turns against peer, 200,000: 4 before, 3 now (-25%)" in done.stdout
    assert "alone alone, 200,000: 1 before, 0.5 now (-50%)" in done.stdout


@pytest.mark.parametrize(("before", "worse"), [(0.001, False), (1e9, True)])
def test_check_measures_again_what_seems_worse(files, before, worse):
    then = figures(1, before, workload_name="lock", peer="asyncio")
    now = figures(1, before / 2, workload_name="lock", peer="asyncio")
    done = run("check.py", "--again", "--rounds", "1", files("a", then), files("b", now))
    assert done.returncode == worse, done.stdout + done.stderr
    assert "worse at first:" in done.stdout
    assert ("nothing got worse" in done.stdout) != worse


def test_check_compares_no_single_delays(files):
    done = run("check.py", files("a", figures(1, 4)), files("b", figures(1, 4, delay=9.0)))
    assert (done.returncode, done.stderr) == (0, "")


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
    for name in ("turns", "alone", "delay"):
        assert f"page/{name}.svg" in page
        ElementTree.parse(tmp_path / "page" / f"{name}.svg")  # it is well-formed


def test_two_checkouts_take_turns(tmp_path):
    for side in ("old", "new"):
        (tmp_path / side).mkdir()
        (tmp_path / side / ".venv").symlink_to(sys.prefix)
    trees = [str(tmp_path / "old"), str(tmp_path / "new")]
    options = ["--only", "lock", "--turns", "1", "--seconds", "0.001", "--tolerance", "1000"]
    done = run("turns.py", *trees, *options)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^lock +\d+ +cpu +[\d.]+ +[\d.]+ +[\d.]+$", done.stdout, re.M)
    assert "nothing is slower" in done.stdout
    options[-1] = "0"
    done = run("turns.py", *trees, *options)
    assert done.returncode == 1
    assert "slower:\nlock 200000 cpu: " in done.stdout


def test_turns_of_a_checkout_that_was_not_built_says_so(tmp_path):
    done = run("turns.py", str(tmp_path), str(tmp_path))
    assert done.returncode == 2
    assert "run make build" in done.stderr
