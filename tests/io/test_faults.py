"""evergreen/io when things go wrong: the right exception in the right task, and nothing left behind."""

import contextlib
import errno
import gc
import os
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from helpers import CERTIFICATE, native_sleep, run_python, settle

import evergreen
from evergreen import spawn
from evergreen.io import (
    PipeClient,
    PipeError,
    PipeServer,
    PipeStream,
    StdoutStream,
    TCPClient,
    TCPError,
    TCPServer,
    TTYError,
    UDPEndpoint,
    UDPError,
    dns,
    file,
    fs,
    process,
    tls,
)
from evergreen.io.stream import IncompleteReadError

HERE = ("127.0.0.1", 0)
EXPIRED = Path(__file__).parents[1] / "data" / "expired.pem"  # for localhost, valid for a day of 2020


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def clean(hub):
    """The loop; afterwards no descriptor is open that was not before, nor a handle."""
    first, second = PipeStream.pair()
    with first, second, UDPEndpoint() as endpoint:  # what the loop opens for itself, when it is needed
        endpoint.bind(HERE)
        with evergreen.move_on_after(0.001):
            endpoint.receive()
    spawn(fs.stat, "/").join()
    gc.collect()
    before = open_descriptors()
    yield hub
    for _ in range(200):  # libuv closes its handles in the next poll
        evergreen.sleep(0.001)
        gc.collect()
        if len(open_descriptors()) <= len(before) and not hub.stats()["streams"]:
            break
    assert len(open_descriptors()) <= len(before)
    assert not hub.stats()["streams"]


@contextlib.contextmanager
def serving(server, address=HERE):
    server.bind(address)
    task = spawn(server.serve)
    settle()
    try:
        yield server
    finally:
        server.close()
        task.join()


@contextlib.contextmanager
def plain_peer(**options):
    """A TCP client of ours, and the socket at its other end."""
    with socket.create_server(HERE) as listening:
        if "receive" in options:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive"])
        with TCPClient() as client:
            client.connect(listening.getsockname())
            with listening.accept()[0] as peer:
                yield client, peer


