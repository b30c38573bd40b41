"""evergreen/io/tls.py: TLS over any stream."""

import contextlib
import errno
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from helpers import in_thread, native, settle

import evergreen
from evergreen import spawn
from evergreen.event import Event
from evergreen.io import tls
from evergreen.io.pipe import PipeStream
from evergreen.io.tcp import TCPClient, TCPServer
from evergreen.io.tls import TLSServer, TLSStream
from evergreen.timeout import Timeout, fail_after, move_on_after

HERE = ("127.0.0.1", 0)
PEM = Path(__file__).parent.parent / "data" / "localhost.pem"  # for localhost, signed by itself
WITHIN = 10  # seconds: for what takes milliseconds


def server_context(**alpn):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    if alpn:
        context.set_alpn_protocols(alpn["protocols"])
    return context


def client_context():
    return ssl.create_default_context(cafile=PEM)


@contextlib.contextmanager
def serving(handler, cls=TLSServer, context=None, **options):
    if cls is TLSServer:
        server = cls(handler, context or server_context(), **options)
    else:
        server = cls(handler, **options)
    server.bind(HERE)
    task = spawn(server.serve)
    settle()
    try:
        yield server
    finally:
        server.close()
        task.join()
        evergreen.sleep(0.005)
        settle()


def connect(server, context=None, **options):
    options.setdefault("server_hostname", "localhost")
    return tls.connect(server.sockname, context or client_context(), **options)


def echo(stream):
    while data := stream.read(65536):
        stream.write(data)


# ---- reading and writing --------------------------------------------------------------------------


def test_what_is_written_arrives(hub):
    with serving(echo) as server, connect(server) as client:
        client.write(b"hello")
        assert client.read(100) == b"hello"
        assert client.version() == "TLSv1.3"
        assert client.cipher()[2] >= 128
        assert client.getpeercert()["subject"] == ((("commonName", "localhost"),),)
        assert client.peername == server.sockname


@pytest.mark.parametrize("size", [1, 16384, 16385, 1_000_000])
def test_any_size_arrives_whole(hub, size):
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    with serving(echo) as server, connect(server) as client:
        task = spawn(client.write, data)
        assert client.read_exactly(size) == data
        task.join()


def test_reading_in_all_its_forms(hub):
    def talk(stream):
        stream.writelines([b"line one\n", b"line two\n", b"key: value;", b"0123456789", b"abc", b"last"])

    with serving(talk) as server, connect(server) as client:
        assert client.readline() == b"line one\n"
        assert next(client) == b"line two\n"
        assert client.read_until(b": ") == b"key: "
        assert client.read_until_regex(rb"[;,]") == b"value;"
        assert client.read_exactly(5) == b"01234"
        buffer = bytearray(5)
        assert client.readinto(buffer) == 5
        assert buffer == b"56789"
        assert client.read_bytes(3) == b"abc"
        assert client.read() == b"last"
        assert client.read(10) == b""


def test_what_is_missing_at_the_end_is_said(hub):
    with serving(lambda stream: stream.write(b"abc")) as server:
        with connect(server) as client:
            with pytest.raises(EOFError) as info:
                client.read_exactly(10)
            assert info.value.partial == b"abc"
        with connect(server) as client:
            assert client.read_until(b"\n") == b""
            assert client.closed
        with connect(server) as client:
            assert list(client) == [b"abc"]


def test_a_delimiter_that_does_not_come_is_an_error_and_loses_nothing(hub):
    with serving(lambda stream: stream.write(b"x" * 5000)) as server, connect(server) as client:
        with pytest.raises(OSError, match="first 1000 bytes"):
            client.read_until(b"\n", 1000)
        assert client.read() == b"x" * 5000


def test_one_task_reads_while_another_writes(hub):
    with serving(echo) as server, connect(server) as client:
        waiting = spawn(client.read_exactly, 4)
        settle()
        client.write(b"ping")
        assert waiting.result(WITHIN) == b"ping"


