"""5,000 pages of 1 KiB, fetched by 100 workers with libraries that know nothing of the framework.

The server is a process of its own, in C (``native/pages.c``), so the CPU time is the client's.  The workers
share one pool of 100 connections, which are kept open.
"""

from programs import pages

from workloads import Workload

WORKERS = 100
WORKLOADS = (
    Workload(
        "crawl_urllib3",
        "crawl with urllib3, 100 workers",
        per="page",
        counts=(5_000,),
        options={"library": "urllib3"},
        warm_up=200,
        quick=False,
    ),
    Workload(
        "crawl_requests",
        "crawl with requests, 100 workers",
        per="page",
        counts=(5_000,),
        options={"library": "requests"},
        warm_up=200,
        quick=False,
    ),
)


def crawl(count, meter, library, in_workers):
    """Have ``in_workers(fetch, urls)`` fetch every page."""
    with pages() as port:
        fetch = FETCHERS[library]()
        urls = [f"http://127.0.0.1:{port}/{number}" for number in range(count)]
        with meter:
            sizes = in_workers(fetch, urls)
        assert sizes == [1024] * count


def with_urllib3():
    import urllib3

    pool = urllib3.PoolManager(num_pools=1, maxsize=WORKERS)
    return lambda url: len(pool.request("GET", url).data)


def with_requests():
    import requests

    session = requests.Session()
    session.trust_env = False
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=WORKERS))
    return lambda url: len(session.get(url).content)


FETCHERS = {"urllib3": with_urllib3, "requests": with_requests}


def on_evergreen(count, meter, library):
    from evergreen import patcher
    from evergreen.pool import Pool

    def in_workers(fetch, urls):
        with Pool(WORKERS) as pool:
            return list(pool.map(fetch, urls))

    patcher.patch()
    crawl(count, meter, library, in_workers)


def on_gevent(count, meter, library):
    import gevent.monkey

    gevent.monkey.patch_all()
    from gevent.pool import Pool

    crawl(count, meter, library, lambda fetch, urls: Pool(WORKERS).map(fetch, urls))


def on_eventlet(count, meter, library):
    import eventlet

    eventlet.monkey_patch()
    from eventlet import GreenPool

    crawl(count, meter, library, lambda fetch, urls: list(GreenPool(WORKERS).imap(fetch, urls)))


def on_threads(count, meter, library):
    from concurrent.futures import ThreadPoolExecutor

    def in_workers(fetch, urls):
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(fetch, urls))

    crawl(count, meter, library, in_workers)
