"""What is measured, or measures, in other languages: compiled when its source is newer, run, and asked.

The sources are in ``native/``, what is made of them in ``build/bench/``.  A program that measures itself
prints ``{"cpu": seconds, "wall": seconds}``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from meters import Clock

__all__ = ["BUILD", "Clients", "certificate", "pages", "serve", "switch", "work"]

NATIVE = Path(__file__).with_name("native")
BUILD = NATIVE.parent.parent / "build" / "bench"


# ---- compiling -----------------------------------------------------------------------------------


def _compiled(name: str, source: str, *command: str, then: tuple[str, ...] = ()) -> Path:
    """Return the program *name*: what *command* ``-o`` it makes of the *source*, with *then* after that."""
    program, code = BUILD / name, NATIVE / source
    if not program.exists() or program.stat().st_mtime < code.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        made = BUILD / f"{name}.{os.getpid()}"  # the name is taken when it is whole
        subprocess.run([*command, "-o", str(made), str(code), *then], check=True)
        made.replace(program)
    return program


def _package(name: str, what: str) -> list[str]:
    return subprocess.run(
        ["pkg-config", what, name], check=True, capture_output=True, text=True
    ).stdout.split()


def _load(tls: bool) -> Path:
    if tls:
        return _compiled("load_tls", "load.c", "cc", "-O2", "-DWITH_TLS", then=("-lssl", "-lcrypto"))
    return _compiled("load", "load.c", "cc", "-O2")


def _uvserver() -> Path:
    flags = _package("libuv", "--cflags")
    return _compiled("uvserver", "uvserver.c", "cc", "-O2", *flags, then=tuple(_package("libuv", "--libs")))


def _go() -> Path:
    return _compiled("gobench", "bench.go", "go", "build")


def switch():
    """Return the module ``switch``: greenlets whose bodies are in C."""
    import greenlet

    folders = sysconfig.get_path("include"), Path(greenlet.__file__).parent.parent
    program = _compiled(
        f"switch{sysconfig.get_config_var('EXT_SUFFIX')}",
        "switch.c",
        "cc",
        "-O2",
        "-shared",
        "-fPIC",
        *(f"-I{folder}" for folder in folders),
    )
    spec = importlib.util.spec_from_file_location("switch", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- TLS -----------------------------------------------------------------------------------------


def certificate() -> tuple[Path, Path]:
    """Return a certificate of 127.0.0.1 and its key, made once."""
    paths = BUILD / "certificate.pem", BUILD / "key.pem"
    if not all(path.exists() for path in paths):
        BUILD.mkdir(parents=True, exist_ok=True)
        made = [path.with_suffix(f".{os.getpid()}") for path in paths]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            + ["-days", "3650", "-subj", "/CN=127.0.0.1", "-out", made[0], "-keyout", made[1]],
            check=True,
            capture_output=True,
        )
        for path, whole in zip(paths, made, strict=True):
            whole.replace(path)
    return paths


# ---- clients -------------------------------------------------------------------------------------


class Clients:
    """The clients of a server, in another process (``native/load.c``).

    Its methods do not block, but for `wait_ready`, which is for servers in other processes or threads, and
    `finish`; so each framework may wait for `ready` in its own way.
    """

    def __init__(self, kind, where, size, count, connections, idle=0):
        self._process = subprocess.Popen(
            [_load(kind == "tls"), kind, *map(str, (where, connections, size, count, idle))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        os.set_blocking(self._process.stdout.fileno(), False)

    def ready(self):
        """Return whether all connections are made."""
        try:
            said = os.read(self._process.stdout.fileno(), 100)
        except BlockingIOError:
            return False
        if not said:
            raise RuntimeError("the clients gave up")
        return True

    def wait_ready(self):
        os.set_blocking(self._process.stdout.fileno(), True)
        self.ready()

    def go(self):
        """Let them begin."""
        os.write(self._process.stdin.fileno(), b"\n")

    def finish(self, meter):
        """Tell *meter* how long messages took, and end them with their idle connections."""
        os.set_blocking(self._process.stdout.fileno(), True)
        meter.latencies(json.loads(os.read(self._process.stdout.fileno(), 1000)))
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


# ---- servers and work in other languages ---------------------------------------------------------


def serve(language, meter, kind, size, count, connections, ends=None, idle=0):
    """Measure a server that is a process of its own, until *ends* connections have ended (all of them)."""
    program = [_uvserver()] if language == "libuv" else [_go(), "serve"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*program, kind, f"{folder}/socket", str(ends or connections)]
        if kind == "tls":
            command += map(str, certificate())
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with server:
            where = server.stdout.readline().decode().strip()
            clients = Clients(kind, where, size, count, connections, idle)
            clients.wait_ready()
            server.stdin.write(b"\n")
            server.stdin.flush()
            server.stdout.readline()
            clients.go()
            meter.add(**json.loads(server.stdout.readline()))
            clients.finish(meter)


def work(meter: Clock, name, count, tasks=0):
    """Measure the work *name* of ``native/bench.go``."""
    done = subprocess.run([_go(), name, str(count), str(tasks)], check=True, capture_output=True)
    meter.add(**json.loads(done.stdout))


@contextlib.contextmanager
def pages() -> Iterator[int]:
    """Run an HTTP server with small pages (``native/pages.c``); the port is what ``with`` gives."""
    server = subprocess.Popen(
        [_compiled("pages", "pages.c", "cc", "-O2")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield int(server.stdout.readline())
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()
