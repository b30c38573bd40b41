"""What tests/clients/test_packages.py does with each package: some work of its own, in a few threads.

Each script defines ``work(n)``, which returns what can be compared: the same whether the standard library is
patched or not.  A line ``# distribution: NAME`` at its head says what to install, if it is not called so.
"""

SCRIPTS = {}
ALSO_NEEDED = {"anyio": ["trio"]}  # packages that a script uses besides the one that it is for

# ---- HTTP: clients -----------------------------------------------------------------------------

SERVER = """
import http.server, threading

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        time.sleep(0.01)
        body = f"hello {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
"""

SCRIPTS["requests"] = (
    SERVER
    + """
import requests
session = requests.Session()

def work(n):
    answer = session.get(f"{url}/{n}", timeout=10)
    return answer.status_code, answer.text
"""
)

SCRIPTS["urllib3"] = (
    SERVER
    + """
import urllib3
pool = urllib3.PoolManager()

def work(n):
    answer = pool.request("GET", f"{url}/{n}", timeout=10)
    return answer.status, answer.data
"""
)

SCRIPTS["httpx"] = (
    SERVER
    + """
import asyncio
import httpx
client = httpx.Client(trust_env=False)

async def twice(n):
    async with httpx.AsyncClient(trust_env=False) as client:
        answers = await asyncio.gather(*(client.get(f"{url}/{n}/{m}") for m in range(2)))
        return [answer.text for answer in answers]

def work(n):
    return client.get(f"{url}/{n}").text, asyncio.run(twice(n))
"""
)

SCRIPTS["aiohttp"] = """
import asyncio
import aiohttp
from aiohttp import web

async def hello(request):
    await asyncio.sleep(0.01)
    return web.Response(text="hello " + request.match_info["name"])

async def main(n):
    app = web.Application()
    app.router.add_get("/{name}", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/{n}") as answer:
            found = answer.status, await answer.text()
    await runner.cleanup()
    return found

def work(n):
    return asyncio.run(main(n))
"""

SCRIPTS["websockets"] = """
import threading
import websockets
from websockets.sync.client import connect
from websockets.sync.server import serve

def echo(connection):
    for message in connection:
        connection.send(message[::-1])

server = serve(echo, "127.0.0.1", 0)
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.socket.getsockname()[1]

def work(n):
    with connect(f"ws://127.0.0.1:{port}") as connection:
        connection.send(f"message {n}")
        return connection.recv(timeout=10)
"""

SCRIPTS["websocket"] = """
# distribution: websocket-client
import threading
import websocket
from websockets.sync.server import serve

server = serve(lambda connection: [connection.send(message) for message in connection], "127.0.0.1", 0)
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.socket.getsockname()[1]

def work(n):
    connection = websocket.create_connection(f"ws://127.0.0.1:{port}", timeout=10)
    connection.send(f"message {n}")
    answer = connection.recv()
    connection.close()
    return answer
"""

# ---- HTTP: applications and servers ---------------------------------------------------------------

SCRIPTS["flask"] = """
import flask
app = flask.Flask("app")
app.secret_key = "secret"

@app.get("/<name>")
def hello(name):
    flask.g.name = name
    flask.session["seen"] = name
    time.sleep(0.01)
    return flask.render_template_string("hello {{ g.name }} {{ request.args.x }}", g=flask.g)

def work(n):
    with app.test_client() as client:
        answer = client.get(f"/{n}?x={n * n}")
        return answer.status, answer.text, flask.session["seen"]
"""

SCRIPTS["django"] = """
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

def hello(request, name):
    time.sleep(0.01)
    return HttpResponse(f"hello {name} {request.GET['x']}")

urlpatterns = [path("<str:name>/", hello)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="secret",
                   DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.sqlite"}})
django.setup()
from django.db import connection
from django.test import Client

def work(n):
    answer = Client().get(f"/{n}/?x={n * n}")
    with connection.cursor() as cursor:
        cursor.execute("select %s + 1", [n])
        row = cursor.fetchone()
    connection.close()
    return answer.status_code, answer.content, row
"""

