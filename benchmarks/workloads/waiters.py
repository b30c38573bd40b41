"""A semaphore with many waiters: does handing a permit to the longest of them depend on how many there are?

Evergreen against itself; the ratio of the two rows is the figure.  The calls of release() alone are measured,
not the tasks' waking up.
"""

from workloads import Workload

WORKLOADS = (Workload("waiters", "release() with so many waiting", per="release", counts=(1_000, 100_000)),)


def on_evergreen(count, meter):
    from evergreen import sleep, spawn
    from evergreen.locks import Semaphore

    permits = Semaphore(0)
    tasks = [spawn(permits.acquire) for _ in range(count)]
    sleep(0)
    release = permits.release
    with meter:
        for _ in range(count):
            release()
    for task in tasks:
        task.join()
