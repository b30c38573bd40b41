"""requests, urllib3, httpx and the standard library against HTTP servers, plain and with TLS."""

import http.server
import pathlib
import ssl
import time

import pytest
import servers
from beside import beside_a_ticker

CERTIFICATE = pathlib.Path(__file__).parents[1] / "data" / "localhost.pem"


class Handler(http.server.BaseHTTPRequestHandler):
    """GET /slow/N answers late; GET /body/N has N bytes; POST answers what it got; keeps connections."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        _, what, number = self.path.split("/")
        if what == "slow":
            time.sleep(0.3)
        if what == "trickle":
            return self.trickle()
        self.answer(number.encode() if what == "slow" else b"x" * int(number))

    def trickle(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(10):
            self.wfile.write(b"4\r\ndrop\r\n")
            time.sleep(0.03)
        self.wfile.write(b"0\r\n\r\n")

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    context = None

    def finish_request(self, request, client_address):
        if self.context is not None:
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        pass  # a client that goes away is no failure


@pytest.fixture(scope="module", params=["http", "https"])
def url(request):
    server = Server(("127.0.0.1", 0), Handler)
    if request.param == "https":
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.context.load_cert_chain(CERTIFICATE)
    with servers.threaded(server) as port:
        yield f"{request.param}://localhost:{port}"


@pytest.fixture(scope="module")
def plain():
    with servers.threaded(Server(("127.0.0.1", 0), Handler)) as port:
        yield f"http://localhost:{port}"


WORK = """
def work(n):
    assert get(f"{ARGS[0]}/slow/{n}") == str(n).encode()
    for i in range(5):
        assert get(f"{ARGS[0]}/body/{100000 + i}") == b"x" * (100000 + i)
    assert post(f"{ARGS[0]}/echo", bytes([n]) * 50000) == bytes([n]) * 50000
    assert get(f"{ARGS[0]}/trickle/1") == b"drop" * 10
"""

CLIENTS = {
    "requests": """
import requests
session = requests.Session()
verify = ARGS[1]
session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=30))

def get(url):
    return session.get(url, timeout=20, verify=verify).content

def post(url, data):
    return session.post(url, data=data, timeout=20, verify=verify).content
""",
    "urllib3": """
import urllib3
pool = urllib3.PoolManager(ca_certs=ARGS[1], maxsize=30, block=True)

def get(url):
    return pool.request("GET", url, timeout=20).data

def post(url, data):
    return pool.request("POST", url, body=data, timeout=20).data
""",
    "httpx": """
import httpx, ssl
context = ssl.create_default_context(cafile=ARGS[1])
client = httpx.Client(verify=context, timeout=20)

def get(url):
    return client.get(url).content

def post(url, data):
    return client.post(url, content=data).content
""",
    "urllib.request": """
import ssl, urllib.request
context = ssl.create_default_context(cafile=ARGS[1])
opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))

def get(url):
    with opener.open(url, timeout=20) as answer:
        return answer.read()

def post(url, data):
    with opener.open(url, data, timeout=20) as answer:
        return answer.read()
""",
}


@pytest.mark.parametrize("client", CLIENTS)
def test_requests_of_many_tasks(url, client):
    library = pytest.importorskip(client, reason=f"{client} is not installed")
    name = f"{client}, {url.partition(':')[0]}"
    version = getattr(library, "__version__", "")
    code = CLIENTS[client] + WORK
    patch = "last" if url.startswith("https") else "first"
    beside_a_ticker(name, code, url, CERTIFICATE, slow=0.6, patch=patch, version=version)


BUSY = """
import requests
session = requests.Session()
session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=3, pool_block=True))

def work(n):  # tasks wait for one of three connections
    return session.get(f"{ARGS[0]}/body/{n}", timeout=20).text == "x" * n and time.sleep(0.2) is None

def check(results):
    assert all(results)
"""


def test_a_pool_that_blocks_makes_tasks_wait(plain):
    library = pytest.importorskip("requests", reason="requests is not installed")
    beside_a_ticker("requests, full pool", BUSY, plain, slow=0.2, version=library.__version__)


TIMEOUT = """
import {library}
client = {library}.{make}()  # httpx.get() would read all the authorities of certifi each time: 25 ms

def work(n):
    try:
        client.get(f"{{ARGS[0]}}/slow/1", timeout=0.15)
    except {library}.ReadTimeout:
        return True

def check(results):
    assert all(results)
"""


@pytest.mark.parametrize("library, make", [("requests", "Session"), ("httpx", "Client")])
def test_the_timeout_of_the_library_holds(plain, library, make):
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    code = TIMEOUT.format(library=library, make=make)
    beside_a_ticker(f"{library}, timeout", code, plain, slow=0.15, version=module.__version__)