SCRIPTS["werkzeug"] = """
import threading
import urllib.request
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response
import logging
logging.getLogger("werkzeug").setLevel(logging.ERROR)

@Request.application
def app(request):
    time.sleep(0.01)
    return Response(f"hello {request.path}")

server = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()

def work(n):
    return urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/{n}").read()
"""

SCRIPTS["bottle"] = """
import bottle
app = bottle.Bottle()

@app.get("/<name>")
def hello(name):
    time.sleep(0.01)
    return bottle.template("hello {{name}} {{x}}", name=name, x=bottle.request.query.x)

def work(n):
    status = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": f"/{n}", "QUERY_STRING": f"x={n * n}"}
    body = b"".join(app(environ, lambda line, headers, exc_info=None: status.append(line)))
    return status, body
"""

SCRIPTS["cherrypy"] = """
import urllib.request
import cherrypy

class Root:
    @cherrypy.expose
    def index(self, name):
        time.sleep(0.01)
        return f"hello {name}"

import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
cherrypy.config.update({"server.socket_host": "127.0.0.1", "server.socket_port": port, "log.screen": False,
                        "engine.autoreload.on": False, "checker.on": False})
cherrypy.tree.mount(Root(), "/")

def begin():
    cherrypy.engine.start()

def work(n):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/?name={n}").read()

def finish():
    cherrypy.engine.exit()
"""

SCRIPTS["waitress"] = """
import threading
import urllib.request
import waitress

def app(environ, start_response):
    time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello " + environ["PATH_INFO"].encode()]

server = waitress.create_server(app, host="127.0.0.1", port=0, threads=4)
threading.Thread(target=server.run, daemon=True).start()

def work(n):
    return urllib.request.urlopen(f"http://127.0.0.1:{server.effective_port}/{n}").read()
"""

SCRIPTS["starlette"] = """
import asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

async def slow(request):
    await asyncio.sleep(0.01)
    return PlainTextResponse(f"hello {request.path_params['name']}")

def blocking(request):  # in a thread of anyio's
    time.sleep(0.01)
    return PlainTextResponse(f"hallo {request.path_params['name']}")

app = Starlette(routes=[Route("/a/{name}", slow), Route("/b/{name}", blocking)])

def work(n):
    with TestClient(app) as client:
        return client.get(f"/a/{n}").text, client.get(f"/b/{n}").text
"""

SCRIPTS["fastapi"] = """
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

class Item(BaseModel):
    name: str
    price: float = 1.5

app = FastAPI()

def user(name: str):
    time.sleep(0.01)
    return name.upper()

@app.post("/items/{number}")
def add(number: int, item: Item, who: str = Depends(user)):
    return {"number": number, "item": item, "who": who}

def work(n):
    with TestClient(app) as client:
        good = client.post(f"/items/{n}?name=x{n}", json={"name": f"item {n}"})
        bad = client.post("/items/one?name=x", json={})
        return good.json(), bad.status_code
"""

SCRIPTS["uvicorn"] = """
import socket
import threading
import urllib.request
import uvicorn

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello " + scope["path"].encode()})

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
port = listener.getsockname()[1]
config = uvicorn.Config(app, loop="asyncio", log_level="error", lifespan="off")  # uvloop waits in C
server = uvicorn.Server(config)
thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)

def begin():
    thread.start()
    while not server.started:
        time.sleep(0.001)

def work(n):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/{n}").read()

def finish():
    server.should_exit = True
    thread.join()
"""

SCRIPTS["tornado"] = """
import asyncio
import tornado.httpclient
import tornado.httpserver
import tornado.web

class Hello(tornado.web.RequestHandler):
    async def get(self, name):
        await asyncio.sleep(0.01)
        self.write(f"hello {name}")

async def main(n):
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/(.*)", Hello)]))
    server.listen(0, "127.0.0.1")
    port = next(iter(server._sockets.values())).getsockname()[1]
    answer = await tornado.httpclient.AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/{n}")
    blocking = await asyncio.get_running_loop().run_in_executor(None, pow, 2, n)
    server.stop()
    return answer.code, answer.body, blocking

def work(n):
    return asyncio.run(main(n))
"""

# ---- event loops ------------------------------------------------------------------------------------

