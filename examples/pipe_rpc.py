#!/usr/bin/env python3
"""Calls to another process over a Unix socket: many at a time, answered in any order.

A message is its length in four bytes, and JSON. Each call has a number and a channel that waits
for the answer of that number.
"""

import itertools
import json
import os
import struct

import evergreen
from evergreen.io import PipeStream


def send(stream, message):
    data = json.dumps(message).encode()
    stream.writelines([struct.pack("!I", len(data)), data])


def receive(stream):
    """The next message; None at the end."""
    head = stream.read_bytes(4)
    return json.loads(stream.read_exactly(*struct.unpack("!I", head))) if head else None


def serve(stream, functions):
    """Answer calls until the other side closes; each in a task of its own."""

    def answer(number, name, arguments):
        try:
            send(stream, [number, functions[name](*arguments), None])
        except Exception as exc:
            send(stream, [number, None, repr(exc)])

    while (message := receive(stream)) is not None:
        evergreen.spawn(answer, *message)


class Remote:
    """The functions of the process at the other end: remote.call(name, *arguments)."""

    def __init__(self, stream):
        self._stream = stream
        self._numbers = itertools.count()
        self._waiting = {}
        self._reader = evergreen.spawn(self._read)

    def _read(self):
        while (message := receive(self._stream)) is not None:
            number, result, error = message
            self._waiting.pop(number).send((result, error))

    def call(self, name, *arguments):
        number = next(self._numbers)
        answer = self._waiting[number] = evergreen.Channel()
        send(self._stream, [number, name, arguments])
        result, error = answer.receive()
        if error is not None:
            raise RuntimeError(error)
        return result

    def close(self):
        self._stream.close()
        self._reader.join()


def slow_square(n):
    evergreen.sleep(0.05 / (n + 1))
    return n * n


def main():
    ours, theirs = PipeStream.pair()
    child = os.fork()
    if not child:
        ours.close()
        serve(theirs, {"square": slow_square, "pid": os.getpid})
        os._exit(0)
    theirs.close()
    remote = Remote(ours)
    tasks = [evergreen.spawn(remote.call, "square", n) for n in range(5)]
    print([task.result() for task in tasks])
    print(remote.call("pid") == child)
    try:
        remote.call("square", "text")
    except RuntimeError as exc:
        print(exc)
    remote.close()
    os.waitpid(child, 0)


if __name__ == "__main__":
    evergreen.run(main)