def test_a_read_that_is_killed_loses_nothing(hub):
    go = Event()

    def talk(stream):
        stream.write(b"first ")
        go.wait()
        stream.write(b"second")

    with serving(talk) as server, connect(server) as client:
        with move_on_after(0.01) as scope:
            client.read_exactly(12)
        assert scope.expired
        go.set()
        assert client.read_exactly(12) == b"first second"


def test_reads_of_different_kinds_take_turns(hub):
    """Each gets what comes after what the one before it took, also what that one had decrypted for it."""
    sent = Event()

    def talk(stream):
        sent.wait()
        stream.write(b"exactly eight")
        stream.write(b"-- and the rest\n")

    with serving(talk) as server, connect(server) as client:
        client.do_handshake()
        exact, some, line = spawn(client.read_exactly, 7), spawn(client.read, 2), spawn(client.readline)
        settle()
        sent.set()
        assert (exact.result(), some.result(), line.result()) == (b"exactly", b" e", b"ight-- and the rest\n")
        assert client.read(100) == b""
        assert client.read(100) == b""


@pytest.mark.parametrize("size", [1, 63, 64, 65, 16383, 16384, 16385, 40_000])
def test_messages_about_the_size_of_a_record(hub, size):
    data = bytes(range(256)) * (size // 256 + 1)
    with serving(echo) as server, connect(server) as client:
        for message in (data[:size], bytearray(data[:size]), memoryview(data)[:size]):
            client.write(message)
            got = b""
            while len(got) < size:
                part = client.read(100_000)
                assert 0 < len(part) <= 16384
                got += part
            assert got == data[:size]


def test_a_message_is_read_in_small_parts(hub):
    with serving(echo) as server, connect(server) as client:
        client.write(b"0123456789" * 30)
        assert b"".join(client.read(7) for _ in range(42)) == b"0123456789" * 29 + b"0123"
        assert client.read_exactly(6) == b"456789"


def test_a_closed_stream_takes_nothing(hub):
    with serving(echo) as server:
        client = connect(server)
        client.close()
        for call in (lambda: client.write(b"x"), lambda: client.read(1)):
            with pytest.raises(OSError) as info:
                call()
            assert info.value.errno in (errno.EPIPE, errno.EBADF)


def test_bad_arguments_of_read_and_write(hub):
    with serving(echo) as server, connect(server) as client:
        for call in (lambda: client.read(1, 2), lambda: client.read("1"), lambda: client.write("text")):
            with pytest.raises(TypeError):
                call()


@pytest.mark.parametrize("call", ["read_exactly", "read_bytes"])
def test_bad_sizes_are_value_errors(hub, call):
    with serving(echo) as server, connect(server) as client, pytest.raises(ValueError, match="must"):
        getattr(client, call)(-1)


# ---- certificates, names, protocols -------------------------------------------------------------------


def test_an_unknown_certificate_is_refused_by_default(hub):
    with serving(echo) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            tls.connect(server.sockname, server_hostname="localhost")
        evergreen.sleep(0.01)
        assert server.failed_handshakes == 1


def test_a_certificate_for_another_name_is_refused(hub):
    with serving(echo) as server, pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        connect(server, server_hostname="elsewhere.example")


def test_both_sides_agree_on_a_protocol(hub):
    seen = []

    def talk(stream):
        seen.append(stream.selected_alpn_protocol())

    context = client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with serving(talk, context=server_context(protocols=["http/1.1"])) as server:
        with connect(server, context) as client:
            assert client.selected_alpn_protocol() == "http/1.1"
            assert client.read() == b""
    assert seen == ["http/1.1"]


def test_the_server_sees_the_name_that_was_asked_for(hub):
    names = []
    context = server_context()
    context.sni_callback = lambda connection, name, context: names.append(name)
    with serving(echo, context=context) as server, connect(server) as client:
        client.write(b"x")
        assert client.read(1) == b"x"
    assert names == ["localhost"]


def test_a_session_is_resumed(hub):
    context = client_context()
    with serving(echo) as server:
        with connect(server, context) as client:
            client.write(b"x")
            client.read(1)  # TLS 1.3: the ticket comes with the data
            session = client.session
            assert not client.session_reused
        with connect(server, context, session=session) as client:
            client.write(b"x")
            assert client.read(1) == b"x"
            assert client.session_reused


def test_a_server_can_ask_for_a_certificate(hub):
    seen = []

    def talk(stream):
        seen.append(stream.getpeercert()["subject"])
        stream.write(b"welcome")

    strict = server_context()
    strict.verify_mode = ssl.CERT_REQUIRED
    strict.load_verify_locations(PEM)
    with serving(talk, context=strict) as server:
        with pytest.raises(ssl.SSLError), connect(server) as client:
            client.read_exactly(7)
        known = client_context()
        known.load_cert_chain(PEM)
        with connect(server, known) as client:
            assert client.read_exactly(7) == b"welcome"
    assert seen == [((("commonName", "localhost"),),)]


# ---- peers that misbehave -----------------------------------------------------------------------------


def test_a_peer_that_says_nothing_holds_up_nobody_else(hub):
    with serving(echo, handshake_timeout=0.5) as server:  # the other has that long, too
        with TCPClient() as silent:
            silent.connect(server.sockname)
            with connect(server) as client:
                client.write(b"x")
                assert client.read(1) == b"x"
            assert silent.read(10) == b""  # closed by the server's timeout
        assert server.failed_handshakes == 1


def test_a_handshake_that_takes_too_long_is_a_timeout_error(hub):
    gate = Event()
    with serving(lambda connection: gate.wait(), cls=TCPServer) as server:
        with pytest.raises(TimeoutError):
            connect(server, handshake_timeout=0.01)
        gate.set()


def test_a_peer_that_does_not_speak_tls_is_an_ssl_error(hub):
    with serving(lambda connection: connection.write(b"220 hello\r\n"), cls=TCPServer) as server:
        with pytest.raises(ssl.SSLError):
            connect(server)
    with serving(echo) as server:
        with TCPClient() as rude:
            rude.connect(server.sockname)
            rude.write(b"GET / HTTP/1.0\r\n\r\n")
            rude.read()
        assert server.failed_handshakes == 1


def test_a_peer_that_hangs_up_in_the_handshake_is_an_error(hub):
    with serving(lambda connection: connection.read(10), cls=TCPServer) as server:
        with pytest.raises(OSError):
            connect(server)


@pytest.mark.parametrize("suppress", [True, False])
def test_an_end_without_close_notify(hub, suppress):
    def talk(stream):
        stream.write(b"half")
        stream.flush()
        stream.stream.close()

    with serving(talk) as server:
        with connect(server, suppress_ragged_eofs=suppress) as client:
            assert client.read_exactly(4) == b"half"
            if suppress:
                assert client.read(10) == b""
            else:
                with pytest.raises(ssl.SSLEOFError):
                    client.read(10)


@contextlib.contextmanager
def dropped(context=None, **options):
    """A TLS stream whose peer has ended the connection without a close_notify."""
    ours, theirs = socket.socketpair()
    beneath = PipeStream()
    beneath.open(ours.detach())

    def serve():
        with (context or server_context()).wrap_socket(theirs, server_side=True) as peer:
            peer.send(b"hello")
            socket.socket.shutdown(peer, socket.SHUT_WR)
            while peer.recv(100):
                pass

    call = native(serve)
    stream = tls.wrap(beneath, client_context(), server_hostname="localhost", **options)
    assert stream.read(100) == b"hello"
    try:
        yield stream
    finally:
        stream.abort()
        with contextlib.suppress(OSError):
            call.get()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "call",
    [
        lambda stream: stream.write(b"x"),
        lambda stream: stream.write(bytearray(b"x")),
        lambda stream: stream.write(bytes(100_000)),
        lambda stream: stream.writelines([b"x", b"y"]),
        lambda stream: stream.unwrap(),
    ],
)
def test_after_an_end_without_close_notify_nothing_is_written(hub, call, version):
    context = server_context()
    context.maximum_version = version
    with dropped(context) as stream, fail_after(WITHIN):
        assert (stream.read(10), stream.read(), stream.readline()) == (b"", b"", b"")
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                call(stream)
            assert isinstance(caught.value, BrokenPipeError | ssl.SSLError)
        stream.shutdown()
        stream.close()


