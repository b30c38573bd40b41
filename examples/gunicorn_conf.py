"""gunicorn -c gunicorn_conf.py package:app: threads are tasks, so a worker may have a thousand of them."""

import multiprocessing

from evergreen import patcher

worker_class = "gthread"  # a pool of threads, and those are tasks in a patched process
threads = 1000  # requests that a worker serves at a time
worker_connections = 2000  # connections that it keeps, those that wait for their next request included
workers = multiprocessing.cpu_count()


def post_fork(server, worker):
    patcher.patch()  # in the workers: the master forks, and needs none of this
