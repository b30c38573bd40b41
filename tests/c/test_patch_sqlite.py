"""patch_sqlite.c: while a database is locked, other tasks run, and the one that has the lock goes on."""

import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest
from helpers import in_thread, output_of, settle

import evergreen
from evergreen import TaskExit, patcher, sleep, spawn
from evergreen import _evergreen_c as core


class EarlyCursor(sqlite3.Cursor):
    """Made before anything is patched."""


@pytest.fixture
def patched(hub):
    with patcher.patched(sqlite3=True, time=True):
        yield hub


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "database"
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (n)")
        connection.executemany("insert into t values (?)", [(n,) for n in range(3)])
    connection.close()
    return path


@pytest.fixture
def lock(path, patched):
    """A connection that has locked the database for everybody."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("begin exclusive")
    yield connection
    connection.close()


@pytest.fixture
def other(path, patched):
    connection = sqlite3.connect(path, timeout=30)
    yield connection
    connection.close()


def parked(function, *args):
    """A task that is inside function(*args), waiting for the lock."""
    task = spawn(function, *args)
    settle()
    assert task.is_alive()
    return task


CALLS = {
    "execute": lambda c: c.execute("insert into t values (7)") and c.commit(),
    "select": lambda c: c.execute("select * from t").fetchall(),
    "executemany": lambda c: c.executemany("insert into t values (?)", [(7,), (8,)]) and c.commit(),
    "executescript": lambda c: c.executescript("insert into t values (7); insert into t values (8);"),
    "cursor": lambda c: c.cursor().execute("select * from t").fetchone(),
    "cursor.executescript": lambda c: c.cursor().executescript("insert into t values (7)"),
    "backup": lambda c: c.backup(sqlite3.connect(":memory:")),
    "pragma": lambda c: c.execute("pragma user_version = 7"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_task_waits_for_the_lock_of_another_task(lock, other, call):
    ticks = []
    task = parked(call, other)
    spawn(lambda: [ticks.append(1) or sleep(0.001) for _ in range(10)]).join()
    while not task.waiting:  # it is about to try again
        sleep(0)
    assert task.waiting[0] == "locked database"
    lock.execute("rollback")
    task.result()


def test_a_commit_waits_for_the_last_reader(path, patched, other):
    reader = sqlite3.connect(path)
    rows = reader.execute("select * from t")
    next(rows)  # a shared lock: a writer may begin, not commit
    other.execute("insert into t values (7)")
    task = parked(other.commit)
    rows.fetchall()
    task.result()
    assert reader.execute("select count(*) from t").fetchone() == (4,)
    reader.close()


@pytest.mark.parametrize("factory", [sqlite3.Cursor, EarlyCursor])
def test_rows_that_are_fetched_one_by_one(lock, other, factory):
    def read():
        return [row for row in other.cursor(factory).execute("select n from t")]

    task = parked(read)
    lock.execute("rollback")
    assert task.result() == [(0,), (1,), (2,)]


def test_another_process_has_the_lock(path, patched, other):
    code = """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("begin exclusive")
    print("locked", flush=True)
    sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1) as child:
        child.stdout.readline()
        task = parked(CALLS["execute"], other)
        child.stdin.close()
        task.result()


def test_what_is_not_in_time_is_an_error_as_ever(lock, path):
    late = sqlite3.connect(path, timeout=0.05)
    start = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        late.execute("insert into t values (7)")
    assert time.monotonic() - start >= 0.05
    late.close()


def test_a_task_that_is_killed_while_it_waits(lock, other):
    task = parked(CALLS["execute"], other)
    start = time.monotonic()
    task.kill(reason="enough")
    with pytest.raises(TaskExit) as caught:
        task.result()
    assert caught.value.reason == "enough"
    assert time.monotonic() - start < 10  # of its 30 seconds
    lock.execute("rollback")
    other.rollback()
    CALLS["execute"](other)  # the connection is as good as before
    assert other.execute("select count(*) from t").fetchone() == (4,)


def test_a_deadline_ends_the_wait(lock, other):
    with pytest.raises(TimeoutError):
        with evergreen.fail_after(0.02):
            CALLS["execute"](other)
    passed = False
    with evergreen.move_on_after(0.02):
        CALLS["select"](other)
        passed = True
    assert not passed
    lock.execute("rollback")
    other.rollback()
    CALLS["execute"](other)


def test_tasks_that_share_a_connection_wait_for_each_other(lock, other):
    order = []

    def insert(n):
        other.execute("insert into t values (?)", (n,))
        order.append(n)

    first = parked(insert, 10)
    second, third = parked(insert, 11), parked(CALLS["select"], other)
    cursor = other.cursor()
    fourth = parked(cursor.execute, "select 1")
    lock.execute("rollback")
    for task in (first, second, third, fourth):
        task.result()
    assert order == [10, 11]
    other.commit()
    assert other.execute("select count(*) from t").fetchone() == (5,)


def test_a_callback_that_would_have_to_wait_is_refused(lock, other, patched):
    task = parked(CALLS["select"], other)
    errors = []

    def callback():
        try:
            other.execute("select 1")
        except RuntimeError as exc:
            errors.append(str(exc))

    patched.call_soon(callback)
    settle()
    assert errors == ["a task is in a call of this connection, and a callback cannot wait"]
    lock.execute("rollback")
    task.result()


def test_functions_and_authorizers_may_use_the_connection_again(other):
    other.create_function("twice", 1, lambda n: other.execute("select ? * 2", (n,)).fetchone()[0])
    assert other.execute("select twice(21)").fetchone() == (42,)


def test_a_native_thread_waits_natively(lock, path):
    def insert():
        connection = sqlite3.connect(path, timeout=0.02)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("insert into t values (7)")
        connection.close()
        return core.loop_here()

    assert in_thread(insert) is None


def test_many_writers_at_once(path, patched):
    def write(n):
        connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        for _ in range(5):
            connection.execute("begin immediate")
            sleep(0.001)  # with the lock
            connection.execute("insert into t values (?)", (n,))
            connection.execute("commit")
        connection.close()

    tasks = [spawn(write, n) for n in range(10)]
    for task in tasks:
        task.result()
    with sqlite3.connect(path) as connection:
        assert connection.execute("select count(*) from t").fetchone() == (53,)
    connection.close()


def test_write_ahead_logs(path, patched, other):
    assert other.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("begin immediate")
    assert other.execute("select count(*) from t").fetchone() == (3,)
    task = parked(CALLS["execute"], other)
    writer.execute("commit")
    task.result()
    writer.close()


def test_it_is_patched_when_it_is_imported_later(path):
    code = """
    import sys
    from evergreen import patcher, sleep, spawn
    patcher.patch()
    assert "_sqlite3" not in sys.modules
    import sqlite3
    one, two = (sqlite3.connect(sys.argv[1], isolation_level=None) for _ in range(2))
    one.execute("begin exclusive")
    task = spawn(two.execute, "insert into t values (7)")
    while not task.waiting:
        sleep(0.001)
    print(task.waiting[0])
    one.execute("commit")
    task.result()
    """
    assert output_of(code, path) == "locked database\n"
