#!/usr/bin/env python3
"""Restart a server without refusing a connection: the old process hands its socket to the new one.

Run it, then run it again: `fd_restart.py PATH [PORT]`. The second finds the first at the Unix
socket PATH, gets the listening socket from it (SCM_RIGHTS), and serves on; the first finishes the
connections it has, and exits.
"""

import os
import sys

import evergreen
from evergreen.io import PipeClient, PipeServer, TCPServer


def hello(connection):
    connection.write(b"hello from %d\n" % os.getpid())
    for line in connection:
        connection.write(b"%d: " % os.getpid() + line)


def inherit(server, path):
    """Take the listening socket of the process before us; False: there is none."""
    with PipeClient() as before:
        try:
            before.connect(path, ipc=True)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        _, fds = before.recv_fds(1, 1)
        server.open(fds[0])
        before.read(1)  # it has given up the path
        return True


def main(path, port=0):
    server = TCPServer(hello)
    if not inherit(server, path):
        server.bind(("127.0.0.1", int(port)))
    print("serving on port", server.sockname[1], flush=True)
    left = []

    def hand_over(connection):
        connection.send_fds(b"!", [server])
        successor.close()  # gives up the path, and ends this connection: the new one goes on
        left.append(evergreen.spawn(server.close, timeout=30))

    successor = PipeServer(hand_over)
    successor.bind(path)
    evergreen.spawn(successor.serve)
    server.serve()
    for task in left:
        task.join()
    print("handed over", flush=True)


if __name__ == "__main__":
    evergreen.run(main, *sys.argv[1:3])
