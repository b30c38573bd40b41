#!/usr/bin/env python3
"""A chat room over TCP: `chat_server.py [PORT]`, then several times `nc 127.0.0.1 PORT`.

Everybody who is slow to read is given the time of one timeout, and then dropped: a room must not
wait for its slowest member, nor keep what that one does not read.
"""

import sys

import evergreen
from evergreen.io import TCPError, TCPServer
from evergreen.timeout import Timeout

members = {}


def tell(text, but=None):
    for connection in list(members):
        if connection is not but:
            evergreen.spawn(tell_one, connection, text.encode())


def tell_one(connection, data):
    try:
        with Timeout(5, TimeoutError):
            connection.write(data)
    except (TCPError, TimeoutError):
        connection.abort()


def chat(connection):
    connection.write(b"your name? ")
    name = connection.readline(limit=100).decode(errors="replace").strip() or "nobody"
    members[connection] = name
    tell(f"* {name} has come; {len(members)} here\n")
    try:
        for line in connection:
            tell(f"{name}: {line.decode(errors='replace')}", but=connection)
    finally:
        del members[connection]
        tell(f"* {name} has left\n")


def main(port=1235):
    server = TCPServer(chat, max_connections=1000)
    server.bind(("127.0.0.1", port))
    print("listening on port", server.sockname[1], flush=True)
    server.serve()


if __name__ == "__main__":
    try:
        evergreen.run(main, *map(int, sys.argv[1:2]))
    except KeyboardInterrupt:
        pass
