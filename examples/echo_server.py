#!/usr/bin/env python3
"""Echo lines over TCP: `echo_server.py [PORT]`. Try it with examples/echo_client.py, or nc."""

import sys

import evergreen
from evergreen.io import TCPServer


def echo(connection):
    print("connected:", connection.peername[0], flush=True)
    for line in connection:
        connection.write(line)
    print("gone", flush=True)


def main(port=1234):
    server = TCPServer(echo)
    server.bind(("127.0.0.1", port))
    print("listening on port", server.sockname[1], flush=True)
    server.serve()


if __name__ == "__main__":
    try:
        evergreen.run(main, *map(int, sys.argv[1:2]))
    except KeyboardInterrupt:
        pass
