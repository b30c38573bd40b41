"""The figures of the clients, at the end of the run."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import beside  # noqa: E402


def pytest_terminal_summary(terminalreporter):
    if not beside.figures:
        return
    terminalreporter.section("clients beside a 5 ms ticker")
    for name, version, took, ticks, late, busy in beside.figures:
        figures = f"{took:6.2f} s {ticks:5} ticks {late * 1000:6.0f} ms late {busy * 1000:4.0f} ms busy"
        line = f"{name:<24} {version:<8} {figures}"
        terminalreporter.write_line(line)


def pytest_collection_modifyitems(items):
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["first", "last"])
def patch(request):
    """Whether the program patches before its imports, or after them."""
    return request.param
