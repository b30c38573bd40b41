"""tools/suites.py says of each test what became of it, and which ones pass only unpatched."""

import importlib.util
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"

TESTS = """
import os, sys, threading, time
import pytest
from evergreen import patcher

is_patched = patcher.is_patched("threading")

def test_passes():
    pass

def test_fails():
    assert False

def test_is_skipped():
    pytest.skip("says the test")

def test_crashes_patched():
    if is_patched:
        os.abort()

def test_hangs_patched():
    while is_patched:
        time.sleep(1)

@pytest.mark.parametrize("thing", [object()], ids=repr)
def test_has_an_address_in_its_name(thing):
    pass

def test_needs_the_internet():
    assert False

def test_asserts_what_tasks_cannot_be():
    assert not is_patched

def test_passes_at_the_second_try():
    open("tried", "a").write("P" if is_patched else "N")
    assert open("tried").read() != "NP"
"""


@pytest.fixture
def suites(monkeypatch):
    """The tool, as a module."""
    monkeypatch.syspath_prepend(TOOLS)
    spec = importlib.util.spec_from_file_location("suites", TOOLS / "suites.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(suites, tmp_path):
    """Tests of somebody else's."""
    tmp_path.joinpath("pytest.ini").touch()
    tmp_path.joinpath("test_it.py").write_text(TESTS)
    return suites.Project(
        "it==1",
        arguments="test_it.py",
        silence=5,
        left_out={"needs_the_internet": "needs the internet"},
        known={"tasks_cannot_be": "tasks cannot be that"},
    )


def test_each_test_has_an_outcome_though_some_hang_or_crash(suites, project, tmp_path):
    outcome = suites.run(project, sys.executable, tmp_path, True, tmp_path / "log")
    assert {test.removeprefix("test_it.py::"): what for test, what in outcome.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_is_skipped": "skipped",
        "test_crashes_patched": "crashed",
        "test_hangs_patched": "hung",
        "test_has_an_address_in_its_name[<object object at 0x>]": "passed",
        "test_asserts_what_tasks_cannot_be": "failed",
        "test_passes_at_the_second_try": "passed",
        suites.FINISHED: "passed",
    }
    assert "1 failed" in (tmp_path / "log").read_text()


def test_regressions_that_nothing_explains_are_counted(suites, project, tmp_path, capsys):
    assert suites.check("it", project, sys.executable, tmp_path, tmp_path / "logs") == 2
    assert capsys.readouterr().out.splitlines() == [
        "it: 7 pass unpatched, 4 of them patched",
        "    test_it.py::test_crashes_patched: crashed",
        "    test_it.py::test_hangs_patched: hung",
        "    test_it.py::test_asserts_what_tasks_cannot_be: failed (tasks cannot be that)",
        "    test_it.py::test_passes_at_the_second_try: at the second try",
    ]


def test_a_module_that_cannot_be_imported_patched_is_a_regression(suites, project, tmp_path):
    tmp_path.joinpath("test_it.py").write_text("def test_a(): pass")
    native = suites.run(project, sys.executable, tmp_path, False, tmp_path / "log")
    tmp_path.joinpath("test_it.py").write_text("1 / 0")
    patched = suites.run(project, sys.executable, tmp_path, True, tmp_path / "log")
    assert suites.compare(native, patched) == (["test_it.py::test_a", "(exit)"], ["test_it.py::test_a"])


def test_a_process_that_hangs_after_its_last_test_is_a_regression(suites, project, tmp_path):
    tmp_path.joinpath("test_it.py").write_text("""
import threading
from evergreen import patcher

def test_a():
    if patcher.is_patched("threading"):
        threading.Thread(target=lambda: [threading.Event().wait(1) for _ in range(1000)]).start()
""")
    native, patched = (
        suites.run(project, sys.executable, tmp_path, patched, tmp_path / "log") for patched in (False, True)
    )
    assert suites.compare(native, patched)[1] == [suites.FINISHED]


def test_the_table_names_versions_and_gives_reasons(suites):
    for name, project in suites.PROJECTS.items():
        assert project.requirement.partition("[")[0].partition("==")[0].lower() == name
        assert "==" in project.requirement
        assert all(project.left_out.values()) and all(project.known.values())
