"""Run the test suites of others unpatched and patched in turns, and list what passes only unpatched.

    python tools/suites.py                            all projects of tools/projects.py
    python tools/suites.py django watchdog            these
    python tools/suites.py websockets=~/websockets    the tests of a checkout: that project's sdist has none

pip gets each project and its sdist, which has the tests, into build/suites, with a virtual environment a
project; the logs of all runs are there, too.  The tests use no host but this one: others are left out by
name.  A test that fails patched gets a second chance, and if it fails again, it is tried unpatched once
more, because many tests are timed.  A test that reports nothing for half a minute is ended and counts as
hung.  The exit status is 1 if there are regressions that the table does not explain.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from projects import PROJECTS, Project
from reports import follow

ROOT = Path(__file__).resolve().parents[1]
INSIDE = Path(__file__).resolve().parent / "inside"
CACHE = ROOT / "build" / "suites" / sys.implementation.cache_tag
FINISHED = "(exit)"  # as in suite_report.py: from the last test to the end of the process
GOOD = ("passed", "skipped")
STOPS = 10  # so many tests may hang or crash in one run; the others then do not run


# ---- what pip gets ------------------------------------------------------------------------------
def install(name: str, project: Project) -> Path:
    """Make a project's virtual environment with Evergreen in it; return its Python."""
    venv = CACHE / name / "venv"
    python, stamp = venv / "bin" / "python", venv / "installed"
    wanted = f"{project.requirement} {project.needs}"
    if not stamp.exists() or stamp.read_text() != wanted:
        call(getattr(sys, "_base_executable", sys.executable), "-m", "venv", "--clear", str(venv))
        call(python, "-m", "pip", "install", "pytest", "greenlet", *wanted.split())
        call(python, "-c", ADD_TO_PATH, CACHE / name / "path")
        stamp.write_text(wanted)
    copy = CACHE / name / "path" / "evergreen"  # of its own, so that a build does not disturb the run
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT / "evergreen", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return python


ADD_TO_PATH = """
import sys, sysconfig
open(sysconfig.get_path("purelib") + "/evergreen.pth", "w").write(sys.argv[1])
"""


def get_sdist(name: str, project: Project) -> Path:
    """Download a project's sdist; return the folder that it was unpacked into."""
    folder = CACHE / name / "sdist"
    base, _, version = re.sub(r"\[.*\]", "", project.requirement).partition("==")
    if not list(folder.glob(f"*{version}.tar.gz")):
        folder.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", base]
        call(*download, f"{base}=={version}", cwd=folder)
    (CACHE / "pytest.ini").touch()  # pytest looks upward for one, and is not to find ours
    (archive,) = folder.glob(f"*{version}.tar.gz")
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    if not unpacked.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return unpacked


def call(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(map(str, command))} failed:\n{done.stdout[-3000:]}")


# ---- a run --------------------------------------------------------------------------------------
def command_of(project: Project, patched: bool) -> list[str]:
    """What runs the tests, after the name of a Python."""
    arguments = shlex.split(project.arguments)
    if not project.script:
        plugins = ["-p", "suite_report", "-p", "no:cacheprovider"]
        options = ["--rootdir=.", "--continue-on-collection-errors"]
        arguments = ["-m", "pytest", *arguments, *plugins, *options]
    else:
        arguments = [project.script, *arguments]
    if patched:
        return ["-m", "evergreen", "run", *(["--native"] if project.native else []), *arguments]
    return arguments


def run(
    project: Project,
    python: str | Path,
    folder: Path,
    patched: bool,
    log: Path,
    leave_out: Iterable[str] = (),
) -> dict[str, str]:
    """What became of each test: passed, failed, skipped, hung or crashed.

    After a test that hung or crashed the others run in a process of their own.
    """
    outcome: dict[str, str] = {}
    end = time.monotonic() + project.limit
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    for _ in range(STOPS):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, log.open("ab") as output:
            report, without = Path(home, "report"), Path(home, "without")
            report.touch()
            without.write_text(json.dumps([*leave_out, *outcome]))
            environment = {
                **{key: value for key, value in os.environ.items() if not key.startswith("PY")},
                "PYTHONPATH": str(INSIDE),
                "HOME": home,
                "TMPDIR": home,  # what one run leaves there is not in the way of the next
                "SUITE_REPORT": str(report),
                "SUITE_LEAVE_OUT": str(without),
                "SUITE_PATTERN": "|".join(project.left_out) or "(?!)",
                **project.environment,
            }
            child = subprocess.Popen(
                [python, *command_of(project, patched)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            running, ended = follow(child, report, outcome, project.silence, end)
        if running == FINISHED and ended and child.returncode >= 0:
            outcome[FINISHED] = "passed"
        elif running is not None:
            outcome[running] = "crashed" if ended else "hung"
        if running in (None, FINISHED) or time.monotonic() > end:
            break
    return outcome


# ---- comparison ---------------------------------------------------------------------------------
def compare(native: dict[str, str], patched: dict[str, str]) -> tuple[list[str], list[str]]:
    """The tests that pass unpatched, and those of them that do not pass patched."""
    passed = [test for test, outcome in native.items() if outcome == "passed"]
    return passed, [test for test in passed if patched.get(test) not in GOOD]


def explain(test: str, known: Iterable[tuple[str, str]]) -> str | None:
    """Why a test cannot pass patched, if that is known."""
    return next((reason for pattern, reason in known if re.search(pattern, test)), None)


def check(name: str, project: Project, python: str | Path, folder: Path, logs: Path) -> int:
    """Run one project's tests, print what regressed; return how many regressions nothing explains."""

    def turn(patched: bool, only: list[str] | None = None) -> dict[str, str]:
        word = ("patched" if patched else "native") + ("" if only is None else "-again")
        without = set() if only is None else {*native, *ours} - {*only}
        return run(project, python, folder, patched, logs / f"{name}-{word}.log", without)

    native = turn(False)
    ours = turn(True)
    (logs / f"{name}.json").write_text(json.dumps({"native": native, "patched": ours}, indent=1))
    passed, regressed = compare(native, ours)
    first = dict.fromkeys(regressed)
    if regressed:
        ours |= turn(True, regressed)
        _, regressed = compare(native, ours)
    if regressed:
        native |= turn(False, regressed)
        passed, regressed = compare(native, ours)
    print(f"{name}: {len(passed)} pass unpatched, {len(passed) - len(regressed)} of them patched", flush=True)
    unexplained = 0
    for test in first:
        reason = explain(test, project.known.items())
        if test not in regressed:
            print(f"    {test}: at the second try", flush=True)
        else:
            unexplained += reason is None
            known = f" ({reason})" if reason else ""
            print(f"    {test}: {ours.get(test, 'did not run')}{known}", flush=True)
    return unexplained


def main(names: list[str]) -> int:
    unexplained = 0
    for argument in names or PROJECTS:
        name, _, checkout = argument.partition("=")
        project = PROJECTS[name]
        if not checkout and not project.in_sdist:
            print(f"{name}: its sdist has no tests: give a checkout, {name}=PATH", flush=True)
            continue
        python = install(name, project)
        folder = Path(checkout).expanduser() if checkout else get_sdist(name, project)
        unexplained += check(name, project, python, folder / project.folder, CACHE / "logs")
    return unexplained


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
