#!/usr/bin/env python3
"""Producers that are quicker than the consumers wait for them: a queue with a maxsize is all it takes.

    python examples/producer_consumer.py --items 200 --room 10 --consumers 4

The producer could make items without end; the queue has room for a few, so it is never far ahead, and
memory stays what it is.  When it is done it shuts the queue down: the consumers take what is left, and end.
"""

import argparse

import evergreen
from evergreen import TaskGroup, sleep
from evergreen.queue import Queue, ShutDown


def produce(queue, items, made):
    """Put items as fast as there is room for them, then end it."""
    for number in range(items):
        queue.put(number)  # waits while the queue is full
        made.append(number)
    queue.shutdown()


def consume(queue, used):
    """Use items, each for a while, until there are none any more."""
    try:
        while True:
            item = queue.get()
            sleep(0.001)  # stands for work that waits
            used.append(item)
    except ShutDown:
        pass


def watch(queue, made, used, most):
    """Note how far ahead the producer gets."""
    while len(used) < len(made) or not queue.is_shutdown:
        most.append(len(made) - len(used))
        sleep(0.0005)


def main(items, room, consumers):
    queue, made, used, most = Queue(maxsize=room), [], [], [0]
    with TaskGroup() as group:
        group.spawn(produce, queue, items, made)
        for _ in range(consumers):
            group.spawn(consume, queue, used)
        group.spawn(watch, queue, made, used, most)
    assert sorted(used) == list(range(items))
    print(f"{len(used)} items used; the producer was at most {max(most)} ahead, with room for {room}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--room", type=int, default=10, help="items the queue has room for")
    parser.add_argument("--consumers", type=int, default=4)
    arguments = parser.parse_args()
    evergreen.run(main, arguments.items, arguments.room, arguments.consumers)
