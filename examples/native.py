"""C code that blocks, in tasks: run me with ``evergreen run --native examples/native.py``.

usleep() stands for a database driver that waits in the C library. Without ``--native`` each call stops
the thread, and the clock with it.
"""

import ctypes
import time

import evergreen
from evergreen import native

libc = ctypes.CDLL(None)
ticks = 0


def clock():
    global ticks
    while True:
        evergreen.sleep(0.01)
        ticks += 1


start = time.monotonic()
ticking = evergreen.spawn(clock)
calls = [evergreen.spawn(libc.usleep, 100_000) for _ in range(20)]
for call in calls:
    call.result()
ticking.kill()

print(f"native: {native.status().active}; calls that parked: {native.status().caught}")
print(f"20 calls of 0.1 s took {time.monotonic() - start:.1f} s; the clock ticked {ticks} times")
