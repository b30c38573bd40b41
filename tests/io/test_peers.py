"""evergreen/io beside programs that know nothing of it: socat, curl, dig, and a terminal."""

import os
import re
import shlex
import shutil
import socket
import struct
import sys

import pytest
from helpers import settle

import evergreen
from evergreen import spawn
from evergreen.io import (
    PipeClient,
    PipeServer,
    TCPClient,
    TCPServer,
    TTYError,
    TTYStream,
    UDPEndpoint,
    process,
)

HERE = ("127.0.0.1", 0)
# What a sanitizer has preloaded is not for these programs: curl hangs with it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
WITHIN = 20  # seconds: for what takes milliseconds
BIG = bytes(range(256)) * 8192  # 2 MiB: more than a socket holds


def needs(program):
    return pytest.mark.skipif(not shutil.which(program), reason=f"the {program} command is not installed")


def run(command, **options):
    """Run a program to its end; return its `subprocess.CompletedProcess`."""
    return process.run(command, stdout=process.PIPE, timeout=WITHIN, env=ENVIRONMENT, **options)


class Serving:
    """A server with its serve() in a task."""

    def __init__(self, server, address):
        self.server = server
        server.bind(address)
        self.task = spawn(server.serve)
        settle()

    def __enter__(self):
        return self.server

    def __exit__(self, *args):
        self.server.close()
        self.task.join()
        evergreen.sleep(0.005)
        settle()


class Running:
    """A program that is running, and says on stderr when it is ready."""

    def __init__(self, *command, ready):
        pipe = process.PIPE
        streams = {"stdin": pipe, "stdout": pipe, "stderr": pipe}
        self.child = process.Process(list(map(str, command)), env=ENVIRONMENT, **streams)
        with evergreen.fail_after(WITHIN):
            said = b""
            for line in self.child.stderr:
                said += line
                if match := re.search(ready, said):
                    self.ready = match
                    return
        self.__exit__()
        raise AssertionError(f"{command} has ended")

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.child.kill()
        self.child.__exit__(None, None, None)


def shout(connection):
    while data := connection.read(65536):
        connection.write(data.upper())


def talk(client, data):
    """Send it all, and return what comes back until the end."""
    with evergreen.TaskGroup() as both:
        answer = both.spawn(client.read)
        client.write(data)
        client.flush()
        client.shutdown()
    return answer.result()


# ---- socat -------------------------------------------------------------------------------------


@needs("socat")
@pytest.mark.parametrize("data", [b"hello\n", BIG.lower()], ids=["a line", "2 MiB"])
def test_socat_is_served_over_tcp(hub, data):
    with Serving(TCPServer(shout), HERE) as server:
        address = "TCP:{}:{}".format(*server.sockname)
        done = run(["socat", "-t20", "-", address], input=data)
    assert done.stdout == data.upper()


@needs("socat")
def test_socat_serves_over_tcp(hub):
    command = ["socat", "-d", "-d", "-t20", "TCP-LISTEN:0,bind=127.0.0.1", "EXEC:cat"]
    with Running(*command, ready=rb"listening on AF=2 \S+:(\d+)") as peer:
        with TCPClient() as client:
            client.connect(("127.0.0.1", int(peer.ready[1])))
            assert talk(client, BIG) == BIG


@needs("socat")
@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract name"])
def test_socat_is_served_over_a_unix_socket(hub, tmp_path, abstract):
    path = f"{tmp_path}/here"
    name = b"\0" + path.encode() if abstract else path
    target = ("ABSTRACT-CONNECT:" if abstract else "UNIX-CONNECT:") + path
    with Serving(PipeServer(shout), name):
        done = run(["socat", "-t20", "-", target], input=BIG)
    assert done.stdout == BIG.upper()


@needs("socat")
def test_socat_serves_over_a_unix_socket(hub, tmp_path):
    path = tmp_path / "there"
    with Running("socat", "-d", "-d", "-t20", f"UNIX-LISTEN:{path}", "EXEC:cat", ready=rb"listening on AF=1"):
        with PipeClient() as client:
            client.connect(path)
            assert talk(client, BIG) == BIG
        assert client.closed


@needs("socat")
def test_socat_sends_datagrams(hub):
    with UDPEndpoint() as endpoint:
        endpoint.bind(HERE)

        def answer():
            data, sender = endpoint.receive()
            endpoint.send(data.upper(), sender)

        task = spawn(answer)
        target = "UDP:{}:{}".format(*endpoint.sockname)
        with process.Process(["socat", "-", target], stdin=process.PIPE, stdout=process.PIPE) as peer:
            peer.stdin.write(b"ping")
            with evergreen.fail_after(WITHIN):
                assert peer.stdout.read1() == b"PING"
            peer.kill()
        task.join()


@needs("socat")
def test_socat_answers_datagrams(hub):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(HERE)
        where = free.getsockname()
    command = ["socat", "-d", "-d", f"UDP-RECVFROM:{where[1]},bind=127.0.0.1,fork", "EXEC:cat"]
    with Running(*command, ready=rb"(receiving|recv\w*) on AF=2"), UDPEndpoint() as endpoint:
        endpoint.connect(where)
        with evergreen.fail_after(WITHIN):
            for message in (b"one", b"", b"two", b"x" * 1400):
                endpoint.send(message)
                if message:  # cat says nothing for nothing
                    assert endpoint.receive() == (message, where)


