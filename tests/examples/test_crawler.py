"""examples/crawler.py as its users meet it: a command in a process of its own, and a web server to crawl."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

CRAWLER = Path(__file__).parents[2] / "examples" / "crawler.py"
ESCAPE = "\x1b"
PATIENCE = 60  # seconds until a test that hangs fails


class Request(NamedTuple):
    path: str
    headers: Message


class Site:
    """A web site on 127.0.0.1, served by native threads of this process.

    A page is its body, or a function that answers the request it is given.
    """

    def __init__(self, pages):
        self.pages = {
            path: link_page(*page) if isinstance(page, tuple) else page for path, page in pages.items()
        }
        self.requests = []  # in the order of arrival
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self):
                site.requests.append(Request(self.path, self.headers))
                page = site.pages.get(self.path)
                if page is None:
                    answer(self, 404, "<a href=/from-an-error-page>x</a>")
                elif callable(page):
                    page(self)
                else:
                    answer(self, 200, page)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def asked(self, path):
        """Return how often *path* was asked for."""
        return sum(request.path == path for request in self.requests)


def answer(handler, status, body="", content_type="text/html; charset=utf-8", **headers):
    body = body.encode() if isinstance(body, str) else body
    handler.send_response(status)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def link_page(*links):
    return "<!doctype html><title>t</title>" + "".join(f"<a href='{link}'>x</a>" for link in links)


def redirect(to):
    return lambda handler: answer(handler, 302, Location=to)


def typed(content_type, body):
    return lambda handler: answer(handler, 200, body, content_type)


class Hang:
    """A page that is asked for and does not answer until released."""

    def __init__(self):
        self.arrived, self.released = threading.Event(), threading.Event()

    def __call__(self, handler):
        self.arrived.set()
        self.released.wait(PATIENCE)
        handler.close_connection = True


@pytest.fixture
def serve():
    """Make sites; a page that is a tuple is one of links to what it names."""
    sites = []

    def make(pages):
        sites.append(Site(pages))
        return sites[-1]

    yield make
    for site in sites:
        for page in site.pages.values():
            if isinstance(page, Hang):
                page.released.set()
        site.close()


def environment():
    return {**os.environ, "no_proxy": "127.0.0.1", "TERM": "xterm"}


def crawl(*arguments):
    """Run the crawler to its end, its output in pipes."""
    command = [sys.executable, CRAWLER, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment())


@pytest.fixture
def report_of(tmp_path):
    """Crawl a site, expecting success, and return the report that --json wrote."""

    def run(site, *options, path="/"):
        file = tmp_path / "report.json"
        done = crawl(site.url + path, "--json", file, *options)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(file.read_text())

    return run


@contextmanager
def started(*arguments, **streams):
    """Run the crawler in the background, with Ctrl-C as on a terminal."""
    # A signal that is ignored here, as in a shell's background job, would be ignored there too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, CRAWLER, *map(str, arguments)], env=environment(), **streams
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            process.kill()


# ---- what is visited -------------------------------------------------------


def test_every_page_that_links_lead_to_is_asked_for_once(serve, report_of):
    site = serve({"/": ("/a", "/b"), "/a": ("/b", "/c"), "/b": ("/", "/c"), "/c": ("/a",)})
    report = report_of(site)
    assert report["pages"] == 4
    assert [site.asked(path) for path in ("/", "/a", "/b", "/c")] == [1, 1, 1, 1]


def test_links_of_anchors_areas_and_frames_are_followed_and_others_are_not(serve, report_of):
    site = serve(
        {
            "/": "<A HREF=a>x</A> <area href='b'> <iframe src='c'></iframe> <frame src=d> <img src=e>"
            "<link href=f> <script src=g>'<a href=h>'</script> <!-- <a href=i> --> <a>x</a> <a href>x</a>"
            "<a href='mailto:j'>x</a> <a href='javascript:k'>x</a> <a href='ftp://127.0.0.1/l'>x</a>"
        }
        | dict.fromkeys(("/a", "/b", "/c", "/d"), "")
    )
    report_of(site)
    assert {request.path for request in site.requests} == {"/robots.txt", "/", "/a", "/b", "/c", "/d"}


def test_spellings_of_one_address_are_one_page(serve, report_of):
    site = serve({"/a/~x": ""})
    port = site.port
    site.pages["/"] = link_page(
        "/a/~x",
        "/a/%7ex",
        "a/./~x",
        "/b/../a/~x#top",
        f"HTTP://127.0.0.1:{port}/a/~x#end",
        " /a/~x ",
        "#here",
    )
    report = report_of(site)
    assert report["pages"] == 2
    assert [request.path for request in site.requests] == ["/robots.txt", "/", "/a/~x"]


def test_links_are_relative_to_the_base_of_the_page(serve, report_of):
    site = serve({"/x/": "<base href='/y/'><base href='/z/'><a href=p>x</a>", "/y/p": ""})
    assert report_of(site, path="/x/")["broken"] == []
    assert site.asked("/y/p") == 1


def test_links_to_another_host_or_port_are_not_followed(serve, report_of):
    other = serve({"/": ""})
    site = serve(
        {"/": (other.url, f"http://localhost:{other.port}/", "http://elsewhere.invalid/", "/a"), "/a": ""}
    )
    report = report_of(site)
    assert report["pages"] == 2
    assert report["left_out"] == {"other host": 3}
    assert other.requests == []


def test_robots_txt_is_honoured(serve, report_of):
    rules = "User-agent: evergreen-crawler\nDisallow: /private\n\nUser-agent: *\nDisallow: /\n"
    site = serve({"/robots.txt": rules, "/": ("/private/a", "/public"), "/public": ""})
    report = report_of(site)
    assert site.asked("/private/a") == 0
    assert site.asked("/public") == 1
    assert report["left_out"] == {"robots.txt": 1}
    assert site.requests[0].path == "/robots.txt"
    assert all(request.headers["User-Agent"].startswith("evergreen-crawler/") for request in site.requests)


def test_the_crawl_delay_of_robots_txt_spaces_requests(serve, report_of):
    site = serve({"/robots.txt": "User-agent: *\nCrawl-delay: 1\n", "/": ("/a", "/b"), "/a": "", "/b": ""})
    assert report_of(site)["seconds"] >= 3


def test_a_site_whose_robots_txt_fails_is_left_alone(serve):
    site = serve({"/robots.txt": lambda handler: answer(handler, 503), "/": ""})
    done = crawl(site.url, "--retries", 0)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"crawler: cannot read {site.url}/robots.txt, so must keep out: 503 Service Unavailable\n"
    )
    assert site.asked("/") == 0


def test_a_start_that_robots_txt_forbids_is_refused(serve):
    site = serve({"/robots.txt": "User-agent: *\nDisallow: /\n", "/": ""})
    done = crawl(site.url)
    assert done.returncode == 2
    assert "robots.txt" in done.stderr
    assert site.asked("/") == 0


def test_depth_counts_links_from_the_start(serve, report_of):
    site = serve({"/": ("/1",), "/1": ("/2",), "/2": ("/3",), "/3": ""})
    assert report_of(site, "--depth", 2)["pages"] == 3
    assert site.asked("/3") == 0


def test_depth_counts_the_shortest_way_even_if_it_is_found_last(serve, report_of):
    # /far is three links away by /a and /b, and one that is found later by /short: its link is within reach.
    found = threading.Event()

    def near(handler):
        found.wait(PATIENCE)
        answer(handler, 200, link_page("/far"))

    def end(handler):
        answer(handler, 200, "")
        found.set()

    site = serve(
        {
            "/": ("/short", "/a"),
            "/short": near,
            "/a": ("/b",),
            "/b": ("/far", "/end"),
            "/far": ("/beyond",),
            "/end": end,
            "/beyond": "",
        }
    )
    assert report_of(site, "--depth", 3)["pages"] == 7
    assert site.asked("/beyond") == 1


def test_max_pages_ends_the_crawl_and_redirects_are_not_counted(serve, report_of):
    site = serve({"/": redirect("/0")} | {f"/{n}": (f"/{n + 1}",) for n in range(20)})
    report = report_of(site, "--max-pages", 5)
    assert report["pages"] == 5
    assert report["statuses"] == {"200": 5, "302": 1}


# ---- what comes back -------------------------------------------------------


def test_a_broken_link_is_listed_with_every_page_that_holds_it(serve):
    site = serve(
        {"/": ("/a", "/gone"), "/a": ("/gone", "/fails"), "/fails": lambda handler: answer(handler, 500)}
    )
    done = crawl(site.url, "--retries", 0)
    assert done.returncode == 0
    assert done.stdout.endswith(
        f"""\
  status codes  200: 2, 404: 1, 500: 1
  not followed  none
  broken links  2
    {site.url}/fails: 500 Internal Server Error
      on {site.url}/a
    {site.url}/gone: 404 Not Found
      on {site.url}/
      on {site.url}/a
