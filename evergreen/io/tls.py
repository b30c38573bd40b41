"""TLS: encrypted streams over any stream, with `ssl.SSLContext` as users know it.

Use `connect` for a client, `TLSServer` for a server, and the ``start_tls()`` of a stream for protocols
that begin in plain text.  TLS itself is the standard library's, between memory buffers
(`ssl.MemoryBIO`); the bytes on the wire go through the stream beneath, so a peer that is slow, silent
or broken holds up the task that talks to it and nobody else::

    with tls.connect(("example.org", 443)) as stream:
        stream.write(b"GET / HTTP/1.0\\r\\nHost: example.org\\r\\n\\r\\n")
        print(stream.read())
"""

from __future__ import annotations

import errno
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

from evergreen._evergreen_c import _TLSMessages
from evergreen.io.stream import IncompleteReadError, _incomplete_read, _is_peers_doing, _log_peer
from evergreen.io.tcp import Address, TCPClient, TCPConnection, TCPServer
from evergreen.locks import Lock
from evergreen.timeout import fail_after, move_on_after

__all__ = ["TLSServer", "TLSStream", "connect", "wrap"]

HANDSHAKE_TIMEOUT = 60.0  #: seconds that a peer has for its handshake
SHUTDOWN_TIMEOUT = 5.0  #: seconds that a peer has to answer a close_notify
LIMIT = 100 * 1024 * 1024  #: bytes that one read may gather, as for other streams
LINE_LIMIT = 1024 * 1024

_CIPHERTEXT = 65536  # bytes that are received at a time
_AT_ONCE = 262144  # bytes that are encrypted before they are sent
_END = object()  # instead of a result: the peer has ended
_RECORD = 16384  # bytes: no more is decrypted at a time (RFC 8446, 5.1)


def _ragged_end() -> ssl.SSLEOFError:
    return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")


