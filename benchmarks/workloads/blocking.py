"""Calls that block: files, names, children; beside the plain call, which stops the thread."""

import os
import tempfile

from meters import WallClock

from workloads import Workload

WORKLOADS = (
    Workload(
        "read4k", "read 4 KiB that the page cache has", per="read", counts=(50_000,), options={"what": "read"}
    ),
    Workload("stat", "stat a file", per="call", counts=(3_000,), options={"what": "stat"}, warm_up=100),
    Workload(
        "name",
        "look up a name of /etc/hosts",
        per="name",
        counts=(2_000,),
        options={"what": "name"},
        warm_up=100,
    ),
    Workload(
        "child",
        "run true, and wait for it",
        per="child",
        counts=(100,),
        meter=WallClock,
        options={"what": "child"},
        warm_up=10,
    ),
)


def _measure(count, meter, what, read, stat, name, child):
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(8192))
        file.flush()
        fd = file.fileno()
        calls = {
            "read": read and (lambda: read(fd)),
            "stat": stat and (lambda: stat(file.name)),
            "name": lambda: name("localhost", 80),
            "child": child,
        }
        call = calls[what]
        with meter:
            for _ in range(count):
                call()


def on_evergreen(count, meter, what):
    from evergreen.io import dns, fs, process

    def read(fd):
        fs.read(fd, 4096, 0)

    _measure(count, meter, what, read, fs.stat, dns.getaddrinfo, lambda: process.run(["true"]))


def on_gevent(count, meter, what):
    import gevent
    from gevent import socket, subprocess

    pool = gevent.get_hub().threadpool

    def read(fd):
        pool.apply(os.pread, (fd, 4096, 0))

    def stat(path):
        pool.apply(os.stat, (path,))

    _measure(count, meter, what, read, stat, socket.getaddrinfo, lambda: subprocess.run(["true"]))


def on_plain(count, meter, what):
    import socket
    import subprocess

    def read(fd):
        os.pread(fd, 4096, 0)

    _measure(count, meter, what, read, os.stat, socket.getaddrinfo, lambda: subprocess.run(["true"]))