def reset(sock):
    """Close it so that the other end gets an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def no_more_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# ---- resets ------------------------------------------------------------------------------------------


def test_a_reset_reaches_every_task_of_the_connection_and_no_other(clean):
    with plain_peer() as (client, peer), plain_peer() as (other, other_peer):
        reader, waiting = spawn(client.read, 10), spawn(other.read, 10)
        writer = spawn(client.write, bytes(16_000_000))
        settle()
        flusher = spawn(client.flush)
        settle()
        reset(peer)
        for task in (reader, writer, flusher):
            with pytest.raises(TCPError) as caught:
                task.result(10)
            assert isinstance(caught.value, ConnectionError)
            assert caught.value.errno in (errno.ECONNRESET, errno.EPIPE)
        with pytest.raises(ConnectionError):
            client.write(b"more")
        assert waiting.is_alive()
        other_peer.send(b"fine")
        assert waiting.result() == b"fine"


@pytest.mark.parametrize("read", ["read_exactly", "read_until", "readinto", "read_all"])
def test_a_reset_that_comes_together_with_data_is_no_end(clean, read):
    reads = {
        "read_exactly": lambda client: client.read_exactly(1000),
        "read_until": lambda client: client.read_until(b"\n"),
        "readinto": lambda client: [client.readinto(bytearray(100_000)) for _ in range(2)],
        "read_all": lambda client: client.read(),
    }
    with plain_peer() as (client, peer):
        reader = spawn(reads[read], client)
        settle()
        peer.send(b"x" * 500)
        reset(peer)  # the loop sees both in one poll
        with pytest.raises(ConnectionResetError):
            reader.result(10)
        if read == "read_all":  # it is told from a whole answer, and not lost
            assert client.read(1000) == b"x" * 500
            with pytest.raises(ConnectionResetError):
                client.read(1000)


def test_a_reset_while_a_server_answers_closes_that_connection_alone(clean):
    """The handler deals with it, so nothing is reported."""
    failed = []

    def answer(connection):
        try:
            for line in connection:
                connection.write(line * 1_000_000)
        except TCPError as exc:
            failed.append(exc.errno)

    with serving(TCPServer(answer)) as server:
        rude = socket.create_connection(server.sockname)
        rude.send(b"0123456789\n")
        with TCPClient() as client:
            client.connect(server.sockname)
            client.write(b"\n")
            assert client.read_exactly(1_000_000) == b"\n" * 1_000_000
            reset(rude)
            client.write(b"\n")
            assert client.read_exactly(1_000_000) == b"\n" * 1_000_000
            for _ in range(1000):
                if failed:
                    break
                evergreen.sleep(0.001)
            assert len(server.connections) == 1
            assert failed in ([errno.ECONNRESET], [errno.EPIPE])
            client.shutdown()
            assert client.read() == b""


def test_a_unix_peer_that_goes_with_data_unread(clean):
    ours, theirs = socket.socketpair()
    with PipeStream() as stream:
        stream.open(ours.detach())
        stream.write(b"unread")
        theirs.close()
        with pytest.raises(PipeError) as caught:
            stream.read(10)
        assert isinstance(caught.value, ConnectionResetError)


# ---- ends of one side --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_half_close_both_ways(clean, tmp_path, kind):
    """The client ends its side, and still gets the whole answer; then the server ends its own."""

    def answer(stream):
        question = stream.read()
        stream.write(question * 200_000)
        stream.shutdown()
        assert stream.read(10) == b""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server = {
        "tcp": lambda: TCPServer(answer),
        "unix": lambda: PipeServer(answer),
        "tls": lambda: tls.TLSServer(answer, context),
    }[kind]()
    with serving(server, str(tmp_path / "socket") if kind == "unix" else HERE):
        if kind == "tls":
            trusting = ssl.create_default_context(cafile=CERTIFICATE)
            client = tls.connect(server.sockname, trusting, server_hostname="localhost")
        else:
            client = PipeClient() if kind == "unix" else TCPClient()
            client.connect(server.sockname)
        with client:
            client.write(b"question")
            client.shutdown()
            assert client.read() == b"question" * 200_000
            assert client.read(10) == b""
            with pytest.raises(OSError) as caught:
                client.write(b"more")
            assert caught.value.errno == errno.EPIPE


# ---- partial writes, slow peers -----------------------------------------------------------------------


def test_what_the_kernel_takes_in_parts_arrives_whole(clean):
    """Small buffers at both ends, a reader that takes odd pieces, and writes of all kinds."""
    pieces = [bytes([65 + n]) * (n * 7919 % 50_000) for n in range(26)]
    with plain_peer(receive=4096) as (client, peer):
        sock = socket.socket(fileno=client.fileno())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.detach()
        client.high_water = 10_000
        received = bytearray()

        def receive():
            while data := peer.recv(1237):
                received.extend(data)

        def send():
            for piece in pieces[:13]:
                client.write(bytearray(piece))
            client.writelines(pieces[13:])
            client.flush()
            assert client.unsent == 0
            client.shutdown()

        reader = threading.Thread(target=receive)
        reader.start()
        evergreen.run(send)
        reader.join(30)
        assert bytes(received) == b"".join(pieces)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_peer_that_sends_and_reads_byte_by_byte(clean, tmp_path, kind):
    """Every way to read, against a peer whose segments are a byte each."""
    message = b"exact" + b"a line\n" + b"until;;" + b"key=42 " + b"into" + b"the rest\nlast"
    answer = b"an answer\n" * 50

    def talk(stream):
        assert stream.read_exactly(5) == b"exact"
        assert stream.readline() == b"a line\n"
        assert stream.read_until(b";;") == b"until;;"
        assert stream.read_until_regex(rb"\d+ ") == b"key=42 "
        buffer, got = bytearray(4), 0
        while got < 4:
            got += stream.readinto(memoryview(buffer)[got:])
        assert buffer == b"into"
        stream.write(answer)
        assert list(stream) == [b"the rest\n", b"last"]

    def drip(sock):
        sock.settimeout(30)
        for byte in message[:-13]:
            sock.send(bytes([byte]))
            native_sleep(0.0002)
        got = b"".join(sock.recv(1) for _ in answer)
        for byte in message[-13:]:
            sock.send(bytes([byte]))
        sock.close()
        heard.append(got)

    heard, failures = [], []

    def handle(stream):
        try:
            talk(stream)
        except BaseException as exc:
            failures.append(exc)
            raise
        finally:
            done.set()

    done = evergreen.event.Event()
    server, family = (
        (TCPServer(handle), socket.AF_INET) if kind == "tcp" else (PipeServer(handle), socket.AF_UNIX)
    )
    with serving(server, str(tmp_path / "socket") if kind == "unix" else HERE):
        sock = socket.socket(family)
        if kind == "tcp":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(server.sockname)
        thread = threading.Thread(target=drip, args=(sock,))
        thread.start()
        assert done.wait(30)
        thread.join(30)
    assert heard == [answer]
    assert not failures


def test_an_end_in_the_middle_of_a_message(clean):
    for read, missing in ((lambda s: s.read_exactly(10), 10), (lambda s: s.read_bytes(10), 0)):
        with plain_peer() as (client, peer):
            peer.sendall(b"part")
            peer.close()
            if missing:
                with pytest.raises(IncompleteReadError) as caught:
                    read(client)
                assert (caught.value.partial, caught.value.expected) == (b"part", missing)
            else:
                assert read(client) == b""
                assert client.read(10) == b"part"


# ---- no more descriptors ---------------------------------------------------------------------------------


def test_without_a_descriptor_left_connecting_is_an_error(clean, tmp_path):
    listening = socket.create_server(HERE)
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "socket"))
    unix.listen()
    with plain_peer() as (client, peer), no_more_descriptors():
        for make, where, error in (
            (TCPClient, listening.getsockname(), TCPError),
            (PipeClient, str(tmp_path / "socket"), PipeError),
            (UDPEndpoint, listening.getsockname(), UDPError),
        ):
            stream = make()
            with pytest.raises(error) as caught:
                stream.connect(where)
            assert caught.value.errno == errno.EMFILE
            stream.close()
        with pytest.raises(OSError) as caught:
            tls.connect(listening.getsockname())
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(OSError) as caught:
            PipeStream.pair()
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(OSError) as caught:
            fs.watch(tmp_path)
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(OSError) as caught:
            process.run(["true"], capture_output=True)
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(OSError):  # EMFILE, or a gaierror: as the C library sees it
            dns.getaddrinfo("no-such-name.invalid", 80)
        peer.send(b"fine")  # what is open goes on
        assert client.read(10) == b"fine"
    listening.close()
    unix.close()


# ---- a full disk ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for 64 KiB and ten files."""
    where = tmp_path / "disk"
    where.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("mounting a tmpfs takes root")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=10", "none", str(where)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not allowed here: {done.stderr}")
    yield where
    subprocess.run(["umount", where], check=True)


