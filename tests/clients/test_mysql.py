"""PyMySQL against a MariaDB server."""

import importlib.metadata

import pytest
import servers
from beside import beside_a_ticker

pytest.importorskip("pymysql", reason="PyMySQL is not installed")
VERSION = importlib.metadata.version("PyMySQL")


@pytest.fixture(scope="module")
def port():
    with servers.mariadb() as port:
        yield port


QUERIES = """
import pymysql

def connect():
    return pymysql.connect(host="127.0.0.1", port=int(ARGS[0]), user="root", database="test")

with pymysql.connect(host="127.0.0.1", port=int(ARGS[0]), user="root") as connection:
    connection.cursor().execute("create database if not exists test")
with connect() as connection:
    connection.cursor().execute("drop table if exists item")
    connection.cursor().execute("create table item (task int, number int)")

def work(n):
    with connect() as connection, connection.cursor() as cursor:
        cursor.executemany("insert into item values (%s, %s)", [(n, i) for i in range(50)])
        connection.commit()
        cursor.execute("select sleep(0.3), %s + 1", (n,))
        assert cursor.fetchone()[1] == n + 1
        cursor.execute("select seq, repeat('x', 100) from seq_1_to_1000")
        assert sum(len(row[1]) for row in cursor.fetchall()) == 100_000

def check(results):
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("select count(*), sum(task) from item")
        assert cursor.fetchone() == (50 * (TASKS + 1), 50 * sum(range(TASKS)))
"""


def test_each_task_has_a_connection(port, patch):
    beside_a_ticker("PyMySQL", QUERIES, port, slow=0.3, patch=patch, version=VERSION)


DEADLINE = """
import pymysql

def connect():
    return pymysql.connect(host="127.0.0.1", port=int(ARGS[0]), user="root", read_timeout=0.4)

def work(n):
    try:
        with connect() as connection:
            connection.cursor().execute("select sleep(20)")
    except pymysql.err.OperationalError as exc:
        assert "timed out" in str(exc), exc
    else:
        raise AssertionError("the query was not given up")
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("select %s", (n,))
        return cursor.fetchone()[0]

def check(results):
    assert results == list(range(TASKS))
"""


def test_a_read_timeout_ends_a_query(port):
    beside_a_ticker("PyMySQL, read_timeout", DEADLINE, port, slow=0.4, version=VERSION)
