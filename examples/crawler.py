#!/usr/bin/env python3
"""Crawl a web site and report its broken links: blocking code, a hundred pages at a time, one thread.

    pip install evergreen requests rich
    python examples/crawler.py https://example.org/ --concurrency 50 --json report.json

Nothing below knows about an event loop.  `requests` waits for sockets, `queue.Queue` for work, `time.sleep`
for the clock; each is an ordinary blocking call, and after ``patcher.patch()`` it blocks its task only.
What Evergreen adds are three names:

- ``patcher.patch()`` in `main`, after every import: a patch in place does not mind what came first;
- ``evergreen.spawn``: each worker is a task;
- ``Timeout``: a deadline for a whole request, however many blocking calls `requests` makes of it.

It follows the links of ``a``, ``area``, ``iframe`` and ``frame``, over http and https, on the host it was
given.  Links to other hosts are counted, not followed.  robots.txt is honoured (RFC 9309, and Crawl-delay).
A link is broken if its host is ours and it answers 4xx or 5xx, or does not answer.

Exit codes: 0, or 1 with ``--strict`` and broken links, 2 if there was nothing to crawl, 130 after Ctrl-C.
"""

import argparse
import codecs
import dataclasses
import http
import itertools
import json
import queue
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from email.message import Message
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit
from urllib.robotparser import RobotFileParser

import requests
import urllib3
from requests.utils import requote_uri
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from urllib3.util import parse_url

import evergreen
from evergreen import patcher
from evergreen.timeout import Timeout

__all__ = ["BrokenLink", "CrawlError", "Crawler", "Report"]

AGENT = "evergreen-crawler"
LINKS = {"a": "href", "area": "href", "iframe": "src", "frame": "src"}
DEFAULT_PORTS = {"http": 80, "https": 443}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BLOCK = 64 * 1024  # bytes taken from a response at once, and characters parsed before others get a turn
MAX_BODY = 16 * 1024 * 1024
# What `requests` raises when an answer makes no sense; it lets some through that are not its own.
UNUSABLE = (requests.RequestException, urllib3.exceptions.HTTPError, ValueError)
FIRST_BACKOFF = 0.25  # seconds before the first retry; doubled for each that follows


class CrawlError(Exception):
    """There is nothing to crawl: a bad URL, a host that cannot be reached, a start page that is not there."""


# ---- what comes out --------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class BrokenLink:
    """An address that pages point to and that cannot be had."""

    url: str
    status: int | None  # None: no answer came
    reason: str
    pages: list[str]  # the pages that hold the link


@dataclasses.dataclass(frozen=True)
class Report:
    """What a crawl found."""

    url: str
    pages: int  # addresses that answered 2xx; a redirect is not one, its target is
    bytes: int  # of all bodies, after decompression
    seconds: float
    statuses: dict[int, int]  # status code -> addresses that answered it
    unanswered: int  # addresses that did not answer
    cut: int  # bodies that were longer than the crawler reads
    left_out: dict[str, int]  # why -> addresses that were linked to and not asked for
    broken: list[BrokenLink]
    interrupted: bool  # by Ctrl-C

    @property
    def pages_per_second(self) -> float:
        return self.pages / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict:
        """Return the report as JSON's types."""
        return {**dataclasses.asdict(self), "pages_per_second": round(self.pages_per_second, 2)}

    def __str__(self) -> str:
        answers = [f"{status}: {count:,}" for status, count in self.statuses.items()]
        if self.unanswered:
            answers.append(f"no answer: {self.unanswered:,}")
        left_out = [f"{why}: {count:,}" for why, count in self.left_out.items()]
        lines = [
            f"Crawled {self.url}" + (" until Ctrl-C" if self.interrupted else ""),
            f"  pages         {self.pages:,}",
            f"  bytes         {self.bytes:,}" + (f" ({self.cut:,} cut short)" if self.cut else ""),
            f"  seconds       {self.seconds:.1f} ({self.pages_per_second:.1f} pages per second)",
            f"  status codes  {', '.join(answers) or 'none'}",
            f"  not followed  {', '.join(left_out) or 'none'}",
            f"  broken links  {len(self.broken):,}",
        ]
        for link in self.broken:
            lines.append(f"    {link.url}: {link.reason}")
            lines += [f"      on {page}" for page in link.pages[:5]]
            if len(link.pages) > 5:
                lines.append(f"      and on {len(link.pages) - 5:,} more pages")
        return "\n".join(lines)


