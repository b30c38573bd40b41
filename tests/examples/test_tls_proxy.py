"""examples/tls_proxy.py: a command that puts TLS before a plain server."""

import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROXY = Path(__file__).parents[2] / "examples" / "tls_proxy.py"
PEM = Path(__file__).parents[1] / "data" / "localhost.pem"
PATIENCE = 60  # seconds until a test that hangs fails


@pytest.fixture
def shouter():
    """A plain server that answers each connection in capitals, and ends when it has."""

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(4096):
                    connection.sendall(data.upper())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield "{}:{}".format(*listener.getsockname())
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE)


def test_tls_in_front_of_a_plain_server(shouter):
    command = [sys.executable, "-u", PROXY, PEM, "127.0.0.1:0", shouter]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as proxy:
        try:
            port = int(re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", proxy.stdout.readline())[1])
            context = ssl.create_default_context(cafile=PEM)
            for _ in range(2):
                plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
                with context.wrap_socket(plain, server_hostname="localhost") as client:
                    client.sendall(b"hello")
                    assert client.recv(100) == b"HELLO"
            proxy.send_signal(signal.SIGINT)
            assert proxy.wait(PATIENCE) == 0
            assert proxy.stderr.read() == ""
        finally:
            proxy.kill()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.pem", "127.0.0.1:0", "127.0.0.1:1"], "missing.pem"),
        ([PEM, "nonsense", "127.0.0.1:1"], "not host:port"),
        ([PEM, "192.0.2.1:1", "127.0.0.1:1"], "192.0.2.1"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, said):
    done = subprocess.run(
        [sys.executable, PROXY, *arguments], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
