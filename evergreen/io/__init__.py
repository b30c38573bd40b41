"""Streams and datagrams for tasks: TCP, Unix sockets and pipes, terminals, UDP.

Everything here reads like blocking code and switches to other tasks while it waits, over libuv
(``_evergreen_c/stream.c``).  The modules: `tcp`, `pipe`, `tty`, `udp`, `util`, `errno`.
"""

from evergreen.io import errno
from evergreen.io.pipe import PipeClient, PipeConnection, PipeError, PipeServer, PipeStream
from evergreen.io.tcp import TCPClient, TCPConnection, TCPError, TCPServer
from evergreen.io.tty import StderrStream, StdinStream, StdoutStream, TTYError, TTYStream
from evergreen.io.udp import UDPEndpoint, UDPError

__all__ = [
    "PipeClient",
    "PipeConnection",
    "PipeError",
    "PipeServer",
    "PipeStream",
    "StderrStream",
    "StdinStream",
    "StdoutStream",
    "TCPClient",
    "TCPConnection",
    "TCPError",
    "TCPServer",
    "TTYError",
    "TTYStream",
    "UDPEndpoint",
    "UDPError",
    "errno",
]
