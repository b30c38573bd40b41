#!/usr/bin/env python3
"""Count primes in several processes while a task of this one keeps a clock.

Usage: process_pool.py [processes]
"""

import sys
import time

import evergreen
from evergreen.futures import ProcessPoolExecutor, as_completed

LIMIT, PARTS = 200_000, 10


def count_primes(start, end):
    """How many primes there are from *start* to before *end*; it computes, and never waits."""
    return sum(n > 1 and all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(start, end))


def clock(beats):
    while True:
        beats.append(time.monotonic())
        evergreen.sleep(0.01)


def main(processes=2):
    beats = []
    ticking = evergreen.spawn(clock, beats)
    step = LIMIT // PARTS
    with ProcessPoolExecutor(processes) as pool:
        parts = {pool.submit(count_primes, start, start + step): start for start in range(0, LIMIT, step)}
        for future in as_completed(parts):
            print(f"from {parts[future]:6}: {future.result():5}")
    ticking.kill()
    total = sum(future.result() for future in parts)
    print(f"{total} primes below {LIMIT}; the clock went on: {len(beats) > 2}")


if __name__ == "__main__":  # processes may import this file
    evergreen.run(main, *map(int, sys.argv[1:]))
