"""Unmodified database drivers, written in C, under ``evergreen run --native``: against real servers.

Each server is private: a temporary folder, a free port, started and stopped here. What is not
installed is skipped: Debian's postgresql and mariadb-server; psycopg2 (or psycopg2-binary) and mysqlclient
from PyPI.
"""

import glob
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from functools import partial

import pytest

PATIENCE = 60  # seconds for a server to come up


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def find(name):
    """The path of a program, or skip."""
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    path = os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(name, path=path) or pytest.skip(f"{name} is not installed")


def need_module(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"the driver {name} is not installed")


@pytest.fixture(scope="module")
def folder():
    """A folder for servers, and what subprocess needs to run them: they refuse to be run by root."""
    with tempfile.TemporaryDirectory(prefix="evergreen-") as path:
        user = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # make asan's
        yield path, {"cwd": path, "stdin": subprocess.DEVNULL, "env": env, **user}


def run_server(command, log, options, ready):
    """Start a server; return it when ready() is true."""
    with open(log, "wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    end = time.monotonic() + PATIENCE
    while not ready():
        if server.poll() is not None or time.monotonic() > end:
            server.kill()
            server.wait()
            with open(log) as text:
                pytest.fail(f"{command[0]} did not start:\n{text.read()}")
        time.sleep(0.05)
    return server


def stop(server, signum=signal.SIGTERM):
    server.send_signal(signum)
    try:
        server.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def postgres(folder):
    """The code that connects to a PostgreSQL server."""
    need_module("psycopg2")
    path, options = folder
    data, port = f"{path}/postgres", free_port()
    initdb = [find("initdb"), "-D", data, "-A", "trust", "-U", "tester", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, **options)
    command = [find("postgres"), "-D", data, "-p", str(port), "-k", path, "-F", "-c", "max_connections=50"]
    command += ["-c", "listen_addresses=127.0.0.1"]
    ask = [find("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    server = run_server(
        command, f"{path}/postgres.log", options, lambda: subprocess.run(ask, **options).returncode == 0
    )
    yield f"""
        import psycopg2
        NAP, ERROR = "pg_sleep", psycopg2.Error
        def connect():
            return psycopg2.connect(host="127.0.0.1", port={port}, user="tester", dbname="postgres")
    """
    stop(server, signal.SIGINT)  # without waiting for queries that were given up


@pytest.fixture(scope="module")
def mariadb(folder):
    """The code that connects to a MariaDB server."""
    need_module("MySQLdb")
    path, options = folder
    data, port = f"{path}/mariadb", free_port()
    install = [find("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--skip-test-db"]
    install += ["--auth-root-authentication-method=normal"]
    subprocess.run(install, check=True, capture_output=True, **options)
    command = [find("mariadbd"), "--no-defaults", f"--datadir={data}", f"--socket={path}/mariadb.sock"]
    command += [f"--port={port}", "--bind-address=127.0.0.1", f"--pid-file={path}/mariadb.pid"]
    command += ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M"]

    def ready():
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    server = run_server(command, f"{path}/mariadb.log", options, ready)
    yield f"""
        import MySQLdb
        NAP, ERROR = "sleep", MySQLdb.Error
        def connect():
            return MySQLdb.connect(host="127.0.0.1", port={port}, user="root")
    """
    stop(server)


@pytest.fixture(params=["postgres", "mariadb"])
def run(request, run_with):
    """Return a function that runs a script with one driver or the other."""
    return partial(run_with, request.getfixturevalue(request.param))


@pytest.fixture
def run_with(tmp_path):
    """Return a function that runs a script, after the code that connects."""

    def run_native(connect, code):
        prelude = "import time\nimport evergreen\nfrom evergreen import native\n" + textwrap.dedent(connect)
        prelude += textwrap.dedent(
            """
            def query(seconds, answer=1):
                connection = connect()
                try:
                    cursor = connection.cursor()
                    cursor.execute(f"select {NAP}(%s)", (seconds,))
                    cursor.execute("select %s", (answer,))
                    return cursor.fetchone()[0]
                finally:
                    connection.close()
            """
        )
        script = tmp_path / "script.py"
        script.write_text(prelude + textwrap.dedent(code))
        command = [sys.executable, "-m", "evergreen", "run", "--native", script]
        child = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (child.returncode, child.stderr) == (0, ""), child.stdout + child.stderr

    return run_native


def test_queries_of_many_tasks_run_at_the_same_time(run):
    run(
        """
        ticks = 0
        def tick():
            global ticks
            while True:
                evergreen.sleep(0.01)
                ticks += 1
        ticker = evergreen.spawn(tick)
        start = time.monotonic()
        tasks = [evergreen.spawn(query, 0.2, i) for i in range(20)]
        assert [task.result() for task in tasks] == list(range(20))
        assert time.monotonic() - start < 2  # 4 s if they were one after the other
        ticker.kill()
        assert ticks >= 10
        assert native.status().caught >= 20
        """
    )


def test_a_big_answer_comes_whole(run):
    run(
        """
        def fetch(i):
            cursor = connect().cursor()
            cursor.execute("select repeat(%s, 1000000)", (str(i),))
            return cursor.fetchone()[0]
        tasks = [evergreen.spawn(fetch, i) for i in range(5)]
        assert [task.result() for task in tasks] == [str(i) * 1_000_000 for i in range(5)]
        """
    )


def test_a_query_that_is_killed_ends_at_once_and_says_why(run):
    run(
        """
        task = evergreen.spawn(query, 50)
        evergreen.sleep(0.3)
        start = time.monotonic()
        task.kill()
        try:
            task.result()
        except evergreen.TaskExit as exc:
            assert isinstance(exc.__context__, ERROR)
        else:
            raise AssertionError("it was killed")
        assert time.monotonic() - start < 5
        """
    )


def test_a_query_has_a_timeout_like_everything_else(run):
    run(
        """
        start = time.monotonic()
        with evergreen.move_on_after(0.3) as scope:
            query(50)
        assert scope.expired
        assert time.monotonic() - start < 5
        assert query(0, 7) == 7  # with a new connection
        """
    )


def test_an_unreachable_server_is_the_drivers_own_error(run):
    run(
        """
        import socket
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        def fail():
            module = __import__("psycopg2" if NAP == "pg_sleep" else "MySQLdb")
            try:
                module.connect(host="127.0.0.1", port=taken.getsockname()[1], user="nobody")
            except ERROR as exc:
                return str(exc)
        assert evergreen.spawn(fail).result()
        """
    )


def test_one_psycopg2_connection_may_be_shared_by_tasks(run_with, postgres):
    # psycopg2 holds a mutex of the connection while it waits: with one thread, that was a deadlock.
    run_with(
        postgres,
        """
        connection = connect()
        def ask(i):
            cursor = connection.cursor()
            cursor.execute("select %s from pg_sleep(0.05)", (i,))
            return cursor.fetchone()[0]
        tasks = [evergreen.spawn(ask, i) for i in range(5)]
        assert [task.result() for task in tasks] == list(range(5))
        """,
    )
