#!/usr/bin/env python3
"""Ask several servers at once, and be done in time: a group of tasks, and deadlines around it.

    python examples/groups.py

Each "server" below only sleeps; put any call that waits in its place.  What to look at:

- the block of a `TaskGroup` does not end before its tasks have;
- the first failure kills the other tasks, and comes out as an ``ExceptionGroup``;
- ``move_on_after`` and ``fail_after`` bound all of that, however deep it waits;
- a task that is killed cleans up first, and a ``shield`` lets it finish.
"""

import evergreen
from evergreen import TaskGroup, fail_after, move_on_after, shield, sleep


def ask(server, seconds, answers):
    """Get an answer from *server*, which takes so many seconds."""
    try:
        sleep(seconds)
        answers[server] = "ok"
    finally:
        if server not in answers:
            with shield(), move_on_after(1):  # say goodbye, but not for ever
                sleep(0.001)
            print(f"  hung up on {server}")


def refuse():
    """A server that is down."""
    sleep(0.002)
    raise ConnectionRefusedError("grace is down")


def everybody():
    """All of them answer."""
    answers = {}
    with TaskGroup() as group:
        group.spawn(ask, "ada", 0.02, answers)
        group.spawn(ask, "barbara", 0.01, answers)
    print("everybody:", ", ".join(answers))


def in_time():
    """Whoever answers in time."""
    answers = {}
    with move_on_after(0.05) as scope:
        with TaskGroup() as group:
            group.spawn(ask, "ada", 0.01, answers)
            group.spawn(ask, "barbara", 3600, answers)
    print("in time:", ", ".join(answers), "(expired)" if scope.expired else "")


def all_or_nothing():
    """One is down, so the others are of no use."""
    answers = {}
    try:
        with fail_after(5), TaskGroup() as group:
            group.spawn(ask, "ada", 3600, answers)
            group.spawn(refuse)
    except* ConnectionRefusedError as failures:
        print("all or nothing:", failures.exceptions[0])


def first():
    """The quickest answer is enough."""
    answers = {}
    with TaskGroup() as group:
        for server, seconds in (("ada", 3600), ("barbara", 0.01)):
            group.spawn(ask, server, seconds, answers)
        evergreen.wait(group.tasks, count=1)
        group.kill(reason="somebody was quicker")
    print("first:", *answers)


def main():
    for job in (everybody, in_time, all_or_nothing, first):
        job()


if __name__ == "__main__":
    evergreen.run(main)
