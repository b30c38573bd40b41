"""Popular packages do the same patched and unpatched, whichever comes first: the patch or their import."""

import importlib.util
import os
import pathlib
import sys

import pytest
from helpers import run_python
from packages import ALSO_NEEDED, SCRIPTS

PATCH = """
from evergreen import patcher
patcher.patch()
"""

RUN = """
import concurrent.futures

def run_all():
    if "run_here" in globals():
        return run_here()
    globals().get("begin", lambda: None)()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        results = list(pool.map(work, range(3)))
    globals().get("finish", lambda: None)()
    return results

print("results:", run_all(), flush=True)
"""

# Nothing was replaced, and what this Python has is patched, but for what is on request; threads that the
# script has started before stay native.
AUDIT = """
import evergreen._evergreen_c as core
for finding in patcher.audit():
    early = ORDER == "last" and finding.name.startswith("thread ")
    if finding.group != "files" and finding.state not in ("patched", "missing", "waiting") and not early:
        print("audit:", *finding)
assert core.loop_here() is not None, "nothing was done in tasks"
"""


def results_of(folder, order, script):
    """What a script printed; *order* is "never", "first" or "last": when it is patched."""
    parts = [
        "import sys, time",
        PATCH if order == "first" else "",
        script,
        PATCH if order == "last" else "",
        RUN,
    ]
    path = os.pathsep.join([str(pathlib.Path(__file__).parents[2]), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "HOME": str(folder), "TERM": "dumb"}
    folder.mkdir()
    code = "\n".join([*parts, "" if order == "never" else f"ORDER = {order!r}{AUDIT}"])
    child = run_python(code, cwd=folder, timeout=60, env=environment)
    assert child.returncode == 0, f"{order}: {child.stdout}{child.stderr}"
    found = [line for line in child.stdout.splitlines() if line.startswith(("results:", "audit:"))]
    assert len(found) == 1 and found[0].startswith("results:"), f"{order}: {child.stdout}{child.stderr}"
    return found[0]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_package_does_the_same_when_patched(tmp_path, name):
    for needed in (name, *ALSO_NEEDED.get(name, ())):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    native = results_of(tmp_path / "never", "never", SCRIPTS[name])
    assert results_of(tmp_path / "first", "first", SCRIPTS[name]) == native
    assert results_of(tmp_path / "last", "last", SCRIPTS[name]) == native


def test_there_are_forty_packages_and_more():
    assert len(SCRIPTS) >= 40
