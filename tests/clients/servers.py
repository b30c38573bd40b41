"""Private servers: processes on free ports of the loopback, ended with the block that starts them."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import pytest


def free_port():
    """A port that nobody listens at. Somebody else might take it first, but the kernel goes round."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def need(*commands, also=()):
    """The paths of these commands, or skip the test."""
    folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin", *also])
    found = [shutil.which(command, path=folders) for command in commands]
    for command, path in zip(commands, found, strict=True):
        if path is None:
            pytest.skip(f"{command} is not installed")
    return found


def as_nobody(folder):
    """The start of a command line for servers that refuse to run as root; the folder becomes theirs."""
    if os.getuid() != 0:
        return []
    (setpriv,) = need("setpriv")
    subprocess.run(["chown", "-R", "65534:65534", folder], check=True)
    return [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"]


@contextlib.contextmanager
def new_folder(name):
    """A folder for a server. Not one of pytest's: each run of pytest closes those to other users."""
    with tempfile.TemporaryDirectory(prefix=f"evergreen-{name}-") as folder:
        yield pathlib.Path(folder)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


@contextlib.contextmanager
def process(command, port, log, patience=60, **kwargs):
    """A server process, once it listens at its port."""
    with open(log, "ab") as output:
        child = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, **kwargs
        )
    try:
        deadline = time.monotonic() + patience
        while not listens(port):
            assert child.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.02)
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def threaded(server):
    """A `socketserver` server in a native thread; yields its port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)


@contextlib.contextmanager
def redis():
    """A Redis server; yields its port."""
    (binary,) = need("redis-server")
    with new_folder("redis") as folder:
        port = free_port()
        command = [
            *as_nobody(folder),
            binary,
            "--port",
            port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            folder,
        ]
        with process(command, port, folder / "log"):
            yield port


@contextlib.contextmanager
def postgres():
    """A PostgreSQL server that trusts everybody as user ``postgres``; yields its port."""
    also = [str(path) for path in sorted(_debian_postgres(), reverse=True)]
    initdb, binary = need("initdb", "postgres", also=also)
    # The daemon wants its own executables beside it, not links to them.
    initdb, binary = os.path.realpath(initdb), os.path.realpath(binary)
    with new_folder("postgres") as folder:
        port, data, user = free_port(), folder / "data", as_nobody(folder)
        made = subprocess.run(
            [*user, initdb, "-D", data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"],
            capture_output=True,
            text=True,
            cwd=folder,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        options = [
            "fsync=off",
            "max_connections=60",
            f"unix_socket_directories={folder}",
            "listen_addresses=127.0.0.1",
        ]
        command = [*user, binary, "-D", data, "-p", port]
        for option in options:
            command += ["-c", option]
        with process(command, port, folder / "log", cwd=folder):
            deadline = time.monotonic() + 60
            while "ready to accept" not in (folder / "log").read_text():
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.02)
            yield port


def _debian_postgres():
    return pathlib.Path("/usr/lib/postgresql").glob("*/bin")


@contextlib.contextmanager
def mariadb():
    """A MariaDB server with a user ``root`` without a password; yields its port."""
    binary, install = need("mariadbd", "mariadb-install-db")
    with new_folder("mariadb") as folder:
        port, data, user = free_port(), folder / "data", as_nobody(folder)
        made = subprocess.run(
            [
                *user,
                install,
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
            ],
            capture_output=True,
            text=True,
            cwd=folder,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        options = [
            f"--datadir={data}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={folder}/sock",
        ]
        options += [f"--pid-file={folder}/pid", "--innodb-flush-log-at-trx-commit=0"]
        with process([*user, binary, "--no-defaults", *options], port, folder / "log", cwd=folder):
            yield port