@needs("socat")
def test_a_terminal_of_socat(hub):
    """The pseudo-terminal is socat's, and whoever sits before it comes by TCP."""
    with Serving(TCPServer(shout), HERE) as server:
        address = "TCP:{}:{}".format(*server.sockname)
        ready = rb"PTY is (\S+)[^\0]*starting data transfer"
        with Running("socat", "-d", "-d", "PTY,raw,echo=0", address, ready=ready) as peer:
            stream = TTYStream(os.open(peer.ready[1].decode(), os.O_RDWR | os.O_NOCTTY))
            with stream, evergreen.fail_after(WITHIN):
                stream.write(b"typed\n")
                assert stream.readline() == b"TYPED\n"
                peer.child.kill()  # the terminal hangs up
                try:
                    assert stream.read(1) == b""
                except TTYError:
                    pass  # EIO: the kernel tells it one way or the other
            peer.child.wait()


# ---- curl ---------------------------------------------------------------------------------------


def answer_http(connection):
    """Give back what was posted, in capital letters, as often as the connection is used."""
    while request := connection.read_until(b"\r\n\r\n"):
        length = re.search(rb"(?i)content-length: (\d+)", request)
        if b"100-continue" in request:
            connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = connection.read_exactly(int(length[1])) if length else request.split(b" ")[1]
        connection.writelines([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body.upper()])


@needs("curl")
def test_curl_over_a_unix_socket(hub, tmp_path):
    path = str(tmp_path / "http")
    accepted = []

    def handle(connection):
        accepted.append(connection)
        answer_http(connection)

    with Serving(PipeServer(handle), path):
        command = ["curl", "--silent", "--show-error", "--fail", "--unix-socket", path, "http://here/one"]
        done = run([*command, "http://here/two"])
        assert done.stdout == b"/ONE/TWO"
        assert len(accepted) == 1  # it kept the connection
        command += ["--data-binary", "@-"]
        done = run(command, input=BIG)
        assert done.stdout == BIG.upper()


@needs("curl")
def test_many_curls_at_once(hub, tmp_path):
    path = str(tmp_path / "http")
    with Serving(PipeServer(answer_http), path):
        command = ["curl", "--silent", "--show-error", "--fail", "--unix-socket", path, "--data-binary", "@-"]

        def post(data):
            url = "http://here/"
            return run([*command, url], input=data).stdout

        tasks = [spawn(post, b"%d" % n) for n in range(8)]
        assert [task.result() for task in tasks] == [b"%d" % n for n in range(8)]


# ---- dig ----------------------------------------------------------------------------------------


def answer_dns(query):
    """The answer to a question for an A record (RFC 1035, 4.1): 192.0.2.1, or a lot of text for TXT."""
    number, _, questions = struct.unpack_from("!HHH", query)
    assert questions == 1
    end = 12
    while query[end]:
        end += 1 + query[end]
    kind, _ = struct.unpack_from("!HH", query, end + 1)
    question = query[12 : end + 5]
    data = bytes([192, 0, 2, 1]) if kind == 1 else b"\xc8" + b"t" * 200
    record = struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(data)) + data
    return struct.pack("!HHHHHH", number, 0x8400, 1, 1, 0, 0) + question + record


def dig(server, *words):
    host, port = server.sockname
    command = ["dig", f"@{host}", "-p", str(port), "+short", "+tries=1", "+time=10", "+noedns", *words]
    return run(command, text=True).stdout


@needs("dig")
def test_dig_asks_over_udp(hub):
    with UDPEndpoint() as endpoint:
        endpoint.bind(HERE)

        def serve():
            while True:
                for query, sender in endpoint.receive_many():
                    endpoint.send(answer_dns(query), sender)

        serving = spawn(serve)
        names = [f"name{n}.example" for n in range(5)]
        tasks = [spawn(dig, endpoint, name, "A") for name in names]
        assert [task.result() for task in tasks] == ["192.0.2.1\n"] * 5
        assert dig(endpoint, "name.example", "TXT") == '"' + "t" * 200 + '"\n'
        serving.kill()
        serving.join()


@needs("dig")
def test_dig_asks_over_tcp(hub):
    def serve(connection):
        while head := connection.read_bytes(2):
            answer = answer_dns(connection.read_exactly(*struct.unpack("!H", head)))
            connection.writelines([struct.pack("!H", len(answer)), answer])

    with Serving(TCPServer(serve), HERE) as server:
        assert dig(server, "+tcp", "name.example", "A") == "192.0.2.1\n"


# ---- a terminal ---------------------------------------------------------------------------------

PROGRAM = """
from evergreen.io import StdinStream, StdoutStream

with StdinStream() as stdin, StdoutStream() as stdout:
    stdout.write(b"%dx%d\\n" % stdout.winsize)
    try:
        for line in stdin:
            stdout.write(b"<" + line.strip() + b">\\n")
        stdout.write(b"the end\\n")
    except KeyboardInterrupt:
        stdout.write(b"interrupted\\n")
"""


@needs("socat")
@pytest.mark.parametrize(
    "key, answer", [(b"\x04", b"the end\r\n"), (b"\x03", b"interrupted\r\n")], ids=["Ctrl-D", "Ctrl-C"]
)
def test_a_program_at_a_terminal(hub, tmp_path, key, answer):
    """Its standard streams are a pseudo-terminal: lines, their end, an interrupt, and a size."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = f"EXEC:{shlex.quote(sys.executable)} {program},pty,setsid,ctty,echo=0"
    pipe = process.PIPE
    with process.Process(["socat", "-t20", "-", command], stdin=pipe, stdout=pipe) as peer:
        with evergreen.fail_after(WITHIN):
            assert peer.stdout.readline() == b"0x0\r\n"
            peer.stdin.write(b"one\n")
            assert peer.stdout.readline() == b"<one>\r\n"
            peer.stdin.write(key)
            assert peer.stdout.readline() == answer
            peer.stdin.close()
            assert peer.wait() == 0