SCRIPTS["twisted"] = """
from twisted.internet import defer, reactor, task, threads

async def main(reactor):
    first = await task.deferLater(reactor, 0.01, lambda: "later")
    second = await threads.deferToThread(pow, 2, 10)
    third = await defer.gatherResults([threads.deferToThread(time.sleep, 0.01) for _ in range(3)])
    return first, second, third

found = []

def work(n):  # there is one reactor, and it runs once
    if n == 0:
        async def run(reactor):
            found.append(await main(reactor))
        task.react(lambda reactor: defer.ensureDeferred(run(reactor)), [])
    return found

def run_here():
    try:
        work(0)
    except SystemExit as exc:
        return found, exc.code
"""

SCRIPTS["trio"] = """
import trio

async def child(n, found):
    await trio.sleep(0.01)
    found.append(await trio.to_thread.run_sync(pow, 2, n))

async def main(n):
    found = []
    async with trio.open_nursery() as nursery:
        for m in range(3):
            nursery.start_soon(child, n + m, found)
    with trio.move_on_after(0.01) as scope:
        await trio.sleep_forever()
    return sorted(found), scope.cancelled_caught

def work(n):
    return trio.run(main, n)
"""

SCRIPTS["anyio"] = """
import anyio

async def child(n, found):
    await anyio.sleep(0.01)
    found.append(await anyio.to_thread.run_sync(pow, 2, n))

async def main(n):
    found = []
    async with anyio.create_task_group() as group:
        for m in range(3):
            group.start_soon(child, n + m, found)
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep_forever()
    return sorted(found), scope.cancelled_caught

def work(n):
    return anyio.run(main, n, backend="asyncio"), anyio.run(main, n, backend="trio")
"""

# ---- databases, queues ----------------------------------------------------------------------------------

SCRIPTS["sqlalchemy"] = """
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

class Base(DeclarativeBase):
    pass

class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]

engine = sqlalchemy.create_engine("sqlite:///sqlalchemy.sqlite")
Base.metadata.create_all(engine)

def work(n):
    with Session(engine) as session:
        session.add(Item(id=n, name=f"item {n}"))
        session.commit()
    with Session(engine) as session:
        return session.scalars(sqlalchemy.select(Item.name).where(Item.id == n)).all()
"""

SCRIPTS["peewee"] = """
import peewee
database = peewee.SqliteDatabase("peewee.sqlite")

class Item(peewee.Model):
    name = peewee.CharField()
    class Meta:
        database = database

database.create_tables([Item])
database.close()

def work(n):
    with database.connection_context():
        Item.create(name=f"item {n}")
        return [item.name for item in Item.select().where(Item.name == f"item {n}")]
"""

RESP = """
import socketserver, threading

class Resp(socketserver.StreamRequestHandler):
    def handle(self):
        data = {}
        while line := self.rfile.readline():
            parts = []
            for _ in range(int(line[1:])):
                size = int(self.rfile.readline()[1:])
                parts.append(self.rfile.read(size + 2)[:-2])
            name = parts[0].upper()
            if name == b"SET":
                data[parts[1]] = parts[2]
            found = data.get(parts[1]) if name == b"GET" else None
            time.sleep(0.001)
            self.wfile.write(b"$%d\\r\\n%s\\r\\n" % (len(found), found) if found else b"+OK\\r\\n")

server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Resp)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.server_address[1]
"""

SCRIPTS["redis"] = (
    RESP
    + """
import redis

def work(n):
    client = redis.Redis(port=port, protocol=2, single_connection_client=True)
    return client.set(f"key {n}", f"value {n}"), client.get(f"key {n}")
"""
)

SCRIPTS["pymongo"] = """
import socket
import bson
import pymongo
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]

def work(n):
    with pymongo.MongoClient("127.0.0.1", port, serverSelectionTimeoutMS=50) as client:
        try:
            client.server_info()
        except pymongo.errors.ServerSelectionTimeoutError as exc:
            return bson.decode(bson.encode({"n": n})), "Connection refused" in str(exc)
"""

