"""An echo server behind TLS: 50 connections, 1 KiB; the servers of `workloads.echo`.

The clients do TLS in a process of their own, so the CPU time is the server's; handshakes are not measured.
Evergreen's and asyncio's streams do TLS between memory buffers, gevent, eventlet and threads on the socket.
"""

from meters import Served

from workloads import Workload
from workloads.echo import (  # noqa: F401 (they are found by their names)
    on_asyncio,
    on_eventlet,
    on_evergreen,
    on_gevent,
    on_go,
    on_protocol,
    on_threads,
)

WORKLOADS = (
    Workload(
        "tls1k",
        "echo server, TLS, 50 connections, 1 KiB",
        per="message",
        counts=(10_000,),
        meter=Served,
        options={"kind": "tls", "size": 1024, "connections": 50},
    ),
)