# ---- the crawl -------------------------------------------------------------


class Crawler:
    """A crawl of one site by *concurrency* tasks; call `patcher.patch()` before `run`.

    *depth* is how many links away from *url* it goes, *max_pages* how many addresses it asks for (redirects
    not counted); None means no limit.  A request has *timeout* seconds from connecting to its last byte;
    *retries* more are made, each after a longer pause, if the connection fails or the answer is 5xx.  Of a
    body it reads *max_body* bytes.

    CrawlError: *url* is not an http or https URL.
    """

    def __init__(
        self,
        url: str,
        *,
        concurrency: int = 100,
        depth: int | None = None,
        max_pages: int | None = None,
        timeout: float = 10.0,
        retries: int = 2,
        max_body: int = MAX_BODY,
    ) -> None:
        start = normalise(url)
        if start is None:
            raise CrawlError(f"not an http or https URL: {printable(url)}")
        self.url = start
        self.concurrency = concurrency
        self.depth = depth
        self.max_pages = max_pages
        self.timeout = timeout
        self.retries = retries
        self.max_body = max_body
        self.received = 0  # bytes
        self._on_page: Callable[[Crawler], object] = lambda crawler: None
        self._auth = parse_url(url.strip()).auth
        self._site = site(start)
        self._robots = RobotFileParser()
        self._delay = 0.0  # seconds between requests, if robots.txt asks for it
        self._turn = threading.Lock()  # held for that long by whoever makes the next request
        self._queue: queue.Queue[str | None] = queue.Queue()  # None: no more work, go home
        self._depths: dict[str, int] = {}  # every address queued so far -> links away from the start
        self._pages: dict[str, _Page] = {}  # every address done with
        self._redirects = 0
        self._refusals: dict[str, str] = {}  # address -> why it is not ours to ask for, "" if it is

    @property
    def done(self) -> int:
        """How many addresses it is done with."""
        return len(self._pages)

    @property
    def found(self) -> int:
        """How many addresses it knows it will ask for, those it is done with included."""
        return len(self._depths)

    def run(self, on_page: "Callable[[Crawler], object] | None" = None) -> Report:
        """Crawl the site, once; return when every page was visited, or at Ctrl-C.

        *on_page* is called with the crawler, by the task that did it, after each address.

        CrawlError: the start page cannot be had.
        """
        if on_page is not None:
            self._on_page = on_page
        started, interrupted = time.monotonic(), False
        try:
            self._crawl()
        except KeyboardInterrupt:
            interrupted = True
        return self._report(time.monotonic() - started, interrupted)

    def _crawl(self) -> None:
        self._read_robots()
        if why := self._refusal(self.url):
            raise CrawlError(f"{self.url} is not to be crawled, says its {why}")
        self._reach(self.url, 0)
        workers: list[evergreen.Task] = []
        try:
            for _ in range(self.concurrency):
                workers.append(evergreen.spawn(self._work))
            for worker in workers:
                worker.result()  # so a fault in a worker is raised here, not lost
        finally:
            # After Ctrl-C they are in the middle of something: kill() raises TaskExit there, every
            # `with` and `finally` on the way out is honoured, connections are closed.
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.join()
        start = self._end_of(self.url)
        if start.redirect is not None:
            raise CrawlError(f"{start.url} redirects to {start.redirect}, which is not followed")
        if start.broken:
            raise CrawlError(f"cannot get {start.url}: {start.reason}")

    def _work(self) -> None:
        """Visit what is queued until nothing is left: the body of each task."""
        with self._session() as session:  # one each: a worker keeps its connection
            while (url := self._queue.get()) is not None:
                try:
                    self._visit(session, url)
                finally:
                    # What a page leads to is queued by now, so the queue's own count of unfinished
                    # work is zero at the end of the site, and not before.
                    self._queue.task_done()
                    if self._queue.unfinished_tasks == 0:
                        for _ in range(self.concurrency):
                            self._queue.put(None)

    def _visit(self, session: requests.Session, url: str) -> None:
        page = self._pages[url] = self._read(session, url)
        self.received += page.size
        self._redirects += page.redirect is not None
        for step, depth in page.steps(self._depths[url]):
            self._reach(step, depth)
        self._on_page(self)

    def _reach(self, url: str, depth: int) -> None:
        """Take note that *url* is *depth* links away, and queue it if that is the first we hear of it.

        Pages do not arrive in the order of their depth, so a shorter way to a page may show up when that page
        is done; then what it leads to is nearer too, and may now be within the limit.
        """
        steps = [(url, depth)]
        while steps:
            url, depth = steps.pop()
            if self.depth is None:
                depth = 0  # one distance for all: nothing is ever nearer
            elif depth > self.depth:
                continue
            known = self._depths.get(url)
            if known is None:
                full = self.max_pages is not None and self.found - self._redirects >= self.max_pages
                if not full and not self._refusal(url):
                    self._depths[url] = depth
                    self._queue.put(url)
            elif depth < known:
                self._depths[url] = depth
                if url in self._pages:
                    steps.extend(self._pages[url].steps(depth))

    def _refusal(self, url: str) -> str:
        """Return why *url* is not ours to ask for; an empty string if it is."""
        why = self._refusals.get(url)
        if why is None:
            if site(url) != self._site:
                why = "other host"
            elif not self._robots.can_fetch(AGENT, url):
                why = "robots.txt"
            else:
                why = ""
            self._refusals[url] = why
        return why

    # ---- one request

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.headers["User-Agent"] = f"{AGENT}/1.0"
        return session

    def _credentials(self, url: str) -> tuple[str, str] | None:
        """Return the user and password of the start's URL, if *url* is the same site and no less safe."""
        if self._auth is None or site(url) != self._site or scheme(url) not in (scheme(self.url), "https"):
            return None
        user, _, password = self._auth.partition(":")
        return unquote(user), unquote(password)

    def _read_robots(self) -> None:
        """Ask for the site's rules; 4xx means there are none, 5xx that we keep out (RFC 9309 §2.3.1)."""
        url = urljoin(self.url, "/robots.txt")
        try:
            with self._session() as session:
                for _ in range(6):  # "at least five" redirects, says §2.3.1.2
                    answer = self._get(session, url)
                    if answer.redirect is None:
                        break
                    url = answer.redirect
        except _Unanswered as error:
            raise CrawlError(f"cannot reach {urlsplit(self.url).netloc}: {error}") from None
        if answer.status >= 500:
            raise CrawlError(f"cannot read {url}, so must keep out: {describe(answer.status)}")
        rules = answer.body.decode("utf-8-sig", "replace") if 200 <= answer.status < 300 else ""
        self._robots.parse(rules.splitlines())
        self._delay = float(self._robots.crawl_delay(AGENT) or 0)

    def _read(self, session: requests.Session, url: str) -> "_Page":
        if self._delay:
            with self._turn:
                time.sleep(self._delay)
        try:
            answer = self._get(session, url)
        except _Unanswered as error:
            return _Page(url, error=str(error))
        is_html = answer.type.get_content_type() in ("text/html", "application/xhtml+xml")
        follows = 200 <= answer.status < 300 and is_html
        return _Page(
            url,
            status=answer.status,
            size=len(answer.body),
            cut=answer.cut,
            redirect=answer.redirect,
            links=links_of(decode(answer.body, answer.type.get_content_charset()), url) if follows else [],
        )

    def _get(self, session: requests.Session, url: str) -> "_Answer":
        """Return the answer to the first request that is worth no retry; _Unanswered: there is none."""
        for attempt in itertools.count():
            last_try = attempt == self.retries
            try:
                answer = self._get_once(session, url)
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                if last_try or isinstance(error, requests.exceptions.SSLError):
                    raise _Unanswered(root_cause(error)) from None
            except UNUSABLE as error:
                raise _Unanswered(root_cause(error)) from None
            else:
                if answer.status < 500 or last_try:
                    return answer
            time.sleep(FIRST_BACKOFF * 2**attempt)

    def _get_once(self, session: requests.Session, url: str) -> "_Answer":
        body, cut = bytearray(), False
        request = {"stream": True, "allow_redirects": False, "auth": self._credentials(url)}
        too_late = _Unanswered(f"no answer within {self.timeout:g} seconds")
        with Timeout(self.timeout, too_late), session.get(url, **request) as response:
            location = session.get_redirect_target(response)
            for block in response.iter_content(BLOCK):
                body += block
                if len(body) > self.max_body:
                    del body[self.max_body :]
                    cut = True
                    break
        content_type = Message()
        content_type["Content-Type"] = response.headers.get("Content-Type", "application/octet-stream")
        redirect = None if location is None else normalise(location, url)
        return _Answer(response.status_code, content_type, redirect, bytes(body), cut)

    # ---- the account

    def _end_of(self, url: str) -> "_Page":
        """Return the last page visited on the way through redirects from *url*, which was visited."""
        page, trail = self._pages[url], {url}
        while page.redirect in self._pages:
            if page.redirect in trail:
                return _Page(url, error="redirects in a circle")
            trail.add(page.redirect)
            page = self._pages[page.redirect]
        return page

    def _report(self, seconds: float, interrupted: bool) -> Report:
        pages = self._pages.values()
        ends = {url: end for url in self._pages if (end := self._end_of(url)).broken}
        holders: dict[str, list[str]] = {url: [] for url in ends}
        missed: set[str] = set()
        for page in pages:
            for link in page.links:
                if link in holders:
                    holders[link].append(page.url)
                elif link not in self._pages:
                    missed.add(link)
        statuses = Counter(page.status for page in pages if page.status is not None)
        return Report(
            url=self.url,
            pages=sum(page.status is not None and 200 <= page.status < 300 for page in pages),
            bytes=self.received,
            seconds=seconds,
            statuses=dict(sorted(statuses.items())),
            unanswered=sum(page.status is None for page in pages),
            cut=sum(page.cut for page in pages),
            left_out=dict(sorted(Counter(self._refusal(url) or "not reached" for url in missed).items())),
            broken=[
                BrokenLink(
                    url,
                    end.status,
                    end.reason if end.url == url else f"{end.reason} at {end.url}",
                    sorted(holders[url]),
                )
                for url, end in sorted(ends.items())
                if holders[url]  # else only a redirect leads there, and the link to that one is listed
            ],
            interrupted=interrupted,
        )


