"""Errors: a libuv status becomes an exception in one place."""

import errno
import os

import pytest

from evergreen import _evergreen_c as core
from evergreen.io import errno as io_errno

STATUSES = core.uv_errors()


@pytest.mark.parametrize(("name", "status", "text"), STATUSES, ids=[row[0] for row in STATUSES])
def test_every_status_has_its_exception_number_and_text(name, status, text):
    with pytest.raises(Exception) as caught:
        core.uv_raise(status)
    exc = caught.value
    if name in ("ENOMEM", "EAI_MEMORY"):
        assert type(exc) is MemoryError
    elif hasattr(errno, name):
        number = getattr(errno, name)
        assert (type(exc), exc.errno, exc.strerror) == (
            type(OSError(number, "")),
            number,
            os.strerror(number),
        )
    else:  # libuv's own
        assert (type(exc), exc.errno, exc.strerror) == (OSError, status, text)
        assert io_errno.errorcode[exc.errno] == name


def test_the_statuses_are_all_that_libuv_knows():
    names = {row[0] for row in STATUSES}
    assert {"EOF", "UNKNOWN", "ECANCELED", "ENOMEM", "EAI_MEMORY", "ECONNRESET"} <= names
    assert len(STATUSES) == len({row[1] for row in STATUSES}) > 80
