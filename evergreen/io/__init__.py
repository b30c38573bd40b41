"""Input and output for tasks: streams, datagrams, TLS, files, names, processes.

Everything here reads like blocking code and switches to other tasks while it waits, over libuv
(``_evergreen_c/stream.c``) or in native threads (``_evergreen_c/work.c``).  The modules: `tcp`, `pipe`,
`tty`, `udp`, `tls`, `file`, `fs`, `dns`, `process`, `util`, `errno`.
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