def test_a_full_disk_takes_a_part_and_then_says_so(clean, small_disk):
    path = small_disk / "file"
    fd = fs.open(path, os.O_WRONLY | os.O_CREAT)
    assert fs.write(fd, bytes(100_000)) == 65536
    with pytest.raises(OSError) as caught:
        fs.write(fd, b"more")
    assert caught.value.errno == errno.ENOSPC
    fs.close(fd)
    fs.unlink(path)
    fs.close(fs.open(path, os.O_WRONLY | os.O_CREAT))  # there is room again


def test_a_full_disk_for_a_file_object(clean, small_disk):
    f = file.open(small_disk / "file", "wb")
    with pytest.raises(OSError) as caught:
        f.write(bytes(100_000))
        f.flush()
    assert caught.value.errno == errno.ENOSPC
    with contextlib.suppress(OSError):
        f.close()
    assert f.closed


def test_a_full_disk_for_tasks_side_by_side(clean, small_disk, tmp_path):
    """Each task gets its own outcome, and so does one that writes elsewhere."""

    def fill(path):
        with file.open(path, "wb", buffering=0) as f:
            left = 32768
            while left:
                left -= f.write(bytes(min(left, 4096)))
        return "done"

    tasks = [spawn(fill, small_disk / str(n)) for n in range(4)]
    elsewhere = spawn(fill, tmp_path / "elsewhere")
    outcomes = []
    for task in tasks:
        try:
            outcomes.append(task.result())
        except OSError as exc:
            outcomes.append(exc.errno)
    assert elsewhere.result() == "done"
    assert errno.ENOSPC in outcomes
    assert set(outcomes) <= {"done", errno.ENOSPC}
    assert sum(os.path.getsize(small_disk / str(n)) for n in range(4)) == 65536


