"""The examples of streams and datagrams, each as its user runs it."""

import contextlib
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *args, **options):
    command = [sys.executable, EXAMPLES / name, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@contextlib.contextmanager
def server(name, *args):
    """A server that is running, and its port."""
    child = subprocess.Popen(
        [sys.executable, EXAMPLES / name, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = child.stdout.readline()
        yield child, int(re.search(r"port (\d+)", first)[1])
    finally:
        child.terminate()
        child.communicate()


def lines(port):
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    return sock, sock.makefile()


def test_echo_server_and_client():
    with server("echo_server.py", 0) as (_, port):
        assert run("echo_client.py", port, input="one\ntwo\n") == "one\ntwo\n"


@pytest.mark.parametrize("name", ["echo_server.py", "chat_server.py"])
def test_clients_that_reset_their_connections_leave_nothing_on_stderr(name):
    with server(name, 0) as (child, port):
        for sent in (b"", b"x", b"name\n", b"name\nline\n"):
            sock = socket.create_connection(("127.0.0.1", port), timeout=30)
            sock.sendall(sent)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        sock, file = lines(port)
        with sock, file:
            sock.sendall(b"after\n")
            assert "after" in file.readline()
        child.terminate()
        assert child.communicate()[1] == ""


def test_chat_server():
    with server("chat_server.py", 0) as (_, port):
        (ada, ada_file), (bob, bob_file) = lines(port), lines(port)
        with ada, bob, ada_file, bob_file:
            ada.sendall(b"Ada\n")
            assert ada_file.readline() == "your name? * Ada has come; 1 here\n"
            bob.sendall(b"Bob\n")
            assert bob_file.readline() == "your name? * Bob has come; 2 here\n"
            assert ada_file.readline() == "* Bob has come; 2 here\n"
            bob.sendall(b"hello\n")
            assert ada_file.readline() == "Bob: hello\n"
            bob.shutdown(socket.SHUT_RDWR)
            assert ada_file.readline() == "* Bob has left\n"


def test_udp_ping():
    out = run("udp_ping.py")
    assert re.fullmatch(r"(\d: \d+ us\n){5}", out)


def test_fd_restart(tmp_path):
    path = tmp_path / "control"
    with server("fd_restart.py", path, 0) as (old, port):
        kept, kept_file = lines(port)
        with kept, kept_file:
            assert kept_file.readline() == f"hello from {old.pid}\n"
            with server("fd_restart.py", path) as (new, same_port):
                assert same_port == port
                sock, file = lines(port)
                with sock, file:
                    assert file.readline() == f"hello from {new.pid}\n"
                kept.sendall(b"still here?\n")
                assert kept_file.readline() == f"{old.pid}: still here?\n"
                kept.shutdown(socket.SHUT_RDWR)
                assert old.stdout.readline() == "handed over\n"
                assert old.wait(30) == 0


def test_pipe_rpc():
    out = run("pipe_rpc.py").splitlines()
    assert out[:2] == ["[0, 1, 4, 9, 16]", "True"]
    assert "TypeError" in out[2]