SCRIPTS["psycopg"] = """
import psycopg
from psycopg import sql

def work(n):
    try:
        psycopg.connect("host=/nowhere dbname=nothing")
    except psycopg.OperationalError as exc:
        return sql.SQL("select {}").format(n).as_string(None), "nowhere" in str(exc)
"""

SCRIPTS["psycopg2"] = """
# distribution: psycopg2-binary
import psycopg2

def work(n):
    try:
        psycopg2.connect("host=/nowhere dbname=nothing")
    except psycopg2.OperationalError as exc:
        return psycopg2.extensions.adapt(n).getquoted(), "nowhere" in str(exc)
"""

SCRIPTS["pymysql"] = """
import socket
import pymysql
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]

def work(n):
    try:
        pymysql.connect(host="127.0.0.1", port=port)
    except pymysql.err.OperationalError as exc:
        return pymysql.converters.escape_item(f"it's {n}", "utf8"), exc.args[0]
"""

SCRIPTS["pika"] = """
import logging
import socket
import pika
logging.disable(logging.CRITICAL)
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]

def work(n):
    try:
        where = pika.ConnectionParameters("127.0.0.1", port, connection_attempts=2, retry_delay=0.01)
        pika.BlockingConnection(where)
    except pika.exceptions.AMQPConnectionError as exc:
        return pika.spec.Basic.Publish(exchange="x", routing_key=str(n)).encode(), type(exc).__name__
"""

SCRIPTS["kombu"] = """
import kombu
queue = kombu.Queue("numbers")

def work(n):
    with kombu.Connection("memory://") as connection:
        numbers = connection.SimpleQueue(f"numbers {n}")
        numbers.put({"n": n})
        message = numbers.get(timeout=5)
        message.ack()
        return message.payload
"""

SCRIPTS["celery"] = """
import celery
from celery.contrib.testing.worker import start_worker
app = celery.Celery("app", broker="memory://", backend="cache+memory://")

@app.task
def square(n):
    time.sleep(0.01)
    return n * n

def run_here():
    with start_worker(app, pool="threads", perform_ping_check=False, shutdown_timeout=10):
        answers = [square.delay(n) for n in range(3)]
        return [answer.get(timeout=10) for answer in answers]
"""

SCRIPTS["boto3"] = """
import boto3
from botocore.stub import Stubber

def work(n):
    client = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stub:
        stub.add_response("list_buckets", {"Buckets": [{"Name": f"bucket-{n}"}]})
        names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    url = client.generate_presigned_url("get_object", {"Bucket": "b", "Key": str(n)})
    return names, url.partition("?")[0]
"""

SCRIPTS["elasticsearch"] = (
    SERVER
    + """
import elasticsearch

def work(n):
    with elasticsearch.Elasticsearch(url, max_retries=0) as client:
        try:
            client.info()
        except Exception as exc:
            return type(exc).__name__
"""
)

SCRIPTS["zmq"] = """
# distribution: pyzmq
import asyncio
import zmq
import zmq.asyncio

async def main(n):
    context = zmq.asyncio.Context()
    with context, context.socket(zmq.REP) as server, context.socket(zmq.REQ) as client:
        port = server.bind_to_random_port("tcp://127.0.0.1")
        client.connect(f"tcp://127.0.0.1:{port}")
        await client.send(b"%d" % n)
        await server.send(await server.recv() * 2)
        return await client.recv()

def work(n):
    return asyncio.run(main(n))
"""

SCRIPTS["grpc"] = """
# distribution: grpcio
import concurrent.futures
import subprocess
import grpc

SERVER = '''
import concurrent.futures, grpc, sys
handler = grpc.method_handlers_generic_handler("s", {
    "Double": grpc.unary_unary_rpc_method_handler(lambda request, context: request * 2),
})
server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers([handler])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
'''
child = subprocess.Popen([sys.executable, "-c", SERVER], stdin=-1, stdout=-1)
port = int(child.stdout.readline())

def work(n):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return channel.unary_unary("/s/Double")(b"%d" % n, timeout=10)

def finish():
    child.communicate()
"""

# ---- files, terminals, processes -----------------------------------------------------------------------

