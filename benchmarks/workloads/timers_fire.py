"""Timers that fire, 1,000 each millisecond, in no order: does each cost the same among many as among few?

Evergreen against itself, as in `workloads.growth`.  Waiting is not counted, as it costs no CPU time.
"""

from workloads import Workload

WORKLOADS = (
    Workload(
        "timers_fire",
        "timers that fire, as the number grows",
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
    milliseconds = count // 1000
    with meter:
        for number in range(count):
            call_later((1 + number * 7919 % milliseconds) / 1000, fire)
        done.wait()