class _Unanswered(Exception):
    """No answer came; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    type: Message  # has the Content-Type header, and nothing else
    redirect: str | None
    body: bytes
    cut: bool  # the body was longer


@dataclasses.dataclass(frozen=True, slots=True)
class _Page:
    """What became of an address."""

    url: str
    status: int | None = None
    error: str = ""  # why there is no status
    size: int = 0
    cut: bool = False
    redirect: str | None = None
    links: list[str] = dataclasses.field(default_factory=list)

    @property
    def broken(self) -> bool:
        return self.status is None or self.status >= 400

    @property
    def reason(self) -> str:
        return self.error if self.status is None else describe(self.status)

    def steps(self, depth: int) -> Iterator[tuple[str, int]]:
        """Yield where it leads, with the distance from the start, its own being *depth*."""
        if self.redirect is not None:
            yield self.redirect, depth
        for link in self.links:
            yield link, depth + 1


# ---- addresses and pages ---------------------------------------------------


def normalise(url: str, base: str = "") -> str | None:
    """Return the one spelling of *url* that is compared and asked for; None if it is not http or https.

    It may be relative to *base*.  The scheme and host are lower case; the default port, user and fragment are
    dropped; dots in the path are resolved; characters are percent-encoded only where they must be.
    """
    try:
        parts = parse_url(urljoin(base, url.strip()))
        if parts.scheme not in DEFAULT_PORTS or not parts.host:
            return None
        port = None if parts.port == DEFAULT_PORTS[parts.scheme] else parts.port
        return requote_uri(parts._replace(auth=None, port=port, path=parts.path or "/", fragment=None).url)
    except (ValueError, requests.RequestException):  # such as "http://["
        return None


def site(url: str) -> tuple[str | None, int | None]:
    """Return the host and port of a normalised URL; http and https on their default ports are one site."""
    parts = urlsplit(url)
    return parts.hostname, parts.port


def scheme(url: str) -> str:
    return urlsplit(url).scheme


def links_of(text: str, url: str) -> list[str]:
    """Return where the page *text*, found at *url*, leads: normalised, each once, in order."""
    parser = _LinkParser()
    try:
        for start in range(0, len(text), BLOCK):
            parser.feed(text[start : start + BLOCK])
            time.sleep(0)  # a computation blocks nobody but all: a big page lets others run now and then
        parser.close()
    except AssertionError:
        pass  # html.parser gives up on "<![x["; what it saw until then stands
    base = normalise(parser.base, url) or url
    # Without fragments first: a page of contents has ten links to each page.
    references = dict.fromkeys(link.partition("#")[0] for link in parser.links)
    links = dict.fromkeys(normalise(reference, base) for reference in references)
    return [link for link in links if link is not None]


class _LinkParser(HTMLParser):
    """Collects the links of a page, as they are spelt there, and its base."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.base = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in LINKS:
            if value := dict(attrs).get(LINKS[tag]):
                self.links.append(value.strip())
        elif tag == "base" and not self.base:  # only the first counts
            self.base = (dict(attrs).get("href") or "").strip()