def test_a_write_that_is_the_first_to_meet_the_end_does_not_spin(hub):
    with dropped() as stream, fail_after(WITHIN):
        with contextlib.suppress(OSError):
            for _ in range(3):
                stream.write(b"x" * 20_000)
        assert stream.read_until(b"x") == b""
        with pytest.raises(OSError):
            stream.write(b"x")


def test_a_peer_that_is_stuck_in_its_own_write_does_not_hold_up_shutdown_and_close(hub):
    ours, theirs = socket.socketpair()
    beneath = PipeStream()
    beneath.open(ours.detach())

    def echo():
        with server_context().wrap_socket(theirs, server_side=True) as peer:
            with contextlib.suppress(OSError):
                while data := peer.recv(65536):
                    peer.sendall(data * 4)

    call = native(echo)
    stream = tls.wrap(beneath, client_context(), server_hostname="localhost")
    with fail_after(WITHIN):
        while stream.write(bytes(65536)):
            pass
        stream.shutdown()
        stream.close()
    call.get()
    evergreen.sleep(0.005)


@pytest.mark.parametrize("how", ["reset", "garbage", "no close_notify"])
def test_a_client_that_breaks_its_connection_is_not_reported(hub, how):
    def handler(stream):
        while data := stream.read(100):
            stream.write(data)
        stream.write(b"bye")

    def work():
        with socket.create_connection(server.sockname) as sock:
            with client_context().wrap_socket(sock, server_hostname="localhost") as client:
                client.sendall(b"hello")
                assert client.recv(5) == b"hello"
                if how == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif how == "garbage":
                    socket.socket.send(client, b"garbage" * 100)
                    client.recv(5)
                else:
                    socket.socket.shutdown(client, socket.SHUT_WR)
                    socket.socket.recv(client, 100)

    with serving(handler) as server:
        with contextlib.suppress(OSError):
            native(work).get()
        while server.connections:
            evergreen.sleep(0.001)