def test_a_full_disk_for_everything_else(clean, small_disk, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(bytes(100_000))
    with pytest.raises(OSError) as caught:
        fs.copyfile(big, small_disk / "copy")
    assert caught.value.errno == errno.ENOSPC
    with contextlib.suppress(FileNotFoundError):
        fs.unlink(small_disk / "copy")
    source, target = fs.open(big), fs.open(small_disk / "sent", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError) as caught:
        while True:
            fs.sendfile(target, source, 0, 100_000)
    assert caught.value.errno == errno.ENOSPC
    fs.close(source)
    fs.close(target)
    with StdoutStream(os.open(small_disk / "sent", os.O_WRONLY | os.O_APPEND)) as out:
        with pytest.raises(TTYError) as written:
            out.write(bytes(100_000))
        assert written.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught:
        for n in range(20):
            fs.mkdir(small_disk / f"folder{n}")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught:
        PipeServer(lambda connection: None).bind(str(small_disk / "socket"))
    assert caught.value.errno == errno.ENOSPC


# ---- standard streams that are not there ---------------------------------------------------------------


@pytest.mark.parametrize("name, fd", [("Stdin", 0), ("Stdout", 1), ("Stderr", 2)])
def test_a_standard_stream_that_is_closed_from_the_start(name, fd):
    code = f"""
        import os, sys
        sys.path[:] = {[p for p in __import__("sys").path if p]!r}
        from evergreen.io import {name}Stream, TTYError
        try:
            {name}Stream()
        except TTYError as exc:
            os._exit(exc.errno)
        """
    child = run_python(code, preexec_fn=lambda: os.close(fd))
    assert child.returncode == errno.EBADF, child.stderr


def test_a_reader_of_standard_output_that_goes_is_a_broken_pipe(clean):
    reader, writer = os.pipe()
    with StdoutStream(writer) as out:
        out.write(b"read")
        assert os.read(reader, 10) == b"read"
        os.close(reader)
        with pytest.raises(TTYError) as caught:
            out.write(b"nobody reads")
            out.flush()
        assert isinstance(caught.value, BrokenPipeError)


# ---- certificates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "certificate, trusted, name, reason",
    [
        (CERTIFICATE, None, "localhost", "self-signed"),
        (CERTIFICATE, CERTIFICATE, "192.0.2.1", "IP address mismatch"),
        (CERTIFICATE, CERTIFICATE, "example.org", "Hostname mismatch"),
        (EXPIRED, EXPIRED, "localhost", "expired"),
        (CERTIFICATE, EXPIRED, "localhost", "self-signed"),
    ],
    ids=["unknown", "an address", "another name", "expired", "another authority"],
)
def test_a_certificate_that_will_not_do(clean, certificate, trusted, name, reason):
    """The client says why, the server counts it and serves on, and neither keeps the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(tls.TLSServer(lambda stream: stream.write(b"ok"), context)) as server:
        strict = ssl.create_default_context(cafile=trusted)
        with pytest.raises(ssl.SSLCertVerificationError, match=reason):
            tls.connect(server.sockname, strict, server_hostname=name)
        lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        lax.check_hostname, lax.verify_mode = False, ssl.CERT_NONE
        with tls.connect(server.sockname, lax) as client:
            assert client.read(10) == b"ok"
        for _ in range(1000):
            if server.failed_handshakes and not server.connections:
                break
            evergreen.sleep(0.001)
        assert server.failed_handshakes == 1
        assert not server.connections


def test_start_tls_that_fails_leaves_a_closed_stream(clean):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    def serve(connection):
        assert connection.readline() == b"STARTTLS\n"
        with pytest.raises(ssl.SSLError):
            connection.start_tls(context, server_side=True)

    with serving(TCPServer(serve)) as server, TCPClient() as client:
        client.connect(server.sockname)
        client.write(b"STARTTLS\n")
        with pytest.raises(ssl.SSLCertVerificationError):
            client.start_tls(ssl.create_default_context(), server_hostname="localhost")
        assert client.closed