class TLSStream(_TLSMessages):
    """An encrypted stream over another one; it reads and writes like any stream.

    The handshake is done by the first read or write, or by `do_handshake`.  The exceptions are those of
    `ssl`: `ssl.SSLCertVerificationError`, `ssl.SSLError`, and `TimeoutError` for a handshake that takes
    longer than *handshake_timeout* seconds.

    A peer that goes away without a close_notify (RFC 8446, 6.1) is taken for one that has ended, as
    `ssl.SSLSocket` takes it, unless *suppress_ragged_eofs* is false: then it is an `ssl.SSLEOFError`,
    and nobody between the two can cut the data short unnoticed.
    """

    error_cls = OSError

    def __init__(
        self,
        stream: Any,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
        handshake_timeout: float | None = HANDSHAKE_TIMEOUT,
        shutdown_timeout: float | None = SHUTDOWN_TIMEOUT,
        suppress_ragged_eofs: bool = True,
    ) -> None:
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
            session=session,
        )
        # What ssl.SSLObject.read() and write() call: a frame less for each message.
        inner = self._tls._sslobj  # type: ignore[attr-defined]
        self._decrypt, self._encrypt, self._pending = inner.read, inner.write, inner.pending
        self._handshake_timeout = handshake_timeout
        self._shutdown_timeout = shutdown_timeout
        self._suppress_ragged_eofs = suppress_ragged_eofs
        self._ready = False  # the handshake is done
        self._failure: BaseException | None = None  # what it failed with
        self._ended = False  # nothing more can be read
        self._shut = False  # our close_notify was sent
        self._broken = False  # the peer has ended it, or made an error of it
        self._plain = bytearray()  # decrypted, and not read yet
        self._handshaking = Lock()
        self._receiving = Lock()  # one task at a time takes from the stream beneath
        self._reading = Lock()  # one read at a time gathers

    # ---- the engine ---------------------------------------------------------------------------

    def _receive(self) -> None:
        """Give TLS more of what the peer sent."""
        before = self._incoming.pending
        with self._receiving:
            if self._incoming.pending > before:
                return  # another task did it meanwhile
            data = self._stream.read(_CIPHERTEXT)
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def _met(self, exc: BaseException) -> bool:
        """What a step of TLS has raised: return whether to try again, with what TLS wants; False: the end."""
        if isinstance(exc, ssl.SSLWantReadError):
            self._send()
            self._receive()
            return True
        closed = isinstance(exc, ssl.SSLZeroReturnError)
        if closed and self._ready and not self._incoming.eof:
            self._send()
            return False
        if closed or isinstance(exc, ssl.SSLEOFError):  # the first is what 3.11.2 calls this end, too
            if self._suppress_ragged_eofs and self._ready:
                return False
            self._broken = True
            if closed:
                raise _ragged_end() from exc
        elif isinstance(exc, ssl.SSLError):
            self._send_alert()
        self._broken = True
        raise exc

    def _check_end(self) -> None:
        """The data has ended: raise SSLEOFError if the connection had before, and that matters."""
        if self._incoming.eof and not self._suppress_ragged_eofs:
            raise _ragged_end()

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        """Take one step of TLS, sending and receiving what it wants; return _END if the peer has ended."""
        while True:
            try:
                return step(*args)
            except ssl.SSLError as exc:
                if not self._met(exc):
                    return _END

    def _do(self, step: Callable[..., Any], *args: Any) -> Any:
        """Take a step that a peer which has ended does not take with us: then it is OSError EPIPE."""
        result = self._step(step, *args)
        if result is _END:
            self._broken = True
            raise OSError(errno.EPIPE, "the peer has ended the connection")
        return result

    def _send_alert(self) -> None:
        """Tell the peer what is wrong, if it still listens."""
        try:
            self._send()
        except OSError:
            pass

    def do_handshake(self) -> None:
        """Agree on keys and check certificates.  Harmless if that is done."""
        if self._ready:
            return
        with self._handshaking:
            if self._failure is not None:
                raise self._failure
            if self._ready:
                return
            try:
                with fail_after(self._handshake_timeout):
                    self._do(self._tls.do_handshake)
                    self._send()
            except BaseException as exc:
                if isinstance(exc, Exception):
                    self._failure = exc
                    self._stream.close()
                raise
            self._ready = True

    # ---- reading --------------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Decrypt some more; return False at the end."""
        if self._ended:
            return False
        data = self._step(self._decrypt, _RECORD)
        if data is _END or not data:
            if data is not _END:  # 3.11.2 says so of any end
                self._check_end()
            self._ended = True
            return False
        self._plain += data
        if self._outgoing.pending:
            self._send()  # an answer to the peer, such as a key update's
        return True

    def _take(self, n: int) -> bytes:
        if n >= len(self._plain):
            data = bytes(self._plain)
            self._plain.clear()
        else:
            data = bytes(memoryview(self._plain)[:n])
            del self._plain[:n]
        return data

    def _begin(self) -> None:
        self.do_handshake()
        if self._stream.closed and not self._plain:
            raise OSError(errno.EBADF, "stream is closed")

    def _read(self, n: int) -> bytes:
        """What read() does in C if the handshake is done and nothing waits; else it calls this."""
        self._begin()
        with self._reading:
            return self._read_in_turn(n)

    def _read_in_turn(self, n: int) -> bytes:
        if n < 0:
            while self._fill():
                self._check_limit(LIMIT)
            return self._take(len(self._plain))
        if n and not self._plain:
            self._fill()
        return self._take(n)

    def readinto(self, buffer: Any, /) -> int:
        """Read into a writable buffer what has come in; return the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read_exactly(self, n: int, /) -> bytes:
        """Return exactly n bytes; EOFError, with attribute partial, if the stream ends before."""
        if n < 0:
            raise ValueError(f"n must not be negative: {n}")
        self._begin()
        with self._reading:
            while len(self._plain) < n:
                if not self._fill():
                    raise _incomplete_read(self._stream, self._take(n), n)
            return self._take(n)

    def unread(self, data: Any, /) -> None:
        """Put bytes back: the next read begins with them."""
        self._plain[:0] = data

    def read_bytes(self, n: int, /) -> bytes:
        """Return exactly n bytes; if the stream ends before, close it and return ``b""``."""
        if n <= 0:
            raise ValueError(f"n must be positive, not {n}")
        self._begin()
        with self._reading:
            while len(self._plain) < n:
                if not self._fill():
                    self.close()
                    return b""
            return self._take(n)

    def _until(self, find: Callable[[int], int], limit: int) -> bytes | None:
        """Return everything up to where find(start) says; None: it ended before."""
        start = 0
        while True:
            end = find(start)
            if end >= 0 and end <= limit:
                return self._take(end)
            start = len(self._plain)
            if end > limit or start >= limit:
                raise OSError(errno.EMSGSIZE, f"no end found in the first {limit} bytes")
            if not self._fill():
                return None

    def read_until(self, delimiter: bytes, /, limit: int = LIMIT) -> bytes:
        """Return everything up to the delimiter, and the delimiter.

        If the stream ends before, close it and return ``b""``.  OSError EMSGSIZE if the delimiter is not in
        the first *limit* bytes; they stay in the stream.
        """
        if not delimiter:
            raise ValueError("the delimiter must not be empty")

        def find(start: int) -> int:
            place = self._plain.find(delimiter, max(0, start - len(delimiter) + 1))
            return place + len(delimiter) if place >= 0 else -1

        return self._read_until(find, limit)

    def read_until_regex(self, regex: bytes | re.Pattern[bytes], /, limit: int = LIMIT) -> bytes:
        """Return everything up to the end of the first match; see `read_until`."""
        pattern = re.compile(regex)

        def find(_: int) -> int:
            match = pattern.search(self._plain)
            return match.end() if match else -1

        return self._read_until(find, limit)

    def _read_until(self, find: Callable[[int], int], limit: int) -> bytes:
        self._begin()
        with self._reading:
            data = self._until(find, limit)
            if data is None:
                self.close()
                return b""
            return data

    def readline(self, /, limit: int = LINE_LIMIT) -> bytes:
        """Return the next line with its ``\\n``; the last one may have none; ``b""`` at the end."""
        self._begin()
        with self._reading:
            data = self._until(lambda start: self._plain.find(b"\n", start) + 1 or -1, limit)
            return self._take(len(self._plain)) if data is None else data

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def _check_limit(self, limit: int) -> None:
        if len(self._plain) > limit:
            raise OSError(errno.EMSGSIZE, f"more than {limit} bytes")

    # ---- writing ----------------------------------------------------------------------------------

    def _write(self, data: Any) -> bool:
        """What write() does in C for bytes that one record holds; else it calls this."""
        self.do_handshake()
        if self._stream.closed or self._shut:
            raise OSError(errno.EPIPE, "stream is closed or shut down")
        view, sent = memoryview(data).cast("B"), True
        while len(view):
            view = view[self._do(self._encrypt, view[:_AT_ONCE]) :]
            sent = self._send()  # a task that is killed there has written this part
        return sent

    def writelines(self, buffers: Iterable[Any], /) -> bool:
        """Write several buffers as one."""
        return self.write(b"".join(buffers))

    def flush(self) -> None:
        """Wait until everything is sent."""
        self._stream.flush()

    # ---- the end ----------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Send a close_notify: nothing more will be written.  Reading goes on."""
        if not self._shut:
            self.do_handshake()
            self._notify_close()

    def _notify_close(self) -> None:
        self._shut = True
        try:
            self._tls.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLError):
            pass  # the peer has not answered, or has data on its way
        self._queue_records()

    def _queue_records(self) -> None:
        """Send without waiting: a peer that is stuck in a write takes it only once it is read from."""
        self._send("_queue" if hasattr(self._stream, "_queue") else "write")

    def _queue(self, data: bytes) -> None:
        """Write without waiting; for TLS within TLS."""
        self._do(self._encrypt, data)
        self._queue_records()

    def unwrap(self) -> Any:
        """End TLS and return the stream beneath, which goes on in plain text.

        Raise TimeoutError if the peer takes longer than *shutdown_timeout* seconds to answer, and OSError
        if it has ended the connection instead.
        """
        self.do_handshake()
        with self._reading, fail_after(self._shutdown_timeout):
            self._shut = True
            self._do(self._tls.unwrap)
            self._send()
        rest = self._incoming.read()
        if rest:
            self._stream.unread(rest)
        return self._stream

    def close(self) -> None:
        """Send a close_notify, and close the stream beneath; harmless if it is closed."""
        if self._stream.closed:
            return
        if self._ready and not self._shut:
            try:
                with move_on_after(self._shutdown_timeout):
                    self._notify_close()
            except OSError:
                pass  # the peer has gone
        self._stream.close()

    def abort(self) -> None:
        """Close the stream beneath at once, dropping what is unsent."""
        self._stream.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _blames_peer(self, exc: BaseException) -> bool:
        """Whether an exception says no more than that the peer has gone, or speaks no TLS any more."""
        if self._broken and isinstance(exc, ssl.SSLError | BrokenPipeError):
            return True
        if self._ended and isinstance(exc, IncompleteReadError):
            return True
        beneath = getattr(self._stream, "_blames_peer", None)
        return beneath is not None and bool(beneath(exc))

    # ---- what is known of it --------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return bool(self._stream.closed)

    @property
    def connected(self) -> bool:
        """Whether the stream beneath is open."""
        return bool(self._stream.connected)

    @property
    def unsent(self) -> int:
        """Bytes that were encrypted and that the kernel has not taken yet."""
        return int(self._stream.unsent)

    @property
    def high_water(self) -> int:
        """Bytes: a write() that leaves more than this unsent waits; the stream's beneath."""
        return int(self._stream.high_water)

    @high_water.setter
    def high_water(self, size: int) -> None:
        self._stream.high_water = size

    def fileno(self) -> int:
        """Return the descriptor of the stream beneath."""
        return int(self._stream.fileno())

    @property
    def stream(self) -> Any:
        """The stream beneath."""
        return self._stream

    @property
    def sockname(self) -> Any:
        """The address of this end."""
        return self._stream.sockname

    @property
    def peername(self) -> Any:
        """The address of the other end."""
        return self._stream.peername

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a later connection to the same server may be given, to resume (RFC 8446, 2.2)."""
        return self._tls.session

    @property
    def session_reused(self) -> bool:
        """Whether a session was resumed."""
        return bool(self._tls.session_reused)

    @property
    def server_hostname(self) -> str | None:
        """The name that the client asked for."""
        return self._tls.server_hostname

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Return the peer's certificate, as `ssl.SSLSocket.getpeercert` does."""
        return self._tls.getpeercert(binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol that both sides agreed on (RFC 7301), or None."""
        return self._tls.selected_alpn_protocol()

    def cipher(self) -> tuple[str, str, int] | None:
        """Return (name, protocol, secret bits) of the cipher in use, or None."""
        return self._tls.cipher()

    def version(self) -> str | None:
        """Return the protocol's version, such as ``"TLSv1.3"``, or None before the handshake."""
        return self._tls.version()

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """Return channel binding data (RFC 5929)."""
        return self._tls.get_channel_binding(cb_type)


def wrap(
    stream: Any,
    context: ssl.SSLContext | None = None,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    **options: Any,
) -> TLSStream:
    """Go on in TLS over an open stream: do the handshake and return the `TLSStream`.

    Without *context*, a client has `ssl.create_default_context()`, which checks certificate and name;
    a server needs one with its certificate.  *options* are those of `TLSStream`.
    """
    if context is None:
        if server_side:
            raise ValueError("a server needs a context, with its certificate")
        context = ssl.create_default_context()
    wrapped = TLSStream(stream, context, server_side=server_side, server_hostname=server_hostname, **options)
    wrapped.do_handshake()
    return wrapped


def connect(
    address: Address,
    context: ssl.SSLContext | None = None,
    *,
    server_hostname: str | None = None,
    source_address: Address | None = None,
    alpn_protocols: Sequence[str] | None = None,
    **options: Any,
) -> TLSStream:
    """Connect to (host, port) and do the handshake; return the `TLSStream`.

    The certificate must be valid for *server_hostname*, by default the host of *address*.
    *alpn_protocols* (RFC 7301) are set on the default context only; a context of the user's has its own.
    """
    if context is None:
        context = ssl.create_default_context()
        if alpn_protocols is not None:
            context.set_alpn_protocols(list(alpn_protocols))
    elif alpn_protocols is not None:
        raise ValueError("set_alpn_protocols() belongs to the context that was given")
    client = TCPClient()
    try:
        client.connect(address, source_address)
        return wrap(client, context, server_hostname=server_hostname or address[0], **options)
    except BaseException:
        client.close()
        raise


def _handle(server: TLSServer, connection: TCPConnection) -> None:
    """What the task of a connection runs."""
    try:
        stream = wrap(
            connection,
            server._context,
            server_side=True,
            handshake_timeout=server._handshake_timeout,
        )
    except OSError:  # ssl.SSLError and TimeoutError are such
        server.failed_handshakes += 1
        connection.close()
        return
    except BaseException:
        connection.close()
        raise
    try:
        if server._handler is None:
            server.handle_connection(stream)
            return
        with stream:
            server._handler(stream)
    except BaseException as exc:
        dropped = server._closed and connection.closed and isinstance(exc, OSError)
        gone = _is_peers_doing(stream, exc)
        stream.close()
        if gone:
            _log_peer(stream, exc)
        elif not dropped:  # the server has closed it under the handler
            raise


class TLSServer(TCPServer):
    """A `TCPServer` whose handlers get a `TLSStream`, after its handshake.

    A peer that fails its handshake, or takes longer than *handshake_timeout* seconds, is closed and
    counted in `failed_handshakes`; nobody else waits for it.
    """

    _task = staticmethod(_handle)

    def __init__(
        self,
        handler: Callable[[TLSStream], object] | None = None,
        context: ssl.SSLContext | None = None,
        *,
        handshake_timeout: float | None = HANDSHAKE_TIMEOUT,
        **options: Any,
    ) -> None:
        if context is None:
            raise TypeError("a TLSServer needs a context, with its certificate")
        super().__init__(handler, **options)
        self._context = context
        self._handshake_timeout = handshake_timeout
        self.failed_handshakes = 0