def test_a_reset_is_a_connection_error(hub):
    def talk(stream):
        stream.read(1)
        stream.abort()

    with serving(talk) as server, connect(server) as client:
        client.write(b"x")
        with pytest.raises(ConnectionResetError):
            client.read(10)


def test_a_peer_whose_bytes_come_one_at_a_time(hub):
    def drip(connection):
        with TCPClient() as relay:
            relay.connect(server.sockname)
            inward = spawn(pass_on, connection, relay)
            while data := relay.read(4096):
                for byte in data:
                    connection.write(bytes([byte]))
            inward.kill()
            inward.join()

    def pass_on(source, sink):
        while data := source.read(4096):
            sink.write(data)

    with serving(echo) as server, serving(drip, cls=TCPServer) as slow:
        with connect(slow) as client:
            client.write(b"hello")
            assert client.read_exactly(5) == b"hello"
            client.shutdown()
            assert client.read() == b""


# ---- starting and ending -----------------------------------------------------------------------------------


def test_start_tls_on_a_plain_connection(hub):
    def talk(connection):
        assert connection.readline() == b"STARTTLS\r\n"
        connection.write(b"go ahead\r\n")
        with connection.start_tls(server_context(), server_side=True) as secure:
            secure.write(secure.readline().upper())

    with serving(talk, cls=TCPServer) as server, TCPClient() as client:
        client.connect(server.sockname)
        client.write(b"STARTTLS\r\n")
        assert client.readline() == b"go ahead\r\n"
        secure = client.start_tls(client_context(), server_hostname="localhost")
        secure.write(b"hello\n")
        assert secure.readline() == b"HELLO\n"


