"""Print what pyproject.toml requires, for pip: `requirements.py build run EXTRA...`.

`build` is what the build needs and `run` what the package needs; any other word names an extra.  So an
environment can be filled without building the package first.
"""

import sys
import tomllib
from pathlib import Path


def requirements(groups: list[str]) -> list[str]:
    tables = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())
    known = {
        "build": tables["build-system"]["requires"],
        "run": tables["project"]["dependencies"],
        **tables["project"]["optional-dependencies"],
    }
    return [requirement for group in groups for requirement in known[group]]


if __name__ == "__main__":
    print("\n".join(dict.fromkeys(requirements(sys.argv[1:]))))