SCRIPTS["paramiko"] = """
import io
import paramiko
key = paramiko.ECDSAKey.generate()

def work(n):
    copy = io.StringIO()
    key.write_private_key(copy)
    copy.seek(0)
    same = paramiko.ECDSAKey(file_obj=copy)
    signature = same.sign_ssh_data(b"data %d" % n)
    return same == key, key.verify_ssh_sig(b"data %d" % n, paramiko.Message(signature.asbytes()))
"""

SCRIPTS["pexpect"] = """
import pexpect

def work(n):
    child = pexpect.spawn(sys.executable, ["-c", "print('got', input('? '))"], timeout=20)
    child.expect("\\\\? ")
    child.sendline(f"answer {n}")
    child.expect("got (.*)\\r\\n")
    found = child.match.group(1)
    child.expect(pexpect.EOF)
    child.close()
    return found, child.exitstatus
"""

SCRIPTS["psutil"] = """
import psutil
import subprocess

def work(n):
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(int(sys.stdin.read()))"], stdin=-1)
    process = psutil.Process(child.pid)
    running = process.is_running(), process.ppid() == psutil.Process().pid
    child.communicate(b"%d" % n)
    gone, alive = psutil.wait_procs([process], timeout=10)
    return running, len(gone), len(alive), child.returncode
"""

SCRIPTS["watchdog"] = """
import os, queue, tempfile
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

def work(n):
    seen = queue.Queue()

    class Handler(FileSystemEventHandler):
        def on_created(self, event):
            seen.put(os.path.basename(event.src_path))

    with tempfile.TemporaryDirectory() as folder:
        observer = Observer()
        observer.schedule(Handler(), folder)
        observer.start()
        open(os.path.join(folder, f"file {n}"), "w").close()
        name = seen.get(timeout=10)
        observer.stop()
        observer.join()
    return name
"""

SCRIPTS["prompt_toolkit"] = """
from prompt_toolkit import PromptSession
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.application import create_app_session

def work(n):
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(f"wrong\\x15line {n}\\r")
        return PromptSession().prompt("? ")
"""

SCRIPTS["IPython"] = """
import IPython
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()

def work(n):
    result = shell.run_cell(f"import time; time.sleep(0.01); {n} * 2", silent=True)
    return result.success, shell.ev(f"{n} + 1")
"""

SCRIPTS["rich"] = """
import io
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

def work(n):
    console = Console(file=io.StringIO(), width=40, force_terminal=True)
    with Progress(console=console, refresh_per_second=50) as progress:
        task = progress.add_task("work", total=3)
        while not progress.finished:
            progress.advance(task)
            time.sleep(0.03)
    table = Table("n", "square")
    table.add_row(str(n), str(n * n))
    plain = Console(file=io.StringIO(), width=40)
    plain.print(table)
    return plain.file.getvalue(), "100%" in console.file.getvalue()
"""

SCRIPTS["tqdm"] = """
import io
from tqdm import tqdm

def work(n):
    out = io.StringIO()
    total = sum(tqdm(range(100 + n), file=out, mininterval=0))
    return total, f"{100 + n}/{100 + n}" in out.getvalue()
"""

SCRIPTS["click"] = """
import click
from click.testing import CliRunner

@click.command()
@click.option("--n", type=int, prompt=True)
def square(n):
    click.echo(n * n)

def work(n):
    with lock:  # the runner exchanges sys.stdout
        result = CliRunner().invoke(square, input=f"{n}\\n")
    return result.exit_code, result.output

import threading
lock = threading.Lock()
"""

SCRIPTS["typer"] = """
import threading
import typer
from typer.testing import CliRunner
app = typer.Typer()
lock = threading.Lock()

@app.command()
def square(n: int):
    typer.echo(n * n)

def work(n):
    with lock:
        result = CliRunner().invoke(app, [str(n)])
    return result.exit_code, result.output
"""

SCRIPTS["loguru"] = """
import threading
from loguru import logger
logger.remove()
lines = []
logger.add(lines.append, format="{message} {extra[n]}", enqueue=True)

def work(n):
    with logger.contextualize(n=n):
        logger.info("hello")
        time.sleep(0.01)
        logger.info("again")
    logger.complete()
    return [line for line in map(str, lines) if line.endswith(f" {n}\\n")]

def finish():
    logger.remove()
"""

