#!/usr/bin/env python3
"""Serve a documentation tree and crawl it, a hundred pages at a time, in one process and one thread.

    python examples/demo.py [DIRECTORY]

The server is the standard library's `ThreadingHTTPServer`, which starts a thread for each connection; the
client is `crawler.py`, on `requests`.  Neither library knows of Evergreen.  Patched, the server's threads are
tasks like the crawler's workers, and all of them take turns in the one thread the process started with.

Without DIRECTORY it serves Python's own documentation, from Debian's package python3-doc.

Exit codes: 0, 1 if the crawl missed pages or met an error that the tree does not explain, 2 if there is
nothing to crawl, 130 after Ctrl-C.
"""

import argparse
import glob
import os
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from crawler import BrokenLink, Crawler, CrawlError, Report, progress

import evergreen
from evergreen import patcher

CONCURRENCY = 100
ENOUGH = 300  # pages


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description="Crawl a tree of documentation in one thread.")
    parser.add_argument("directory", nargs="?", type=Path, help="HTML files (default: Debian's python3-doc)")
    tree = parser.parse_args().directory or find_tree()
    if tree is None:
        return refuse("found no documentation: install Debian's python3-doc or name a directory of HTML")
    if (pages := count_pages(tree)) < ENOUGH:
        return refuse(f"{tree} has {pages} HTML pages, the demo wants at least {ENOUGH}")

    patcher.patch()
    os.environ["no_proxy"] = "127.0.0.1"  # else `requests` may ask the user's proxy for it
    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(tree)))
    accepting = evergreen.spawn(server.serve_forever)
    url = f"http://127.0.0.1:{server.server_port}/"
    print(f"Serving {pages} pages of {tree} at {url}, crawling them with {CONCURRENCY} tasks")
    crawl_threads = set()

    try:
        with progress() as show:

            def on_page(crawler: Crawler) -> None:
                crawl_threads.add(threading.get_native_id())
                show(crawler)

            report = Crawler(url, concurrency=CONCURRENCY, timeout=60.0).run(on_page)
    except CrawlError as error:
        return refuse(str(error))
    finally:
        server.shutdown()
        accepting.join()
        server.server_close()

    print(report)
    threads = crawl_threads | Handler.threads
    print(
        f"{CONCURRENCY} tasks crawled and, at the peak, {Handler.peak} tasks served, "
        + ("all in one native thread" if len(threads) == 1 else f"in {len(threads)} native threads")
    )
    faults = check(report, tree, len(threads))
    for fault in faults:
        print(f"demo: {fault}", file=sys.stderr)
    if report.interrupted:
        return 130
    return 1 if faults else 0


class Server(ThreadingHTTPServer):
    request_queue_size = 2 * CONCURRENCY  # all connect at once; five, the default, would make them wait

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(
            sys.exception(), ConnectionError
        ):  # a client that hung up is none: Ctrl-C does that
            super().handle_error(request, client_address)


class Handler(SimpleHTTPRequestHandler):
    """Serves files, quietly, over connections that are kept, and counts the tasks that do it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the header is sent before the file: do not hold back the file's end
    threads: set[int] = set()
    live = peak = 0

    def setup(self) -> None:
        super().setup()
        Handler.threads.add(threading.get_native_id())
        Handler.live += 1
        Handler.peak = max(Handler.peak, Handler.live)

    def finish(self) -> None:
        Handler.live -= 1
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass


def find_tree() -> Path | None:
    """Return the directory of Debian's Python documentation with the most pages; None if there is none."""
    trees = {Path(path).resolve() for path in glob.glob("/usr/share/doc/python3*/html")}
    return max(trees, key=count_pages, default=None)


def count_pages(tree: Path) -> int:
    return sum(1 for _ in tree.rglob("*.html"))


def check(report: Report, tree: Path, threads: int) -> list[str]:
    """Return what is wrong with the crawl, a sentence each."""
    faults = []
    if report.interrupted:
        return faults
    if report.pages < ENOUGH:
        faults.append(f"only {report.pages} pages were crawled")
    if report.cut:
        faults.append(f"{report.cut} pages were cut short")
    if threads != 1:
        faults.append(f"the crawl took {threads} native threads")
    unexpected = [link for link in report.broken if not missing(link, tree)]
    faults += [f"{link.url} should be there: {link.reason}" for link in unexpected]
    return faults


def missing(link: BrokenLink, tree: Path) -> bool:
    """Return whether the tree itself lacks what *link* leads to, so that 404 is the right answer."""
    return link.status == 404 and not (tree / unquote(urlsplit(link.url).path).lstrip("/")).exists()


def refuse(reason: str) -> int:
    print(f"demo: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
