"""Timers that fire within a second, in no order: does each cost the same among 1,000,000 as among 50,000?

Evergreen against itself, as in `workloads.growth`.  Waiting is not counted, as it costs no CPU time.
"""

from workloads import Workload

WORKLOADS = (
    Workload(
        "timers_fire",
        "timers that fire within a second, as the number grows",
        per="timer",
        counts=(50_000, 1_000_000),
        quick=False,
    ),
)


def on_evergreen(count, meter):
    from evergreen import EventLoop, event

    def fire():
        nonlocal left
        left -= 1
        if not left:
            done.set()

    call_later, left, done = EventLoop.current().call_later, count, event.Event()
    with meter:
        for number in range(count):
            call_later((1 + number * 7919 % 1000) / 1000, fire)
        done.wait()