SCRIPTS["structlog"] = """
import structlog
from structlog.testing import LogCapture

def work(n):
    capture = LogCapture()
    logger = structlog.wrap_logger(None, processors=[structlog.contextvars.merge_contextvars, capture])
    with structlog.contextvars.bound_contextvars(n=n):
        time.sleep(0.01)
        logger.info("hello", square=n * n)
    return capture.entries
"""

SCRIPTS["pytest"] = """
import contextlib, io, pathlib, threading
import pytest
lock = threading.Lock()

def work(n):
    folder = pathlib.Path(f"tests-{n}")
    folder.mkdir(exist_ok=True)
    (folder / f"test_number_{n}.py").write_text('''
import time, threading
def test_good(tmp_path, capsys):
    thread = threading.Thread(target=time.sleep, args=[0.01])
    thread.start()
    thread.join()
    print("hello")
    assert capsys.readouterr().out == "hello\\\\n"
def test_bad():
    assert 1 == 2
''')
    with lock, contextlib.redirect_stdout(io.StringIO()) as out:
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:warnings", "-c", "/dev/null"]
        status = pytest.main([*options, str(folder)])
    return int(status), "1 failed, 1 passed" in out.getvalue()
"""

SCRIPTS["hypothesis"] = """
from hypothesis import given, settings, strategies

def work(n):
    seen = []

    @settings(max_examples=20, derandomize=True, database=None, deadline=None)
    @given(strategies.lists(strategies.integers()))
    def check(numbers):
        seen.append(len(numbers))
        assert sorted(sorted(numbers)) == sorted(numbers)

    check()
    return seen
"""

# ---- computation ---------------------------------------------------------------------------------------

SCRIPTS["numpy"] = """
import numpy

def work(n):
    a = numpy.arange(10000, dtype=float).reshape(100, 100) + n
    numpy.save(f"array-{n}.npy", a)
    return float((a @ a).sum()), bool((numpy.load(f"array-{n}.npy") == a).all())
"""

SCRIPTS["pandas"] = """
import io
import pandas

def work(n):
    frame = pandas.DataFrame({"a": range(10), "b": [n] * 10})
    frame.to_csv(f"frame-{n}.csv", index=False)
    again = pandas.read_csv(f"frame-{n}.csv")
    return again.equals(frame), int(again.groupby("b").a.sum().iloc[0])
"""

SCRIPTS["lxml"] = """
from lxml import etree

def work(n):
    root = etree.fromstring(f"<a>{'<b/>' * n}<c x='{n}'/></a>".encode())
    return len(root.xpath("//b")), root.find("c").get("x"), etree.tostring(root)
"""

SCRIPTS["bs4"] = """
# distribution: beautifulsoup4
import bs4

def work(n):
    soup = bs4.BeautifulSoup(f"<p>one<b>{n}</b><p>two", "html.parser")
    return [p.text for p in soup.find_all("p")], soup.b.string
"""

SCRIPTS["pydantic"] = """
import pydantic

class Item(pydantic.BaseModel):
    n: int
    name: str = "x"

def work(n):
    try:
        Item(n="many")
    except pydantic.ValidationError as exc:
        return Item(n=str(n)).model_dump_json(), exc.error_count()
"""

SCRIPTS["attrs"] = """
import attrs

@attrs.define
class Item:
    n: int = attrs.field(converter=int)

def work(n):
    return Item(str(n)), attrs.asdict(Item(n))
"""

SCRIPTS["yaml"] = """
# distribution: pyyaml
import yaml

def work(n):
    text = yaml.safe_dump({"n": n, "list": [1, {"a": None}]})
    return text, yaml.safe_load(text)
"""

SCRIPTS["cryptography"] = """
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
fernet = Fernet(Fernet.generate_key())

def work(n):
    data = b"data %d" % n
    key.public_key().verify(key.sign(data, ec.ECDSA(hashes.SHA256())), data, ec.ECDSA(hashes.SHA256()))
    return fernet.decrypt(fernet.encrypt(data))
"""

