#!/usr/bin/env python3
"""Send what is typed to an echo server and print what comes back: `echo_client.py PORT`."""

import sys

import evergreen
from evergreen.io import StdinStream, TCPClient


def show(client):
    for line in client:
        print(line.decode(), end="", flush=True)


def main(port):
    with TCPClient() as client, StdinStream() as stdin:
        client.connect(("127.0.0.1", port))
        shown = evergreen.spawn(show, client)
        for line in stdin:
            client.write(line)
        client.shutdown()  # no more from us; the answers still come
        shown.join()


if __name__ == "__main__":
    evergreen.run(main, int(sys.argv[1]))
