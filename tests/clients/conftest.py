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
    for name, version, found in beside.figures:
        late, by_clock, busy = (found[key] * 1000 for key in ("late", "late_on_the_clock", "busy"))
        figures = f"{found['took']:6.2f} s {found['ticks']:5} ticks {late:4.0f} ms late"
        line = f"{name:<24} {version:<8} {figures} ({by_clock:.0f} by the clock) {busy:4.0f} ms busy"
        terminalreporter.write_line(line)


def pytest_collection_modifyitems(items):
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["first", "last"])
def patch(request):
    """Whether the program patches before its imports, or after them."""
    return request.param