"""
    )


def test_links_of_an_error_page_are_not_followed(serve, report_of):
    site = serve({"/": ("/gone",)})
    report_of(site)
    assert site.asked("/from-an-error-page") == 0


def test_strict_makes_broken_links_an_error(serve):
    assert crawl(serve({"/": ("/gone",)}).url, "--strict").returncode == 1
    assert crawl(serve({"/": ("/",)}).url, "--strict").returncode == 0


def test_json_says_all_of_the_report(serve, report_of):
    site = serve({"/": ("/a", "/gone"), "/a": "12345"})
    report = report_of(site)
    assert report.pop("seconds") > 0
    assert report.pop("pages_per_second") > 0
    assert report == {
        "url": f"{site.url}/",
        "pages": 2,
        "bytes": sum(map(len, site.pages.values())) + len("<a href=/from-an-error-page>x</a>"),
        "statuses": {"200": 2, "404": 1},
        "unanswered": 0,
        "cut": 0,
        "left_out": {},
        "broken": [
            {"url": f"{site.url}/gone", "status": 404, "reason": "404 Not Found", "pages": [f"{site.url}/"]}
        ],
        "interrupted": False,
    }


def test_a_redirect_leads_to_its_target_which_is_visited_once(serve, report_of):
    site = serve(
        {"/": ("/old", "/older", "/new"), "/old": redirect("new"), "/older": redirect("/old"), "/new": ""}
    )
    report = report_of(site)
    assert report["statuses"] == {"200": 2, "302": 2}
    assert report["pages"] == 2
    assert site.asked("/new") == 1


def test_a_link_is_broken_if_it_redirects_to_an_error(serve, report_of):
    site = serve({"/": ("/old",), "/old": redirect("/gone")})
    [broken] = report_of(site)["broken"]
    assert broken["url"] == f"{site.url}/old"
    assert broken["reason"] == f"404 Not Found at {site.url}/gone"
    assert broken["pages"] == [f"{site.url}/"]


def test_a_link_is_broken_if_it_redirects_in_a_circle(serve, report_of):
    site = serve({"/": ("/a",), "/a": redirect("/b"), "/b": redirect("/a")})
    [broken] = report_of(site)["broken"]
    assert (broken["url"], broken["reason"]) == (f"{site.url}/a", "redirects in a circle")


def test_a_redirect_to_another_host_is_not_followed(serve, report_of):
    other = serve({"/": ""})
    site = serve({"/": ("/out", "/odd"), "/out": redirect(other.url), "/odd": redirect("http://[")})
    report = report_of(site)
    assert report["statuses"]["302"] >= 1
    assert other.requests == []


def test_a_document_that_is_not_html_is_counted_and_not_parsed(serve, report_of):
    site = serve({"/": ("/data",), "/data": typed("text/plain", "<a href='/trap'>x</a>")})
    assert report_of(site)["pages"] == 2
    assert site.asked("/trap") == 0


def test_a_body_is_read_up_to_the_cap(serve, report_of):
    site = serve({"/": ("/big",), "/big": typed("application/octet-stream", bytes(300_000))})
    report = report_of(site, "--max-body", 100_000)
    assert report["bytes"] == 100_000 + len(site.pages["/"])
    assert report["cut"] == 1


@pytest.mark.parametrize(
    ("content_type", "head", "charset"),
    [
        ("text/html; charset=iso-8859-1", "", "latin-1"),
        ("text/html", "<meta charset='windows-1252'>", "cp1252"),
        ("text/html", "", "utf-8"),
        ("text/html", "", "utf-16"),
        ("text/html; charset=no-such-thing", "", "utf-8"),
        ("text/html; charset=hex", "", "utf-8"),
    ],
)
def test_the_charset_is_that_of_the_header_the_page_or_utf8(serve, report_of, content_type, head, charset):
    site = serve({"/": typed(content_type, f"{head}<a href='/é'>x</a>".encode(charset)), "/%C3%A9": ""})
    assert report_of(site)["broken"] == []
    assert site.asked("/%C3%A9") == 1


def test_a_page_that_the_parser_gives_up_on_does_not_end_the_crawl(serve, report_of):
    site = serve({"/": "<a href=/a>x</a><![x[<a href='http://['>x</a>", "/a": ""})
    assert report_of(site)["pages"] == 2


def test_a_big_page_is_parsed_to_its_end(serve, report_of):
    site = serve({"/": "<p>text</p>" * 100_000 + "<a href=/a>x</a>", "/a": ""})
    assert report_of(site)["pages"] == 2


def test_a_failed_request_is_made_again(serve, report_of):
    def flaky(handler):
        attempt = site.asked(handler.path)
        if attempt == 1:
            answer(handler, 503)
        elif attempt == 2:
            handler.close_connection = True  # and no answer
        else:
            answer(handler, 200)

    site = serve({"/": ("/flaky",), "/flaky": flaky})
    report = report_of(site, "--retries", 2)
    assert report["broken"] == []
    assert site.asked("/flaky") == 3
    assert report["statuses"] == {"200": 2}


def test_a_missing_page_is_not_asked_for_again(serve, report_of):
    site = serve({"/": ("/gone",)})
    report_of(site, "--retries", 5)
    assert site.asked("/gone") == 1


def test_a_page_that_does_not_answer_in_time_is_a_broken_link(serve, report_of):
    site = serve({"/": ("/slow", "/a"), "/slow": Hang(), "/a": ""})
    report = report_of(site, "--timeout", 0.5)
    assert report["pages"] == 2
    assert report["unanswered"] == 1
    assert [link["reason"] for link in report["broken"]] == ["no answer within 0.5 seconds"]


def test_the_timeout_ends_a_page_that_trickles_in(serve, report_of):
    def trickle(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        try:
            while not over.wait(0.05):
                handler.wfile.write(b".")
        except OSError:
            over.set()  # the crawler hung up
        handler.close_connection = True

    over = threading.Event()
    site = serve({"/": ("/trickle",), "/trickle": trickle})
    try:
        assert report_of(site, "--timeout", 0.5)["broken"][0]["reason"] == "no answer within 0.5 seconds"
        assert over.wait(PATIENCE)
    finally:
        over.set()


def test_an_answer_that_breaks_off_is_a_broken_link(serve, report_of):
    def liar(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"short")
        handler.close_connection = True

    site = serve({"/": ("/liar",), "/liar": liar})
    [broken] = report_of(site, "--retries", 0)["broken"]
    assert (broken["status"], broken["url"]) == (None, f"{site.url}/liar")


def test_the_answer_of_a_server_cannot_write_to_the_terminal(serve):
    def rude(handler):
        handler.wfile.write(b"\x1b[2J rude\r\n\r\n")
        handler.close_connection = True

    site = serve({"/": ("/rude", "/\x1b[2J"), "/rude": rude})
    done = crawl(site.url, "--retries", 0)
    assert done.returncode == 0
    assert ESCAPE not in done.stdout


# ---- how it runs -----------------------------------------------------------


def test_as_many_pages_are_asked_for_at_once_as_concurrency_says(serve, report_of):
    together = threading.Barrier(20)  # broken unless twenty requests wait at the same time

    def wait(handler):
        together.wait(PATIENCE)
        answer(handler, 200)

    site = serve({"/": tuple(f"/{n}" for n in range(20))} | {f"/{n}": wait for n in range(20)})
    assert report_of(site, "--concurrency", 20)["pages"] == 21


def test_ctrl_c_ends_the_crawl_at_once_and_prints_the_report(serve, tmp_path):
    hang, file = Hang(), tmp_path / "report.json"
    site = serve({"/": ("/hang",), "/hang": hang})
    arguments = (site.url, "--timeout", 2 * PATIENCE, "--json", file)
    with started(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert hang.arrived.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "")
    assert f"Crawled {site.url}/ until Ctrl-C\n  pages         1\n" in out
    report = json.loads(file.read_text())
    assert report["interrupted"] is True
    assert report["left_out"] == {"not reached": 1}
    assert report["broken"] == []


def test_ctrl_c_before_the_first_page_prints_a_report_too(serve):
    hang = Hang()
    site = serve({"/robots.txt": hang})
    with started(site.url, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert hang.arrived.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "")
    assert "  pages         0\n" in out


def test_a_pipe_gets_plain_lines_of_progress(serve):
    done = crawl(serve({"/": ("/a",), "/a": ""}).url)
    assert done.stdout.startswith("1 of 2 pages, 0.0 MB\n")
    assert ESCAPE not in done.stdout + done.stderr
    assert "\r" not in done.stdout


def test_a_terminal_gets_a_bar(serve):
    site = serve({"/": ("/a",), "/a": ""})
    master, slave = pty.openpty()
    with started(site.url, stdout=slave, stderr=subprocess.PIPE) as process:
        os.close(slave)
        shown = bytearray()
        try:
            while block := os.read(master, 4096):
                shown += block
        except OSError:  # how Linux says that the other side is closed
            pass
        os.close(master)
        assert (process.wait(PATIENCE), process.stderr.read()) == (0, b"")
    text = shown.decode()
    assert ESCAPE in text
    assert "2 of 2 pages" in text
    assert f"Crawled {site.url}/\r\n" in text


def test_a_user_and_password_are_sent_and_never_shown(serve):
    site = serve({"/": ("/a", "/gone"), "/a": ""})
    done = crawl(f"http://jo:s%3Acret@127.0.0.1:{site.port}/")
    assert done.returncode == 0
    assert "cret" not in done.stdout + done.stderr
    assert {request.headers["Authorization"] for request in site.requests} == {"Basic am86czpjcmV0"}


def test_a_user_and_password_are_not_sent_to_another_host(serve):
    other = serve({"/robots.txt": ""})
    site = serve({"/": "", "/robots.txt": redirect(f"{other.url}/robots.txt")})
    assert crawl(f"http://jo:secret@127.0.0.1:{site.port}/").returncode == 0
    assert [request.headers["Authorization"] for request in other.requests] == [None]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_an_unreachable_host_is_one_line_and_exit_code_2():
    port = free_port()
    done = crawl(f"http://127.0.0.1:{port}/", "--retries", 1)
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == ("", f"crawler: cannot reach 127.0.0.1:{port}: Connection refused\n")


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/", "http://", "http://[", "http://a:port/", ""])
def test_a_bad_url_is_one_line_and_exit_code_2(url):
    done = crawl(url)
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == ("", f"crawler: not an http or https URL: {url}\n")


def test_a_start_page_that_is_missing_is_one_line_and_exit_code_2(serve):
    site = serve({})
    done = crawl(f"{site.url}/nowhere")
    assert done.returncode == 2
    assert done.stderr == f"crawler: cannot get {site.url}/nowhere: 404 Not Found\n"


def test_a_start_that_redirects_to_another_host_is_one_line_and_exit_code_2(serve):
    other = serve({"/": ""})
    site = serve({"/": redirect("/home"), "/home": redirect(other.url)})
    done = crawl(site.url)
    assert done.returncode == 2
    assert done.stderr == f"crawler: {site.url}/home redirects to {other.url}/, which is not followed\n"


def test_a_report_that_cannot_be_written_is_one_line_and_exit_code_2(serve, tmp_path):
    done = crawl(serve({"/": ""}).url, "--json", tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"crawler: cannot write {tmp_path}: Is a directory\n"
    assert "Crawled" in done.stdout