def decode(body: bytes, charset: str | None) -> str:
    """Return *body* as text by its byte order mark, the header's *charset*, its ``<meta>``, or as UTF-8."""
    for mark, name in BYTE_ORDER_MARKS.items():
        if body.startswith(mark):
            charset = name
    if charset is None:
        meta = re.search(rb"""<meta[^>]+charset\s*=\s*["']?([\w.:-]+)""", body[:1024], re.IGNORECASE)
        charset = meta[1].decode("ascii") if meta else "utf-8"
    try:
        return body.decode(charset, "replace")
    except (LookupError, ValueError):  # no such charset, or one that is not for text
        return body.decode("utf-8", "replace")


def describe(status: int) -> str:
    """Return ``404 Not Found`` for 404: our words, a server's own could hold anything."""
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def root_cause(error: BaseException) -> str:
    """Return what the first of a chain of exceptions says: the system's words, not those wrapped around."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(text or type(error).__name__)


def printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


# ---- the command -----------------------------------------------------------


def progress() -> AbstractContextManager[Callable[[Crawler], None]]:
    """Return what shows progress: a bar on a terminal, a line now and then in a pipe."""
    return bar() if sys.stdout.isatty() else plain_lines()


@contextmanager
def bar() -> Iterator[Callable[[Crawler], None]]:
    columns = (
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} pages"),
        TextColumn("{task.fields[megabytes]:.1f} MB"),
        TimeElapsedColumn(),
    )
    # The bar is redrawn by a thread of rich's own: a task, now.
    with Progress(*columns, console=Console(file=sys.stdout), transient=True) as display:
        row = display.add_task("", total=1, megabytes=0.0)
        yield lambda crawler: display.update(
            row, completed=crawler.done, total=crawler.found, megabytes=crawler.received / 1e6
        )


@contextmanager
def plain_lines(every: float = 2.0) -> Iterator[Callable[[Crawler], None]]:
    due = 0.0  # the first page is worth a line: it works

    def show(crawler: Crawler) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + every
            print(f"{crawler.done:,} of {crawler.found:,} pages, {crawler.received / 1e6:.1f} MB", flush=True)

    yield show


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    def number(kind: type, least: float) -> Callable[[str], float]:
        def convert(text: str) -> float:
            value = kind(text)
            if not least <= value < float("inf"):
                raise ValueError
            return value

        convert.__name__ = f"number (at least {least:g})"  # argparse: "invalid ... value"
        return convert

    parser = argparse.ArgumentParser(
        prog="crawler", description="Crawl a web site and report its broken links."
    )
    count, some = number(int, 0), number(int, 1)
    parser.add_argument("url", help="where to start; only links to the same host are followed")
    for name, kind, default, metavar, text in (
        ("--concurrency", some, 100, "N", "tasks (default: 100)"),
        ("--depth", count, None, "N", "how many links away from the start to go (default: any)"),
        ("--max-pages", some, None, "N", "pages to ask for (default: all)"),
        ("--timeout", number(float, 0.001), 10.0, "SECONDS", "for a whole request (default: 10)"),
        ("--retries", count, 2, "N", "more tries if the connection fails or the answer is 5xx (default: 2)"),
        ("--max-body", some, MAX_BODY, "BYTES", "read no more of a page (default: 16 MiB)"),
    ):
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=text)
    parser.add_argument(
        "--json", metavar="FILE", help="write the report there, with all pages that hold a link"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if links are broken")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    patcher.patch()
    try:
        crawler = Crawler(
            options.url,
            concurrency=options.concurrency,
            depth=options.depth,
            max_pages=options.max_pages,
            timeout=options.timeout,
            retries=options.retries,
            max_body=options.max_body,
        )
        with progress() as show:
            report = crawler.run(show)
    except CrawlError as error:
        print(f"crawler: {error}", file=sys.stderr)
        return 2
    print(report)
    if options.json is not None:
        try:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(report.as_dict(), file, indent=2)
        except OSError as error:
            print(f"crawler: cannot write {options.json}: {error.strerror}", file=sys.stderr)
            return 2
    if report.interrupted:
        return 130
    return 1 if options.strict and report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
