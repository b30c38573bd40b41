"""A buffer of bytes that are taken out message by message."""

from __future__ import annotations

import errno
import re

__all__ = ["StringBuffer"]


class StringBuffer:
    """Bytes that are fed in as they come, and read out in pieces.

    The reading methods return None while the buffer does not hold what they were asked for.
    After close(), everything but close() raises ValueError.
    """

    def __init__(self, max_size: int = 100 * 1024 * 1024) -> None:
        self._max_size = max_size
        self._data = bytearray()
        self._closed = False
        self._searched: tuple[bytes, int] = (b"", 0)  # a delimiter, and up to where it is not

    @property
    def closed(self) -> bool:
        """Whether it was closed, by close() or because it was fed too much."""
        return self._closed

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, chunk: bytes) -> None:
        """Append bytes.  OSError ENOBUFS, and it is closed: there are *max_size* or more now."""
        self._check_closed()
        self._data += chunk
        if len(self._data) >= self._max_size:
            self.close()
            raise OSError(errno.ENOBUFS, "maximum buffer size reached")

    def read(self, nbytes: int) -> bytes | None:
        """The first *nbytes*."""
        self._check_closed()
        return self._take(nbytes) if len(self._data) >= nbytes else None

    def read_until(self, delimiter: bytes) -> bytes | None:
        """Everything up to the delimiter, and the delimiter."""
        self._check_closed()
        known, searched = self._searched
        start = max(0, searched - len(delimiter) + 1) if known == delimiter else 0
        found = self._data.find(delimiter, start)
        if found < 0:
            self._searched = (bytes(delimiter), len(self._data))
            return None
        return self._take(found + len(delimiter))

    def read_until_regex(self, regex: re.Pattern[bytes]) -> bytes | None:
        """Everything up to the end of the first match of a compiled pattern."""
        self._check_closed()
        match = regex.search(self._data) if self._data else None
        end = -1 if match is None else match.end()
        del match  # it keeps the bytearray from being resized
        return self._take(end) if end >= 0 else None

    def clear(self) -> None:
        """Drop what is in it."""
        self._check_closed()
        self._data.clear()
        self._searched = (b"", 0)

    def close(self) -> None:
        """Drop what is in it, and take nothing any more.  Harmless if it is closed."""
        self._closed = True
        self._data = bytearray()

    def _take(self, n: int) -> bytes:
        data = bytes(self._data[:n])
        del self._data[:n]  # amortised: a bytearray moves its start
        self._searched = (b"", 0)
        return data

    def _check_closed(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on closed buffer")