def test_tls_over_a_socket_pair_of_streams(hub):
    ends = socket.socketpair()
    streams = []
    for end in ends:
        stream = PipeStream()
        stream.open(end.detach())
        streams.append(stream)
    server = spawn(tls.wrap, streams[0], server_context(), server_side=True)
    with tls.wrap(streams[1], client_context(), server_hostname="localhost") as client:
        with server.result() as other:
            client.write(b"over a pipe")
            assert other.read(100) == b"over a pipe"


def test_tls_within_tls(hub):
    """As through a proxy that is spoken to in TLS itself; the inner one ends, and the outer goes on."""

    def talk(outer):
        inner = tls.wrap(outer, server_context(), server_side=True)
        echo_once = inner.read(100)
        inner.write(echo_once.upper())
        inner.unwrap().write(b"outside")

    with serving(talk) as server, connect(server) as outer:
        inner = tls.wrap(outer, client_context(), server_hostname="localhost")
        inner.write(b"inside")
        assert inner.read(100) == b"INSIDE"
        assert inner.unwrap() is outer
        assert outer.read_exactly(7) == b"outside"
        assert outer.read(10) == b""


def test_it_is_a_stream_like_any_other(hub):
    with serving(echo) as server, connect(server) as client:
        assert client.connected
        assert client.fileno() == client.stream.fileno()
        client.high_water = 1000
        assert client.stream.high_water == client.high_water == 1000
        client.write(b"a line\nrest")
        client.flush()
        assert client.unsent == 0
        assert client.read_exactly(7) == b"a line\n"
        client.unread(b"back ")
        assert client.read(3) == b"bac"
        assert client.read_exactly(6) == b"k rest"
        client.shutdown()
        assert client.read(10) == b""
        client.unread(b"again")
        assert [client.read(10), client.read(10)] == [b"again", b""]
    assert not client.connected


def test_unwrap_goes_on_in_plain_text(hub):
    def talk(connection):
        secure = connection.start_tls(server_context(), server_side=True)
        assert secure.read_exactly(6) == b"secret"
        plain = secure.unwrap()
        plain.write(b"plain again")

    with serving(talk, cls=TCPServer) as server, TCPClient() as client:
        client.connect(server.sockname)
        secure = client.start_tls(client_context(), server_hostname="localhost")
        secure.write(b"secret")
        plain = secure.unwrap()
        assert plain is client
        assert plain.read_exactly(11) == b"plain again"


def test_shutdown_ends_one_side(hub):
    def talk(stream):
        data = stream.read()
        stream.write(b"got %d bytes" % len(data))

    with serving(talk) as server, connect(server) as client:
        client.write(b"x" * 1000)
        client.shutdown()
        with pytest.raises(OSError, match="shut down"):
            client.write(b"more")
        assert client.read() == b"got 1000 bytes"


def test_close_is_harmless_twice_and_ends_reading(hub):
    with serving(echo) as server:
        client = connect(server)
        client.close()
        client.close()
        assert client.closed
        with pytest.raises(OSError):
            client.write(b"x")
        with pytest.raises(OSError):
            client.read(1)


def test_the_first_read_does_the_handshake(hub):
    with serving(lambda stream: stream.write(b"hi")) as server, TCPClient() as client:
        client.connect(server.sockname)
        stream = TLSStream(client, client_context(), server_hostname="localhost")
        assert stream.version() is None
        assert stream.read(2) == b"hi"
        assert stream.version() == "TLSv1.3"


