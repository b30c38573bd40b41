"""psycopg 3 and psycopg2 against a PostgreSQL server."""

import importlib.util

import pytest
import servers
from beside import beside_a_ticker
from helpers import output_of


@pytest.fixture(scope="module")
def port():
    if not any(importlib.util.find_spec(name) for name in ("psycopg", "psycopg2")):
        pytest.skip("neither psycopg nor psycopg2 is installed")
    with servers.postgres() as port:
        yield port


# Both have the same interface as far as this goes.
QUERIES = """
import {library}
DSN = f"host=127.0.0.1 port={{ARGS[0]}} user=postgres dbname=postgres"

with {library}.connect(DSN) as connection, connection.cursor() as cursor:
    cursor.execute("drop table if exists item; create table item (task int, number int)")
connection.close()

def work(n):
    connection = {library}.connect(DSN)
    with connection, connection.cursor() as cursor:
        cursor.executemany("insert into item values (%s, %s)", [(n, i) for i in range(50)])
        cursor.execute("select pg_sleep(0.3), %s + 1", (n,))
        assert cursor.fetchone()[1] == n + 1
        cursor.execute("select generate_series(1, 20000)")
        assert sum(row[0] for row in cursor.fetchmany(1000)) == 500500
    connection.close()

def check(results):
    with {library}.connect(DSN) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*), sum(task) from item")
        assert cursor.fetchone() == (50 * (TASKS + 1), 50 * sum(range(TASKS)))
"""


@pytest.mark.parametrize("library", ["psycopg", "psycopg2"])
def test_each_task_has_a_connection(port, patch, library):
    version = pytest.importorskip(library, reason=f"{library} is not installed").__version__.split()[0]
    code = QUERIES.format(library=library)
    beside_a_ticker(library, code, port, slow=0.3, patch=patch, version=version)


def test_psycopg_in_python_cooperates_too(port):
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    try:
        code = "import os\nos.environ['PSYCOPG_IMPL'] = 'python'\n" + QUERIES.format(library="psycopg")
        beside_a_ticker("psycopg in Python", code, port, slow=0.3, version=psycopg.__version__)
    except AssertionError as exc:
        if "libpq library not found" in str(exc):
            pytest.skip("libpq is not installed")
        raise


SHARED = """
import psycopg
connection = psycopg.connect(f"host=127.0.0.1 port={ARGS[0]} user=postgres", autocommit=True)

def work(n):  # one after the other: the connection has a lock
    return connection.execute("select pg_sleep(0.02), %s::int * 2", (n,)).fetchone()[1]

def check(results):
    assert results == [n * 2 for n in range(TASKS)]
"""


def test_tasks_may_share_a_connection_of_psycopg(port, patch):
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    # Twenty times 0.02 seconds in turn, so all is well below half of twenty times 0.1.
    beside_a_ticker("psycopg, shared", SHARED, port, slow=0.1, patch=patch, version=psycopg.__version__)


KILLED = """
import {library}
import evergreen
DSN = f"host=127.0.0.1 port={{ARGS[0]}} user=postgres dbname=postgres"

def work(n):
    connection = {library}.connect(DSN)
    with evergreen.move_on_after(0.3) as scope:
        connection.cursor().execute("select pg_sleep(30)")
    assert scope.expired
    connection.close()
    connection = {library}.connect(DSN)
    cursor = connection.cursor()
    cursor.execute("select %s + 0", (n,))
    try:
        return cursor.fetchone()[0]
    finally:
        connection.close()

def check(results):
    assert results == list(range(TASKS))
"""


@pytest.mark.parametrize("library", ["psycopg", "psycopg2"])
def test_a_deadline_ends_a_query(port, library):
    version = pytest.importorskip(library, reason=f"{library} is not installed").__version__.split()[0]
    code = KILLED.format(library=library)
    beside_a_ticker(f"{library}, deadline", code, port, slow=0.3, version=version)


PATCHED_AND_BACK = """
from evergreen import patcher
import psycopg, psycopg2.extensions
native = psycopg.waiting.wait
assert psycopg2.extensions.get_wait_callback() is None
for _ in range(2):
    patcher.patch()
    patcher.patch()
    assert psycopg.waiting.wait is not native and psycopg.waiting.wait.native is native
    assert psycopg2.extensions.get_wait_callback() is not None
    patcher.unpatch()
    assert psycopg.waiting.wait is native
    assert psycopg2.extensions.get_wait_callback() is None
own = lambda connection: None
psycopg2.extensions.set_wait_callback(own)
with patcher.patched():
    assert psycopg2.extensions.get_wait_callback() is own
with patcher.patched(select=False, time=True):
    assert psycopg.waiting.wait is native
assert psycopg2.extensions.get_wait_callback() is own
"""


def test_unpatching_puts_back_what_the_drivers_waited_with():
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    if psycopg.pq.__impl__ == "python":
        pytest.skip("psycopg waits in Python here")
    assert output_of(PATCHED_AND_BACK) == ""


IN_A_NATIVE_THREAD = """
import sys, threading
from evergreen import patcher
import {library}
native_start = patcher.original("_thread").start_new_thread
patcher.patch()
DSN = f"host=127.0.0.1 port={{sys.argv[1]}} user=postgres dbname=postgres"
rows = []
done = patcher.original("threading").Event()

def query():
    try:
        connection = {library}.connect(DSN)
        cursor = connection.cursor()
        cursor.execute("select pg_sleep(0.1), 7")
        rows.append(cursor.fetchone()[1])
        connection.close()
    finally:
        done.set()

native_start(query, ())
done.wait(20)
print(rows)
"""


@pytest.mark.parametrize("library", ["psycopg", "psycopg2"])
def test_native_threads_go_on_as_ever(port, library):
    pytest.importorskip(library, reason=f"{library} is not installed")
    assert output_of(IN_A_NATIVE_THREAD.format(library=library), port) == "[7]\n"
