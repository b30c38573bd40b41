"""The manual and the README: every piece of Python in them runs."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in ROOT.glob("docs/**/*.rst") if ".. code-block:: python" in page.read_text())
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_on_a_page_runs(page, tmp_path):
    blocks = BLOCK.findall(page.read_text())
    script = tmp_path / "page.py"
    script.write_text("\n".join(textwrap.dedent(block) for block in blocks))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_pages_were_found():
    assert {"tutorial", "patching", "deadlocks"} <= {page.stem for page in PAGES}
