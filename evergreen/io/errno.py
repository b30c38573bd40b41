"""Error numbers by name: those of the system, as in `errno`, and libuv's own.

``errorcode`` maps numbers to names, and ``strerror()`` gives the text.  0.2 had all of them
negative; exceptions now carry the system's positive numbers, and so does this module.  What no
system has (``EOF``, ``EAI_*``) is negative, as in libuv.
"""

from __future__ import annotations

import errno as _errno
import os as _os

from evergreen._evergreen_c import uv_errors as _uv_errors

errorcode: dict[int, str] = dict(_errno.errorcode)
_texts: dict[int, str] = {}
for _name, _number, _text in _uv_errors():
    if _number < -1000:  # libuv's own
        errorcode[_number] = _name
        _texts[_number] = _text
for _number, _name in errorcode.items():
    globals()[_name] = _number
EAGAIN = EWOULDBLOCK = _errno.EAGAIN
EOF = -4095


def strerror(number: int) -> str:
    """The text of an error number."""
    return _texts.get(number) or _os.strerror(number)
