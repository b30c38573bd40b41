"""Tasks made, parked on one event, woken and ended: does each cost the same among 1,000,000 as among 50,000?

Evergreen against itself; the ratio of the two rows is the figure.  The larger one needs about 4 GB of
memory.
"""

from itertools import count as counter

from workloads import Workload

WORKLOADS = (
    Workload(
        "growth",
        "spawn, park, wake, join, as the number grows",
        per="task",
        counts=(50_000, 1_000_000),
        quick=False,
    ),
)


def on_evergreen(count, meter):
    from evergreen import event, sleep, spawn

    def park():
        next(parked)
        gate.wait()

    parked, gate = counter(), event.Event()
    with meter:
        tasks = [spawn(park) for _ in range(count)]
        sleep(0)
        assert next(parked) == count
        gate.set()
        for task in tasks:
            task.join()
