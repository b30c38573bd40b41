import time

import evergreen
from evergreen import patcher

patcher.patch()  # from here on, a call that blocks lets other tasks run


def work(number):
    time.sleep(1)  # stands for any call that waits: a socket, a lock, a queue
    return number * number


tasks = [evergreen.spawn(work, number) for number in range(1000)]
print(sum(task.result() for task in tasks), "after one second, not a thousand")