SCRIPTS["PIL"] = """
# distribution: pillow
import io
from PIL import Image

def work(n):
    image = Image.new("RGB", (20, 20), (n, 0, 255))
    image.save(f"image-{n}.png")
    with Image.open(f"image-{n}.png") as again:
        return again.size, again.getpixel((3, 3)), again.resize((5, 5)).tobytes()[:3]
"""

SCRIPTS["jinja2"] = """
import jinja2
templates = {"t": "{% for i in range(n) %}{{ i }},{% endfor %}"}
environment = jinja2.Environment(loader=jinja2.DictLoader(templates))

def work(n):
    return environment.get_template("t").render(n=n)
"""

SCRIPTS["dns"] = """
# distribution: dnspython
import dns.message, dns.resolver, dns.query, dns.rrset
import socket, threading

def serve():
    while True:
        wire, address = server.recvfrom(1000)
        query = dns.message.from_wire(wire)
        answer = dns.message.make_response(query)
        answer.answer = [dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.1")]
        server.sendto(answer.to_wire(), address)

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
threading.Thread(target=serve, daemon=True).start()

def work(n):
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = server.getsockname()[1]
    return [str(record) for record in resolver.resolve(f"name-{n}.example", "A")]
"""

SCRIPTS["msgpack"] = """
import msgpack

def work(n):
    return msgpack.unpackb(msgpack.packb({"n": n, "list": [1.5, None, b"x"]}))
"""

SCRIPTS["orjson"] = """
import orjson

def work(n):
    return orjson.dumps({"n": n, "list": [1.5, None]}), orjson.loads(b"[%d]" % n)
"""

SCRIPTS["dateutil"] = """
# distribution: python-dateutil
import dateutil.parser, dateutil.rrule, dateutil.tz

def work(n):
    at = dateutil.parser.parse(f"2026-02-0{n + 1}T10:00:00+01:00")
    days = dateutil.rrule.rrule(dateutil.rrule.WEEKLY, dtstart=at, count=3)
    return at.isoformat(), [str(day.date()) for day in days]
"""

SCRIPTS["tenacity"] = """
import tenacity

def work(n):
    tries = []

    @tenacity.retry(stop=tenacity.stop_after_attempt(n + 2), wait=tenacity.wait_fixed(0.01))
    def fail():
        tries.append(n)
        raise ValueError(n)

    try:
        fail()
    except tenacity.RetryError as exc:
        return tries, type(exc.last_attempt.exception()).__name__
"""

SCRIPTS["networkx"] = """
import networkx

def work(n):
    graph = networkx.path_graph(5 + n)
    return networkx.shortest_path_length(graph, 0, 4 + n), networkx.number_connected_components(graph)
"""

SCRIPTS["openpyxl"] = """
import openpyxl

def work(n):
    book = openpyxl.Workbook()
    book.active["A1"] = n
    book.save(f"book-{n}.xlsx")
    return openpyxl.load_workbook(f"book-{n}.xlsx").active["A1"].value
"""

SCRIPTS["docutils"] = """
import docutils.core

def work(n):
    return docutils.core.publish_string(f"Title {n}\\n=======\\n\\n*text*", writer_name="pseudoxml")
"""

SCRIPTS["pygments"] = """
import pygments, pygments.lexers, pygments.formatters

def work(n):
    lexer, formatter = pygments.lexers.PythonLexer(), pygments.formatters.HtmlFormatter()
    return pygments.highlight(f"print({n})", lexer, formatter)
"""

SCRIPTS["markdown"] = """
import markdown

def work(n):
    return markdown.markdown(f"# title {n}\\n\\n*text*")
"""

SCRIPTS["marshmallow"] = """
import marshmallow

class Item(marshmallow.Schema):
    n = marshmallow.fields.Int(required=True)

def work(n):
    return Item().load({"n": str(n)}), Item().validate({})
"""

SCRIPTS["cachetools"] = """
import threading
import cachetools
calls = []

@cachetools.cached(cachetools.TTLCache(10, 60), lock=threading.Lock())
def slow(n):
    time.sleep(0.01)
    calls.append(n)
    return n * n

def work(n):
    return slow(n), slow(n), calls.count(n)
"""