def test_a_server_without_a_context_is_a_type_error(hub):
    with pytest.raises(TypeError, match="context"):
        TLSServer(echo)
    with pytest.raises(ValueError, match="context"):
        tls.wrap(TCPClient(), server_side=True)


def test_a_killed_handshake_can_be_killed(hub):
    gate = Event()
    with serving(lambda connection: gate.wait(), cls=TCPServer) as server:
        with pytest.raises(Timeout), Timeout(0.01):
            connect(server)
        gate.set()


def beside(hub, function):
    """Return what function() returns in a native thread, while the loop goes on."""
    return hub._threadpool.spawn(function).get()


# ---- other implementations ------------------------------------------------------------------------------


def test_the_standard_library_as_client(hub):
    def talk():
        with socket.create_connection(address) as plain:
            with client_context().wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(b"hello")
                answer = client.recv(5)
                client.unwrap()
                return answer

    with serving(echo) as server:
        address = server.sockname
        assert beside(hub, talk) == b"hello"


def test_the_standard_library_as_server(hub):
    def serve():
        plain, _ = listener.accept()
        with plain, server_context().wrap_socket(plain, server_side=True) as connection:
            connection.sendall(connection.recv(100).upper())

    with socket.create_server(HERE) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with tls.connect(listener.getsockname(), client_context(), server_hostname="localhost") as client:
            client.write(b"hello")
            assert client.read() == b"HELLO"
        in_thread(thread.join)


needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="the openssl command is not installed")


@needs_openssl
def test_openssl_as_client(hub):
    def talk():
        return subprocess.run(
            ["openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", PEM, "-connect", where],
            input=b"hello\n",
            capture_output=True,
            timeout=WITHIN,
        ).stdout

    def answer(stream):
        stream.write(stream.readline().upper())

    with serving(answer) as server:
        where = "{}:{}".format(*server.sockname)
        assert beside(hub, talk) == b"HELLO\n"


@needs_openssl
def test_openssl_as_server(hub):
    with socket.create_server(HERE) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["openssl", "s_server", "-accept", str(port), "-cert", PEM, "-rev"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        in_thread(lambda: next(line for line in process.stdout if line.startswith(b"ACCEPT")))
        with tls.connect(("127.0.0.1", port), client_context(), server_hostname="localhost") as client:
            client.write(b"hello\n")
            assert client.readline() == b"olleh\n"
    finally:
        process.kill()
        in_thread(process.communicate)


def test_a_tls_stream_without_init_raises_attribute_errors():
    stream = TLSStream.__new__(TLSStream)
    stream._ready = True
    for call in (
        lambda: stream.read(1),
        lambda: stream.read(),
        lambda: stream.write(b"x"),
        stream._send,
        stream.close,
    ):
        with pytest.raises(AttributeError):
            call()


def test_what_a_tls_stream_stands_on_may_be_replaced_while_it_is_called(hub):
    class Part:
        pending = 1

        def __init__(self, stream):
            self.stream = stream

        def acquire(self):
            self.stream._reading = Part(self.stream)

        def release(self):
            self.stream._reading = None

        def __call__(self, n):
            self.stream._decrypt = None
            return b"decrypted"

        def read(self):
            self.stream._outgoing = None
            return b""

        def write(self, data):
            self.stream._stream = None

    stream = TLSStream.__new__(TLSStream)
    for name in ("_stream", "_incoming", "_outgoing", "_decrypt", "_reading"):
        setattr(stream, name, Part(stream))
    stream._plain = bytearray()
    stream._ready = True
    assert stream.read(100) == b"decrypted"
    assert stream._outgoing is stream._stream is stream._decrypt is stream._reading is None
    stream._reading, stream._outgoing, stream._decrypt = Part(stream), Part(stream), lambda n: 5
    with pytest.raises(TypeError, match="not bytes"):
        stream.read(100)
