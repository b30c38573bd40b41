"""`io`, whose streams on pipes, terminals and sockets let other tasks run while they wait."""

import _pyio
from typing import Any

from evergreen.lib import _fill

_c = _fill.c_copy("_io")


def _iterates_by_readline(cls: Any) -> None:
    def next_line(self: Any) -> bytes:
        line: bytes = self.readline()
        if not line:
            raise StopIteration
        return line

    cls.__next__ = next_line  # a slot, which no function can be picked for


for _cls in (_c.BufferedReader, _c.BufferedRandom):
    _iterates_by_readline(_cls)

# The C function takes the C types, so this is the one in Python, over our types.
_open = _fill.remade(
    getattr(_pyio.open, "__wrapped__", _pyio.open),  # 3.11: a static method
    {**_pyio.__dict__, **_c.__dict__, "__name__": __name__},
)
_fill.fill(globals(), open=_open)
