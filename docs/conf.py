"""Sphinx's settings; `make docs` builds the pages into docs/_build/html."""

import re
import tomllib
from pathlib import Path

project = "Evergreen"
author = "The Evergreen developers"
copyright = "The Evergreen developers"
release = tomllib.loads(Path(__file__).parent.with_name("pyproject.toml").read_text())["project"]["version"]
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Evergreen {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
nitpicky = False
default_role = "py:obj"  # `Task` is a link, in docstrings too


def setup(app):
    app.connect("autodoc-process-docstring", escape_stars)


def escape_stars(app, what, name, obj, options, lines):
    """Docstrings are for help() first: their f(*args, **kwargs) is no emphasis."""
    lines[:] = [
        re.sub(r"\*\*?(?=(?:args|kwargs|iterables)\b)", lambda stars: r"\*" * len(stars[0]), line)
        for line in lines
    ]
