#!/usr/bin/env python3
"""Measure round trips of datagrams: `udp_ping.py [HOST PORT]`; without them, to itself."""

import sys
import time

import evergreen
from evergreen.io import UDPEndpoint
from evergreen.timeout import Timeout


def answer(endpoint):
    while True:
        endpoint.send(*endpoint.receive())


def ping(target, count=5, patience=1.0):
    with UDPEndpoint() as endpoint:
        endpoint.connect(target)
        for number in range(count):
            began = time.perf_counter()
            endpoint.send(b"%d" % number)
            with Timeout(patience, False):
                while endpoint.receive()[0] != b"%d" % number:
                    pass  # a late answer to an earlier one
                print(f"{number}: {(time.perf_counter() - began) * 1e6:.0f} us")
                continue
            print(f"{number}: lost")


def main(host=None, port=None):
    if host is not None:
        ping((host, int(port)))
        return
    with UDPEndpoint() as here:
        here.bind(("127.0.0.1", 0))
        server = evergreen.spawn(answer, here)
        ping(here.sockname)
        server.kill()
        server.join()


if __name__ == "__main__":
    evergreen.run(main, *sys.argv[1:3])
