"""SQLAlchemy over psycopg, psycopg2, PyMySQL and sqlite3."""

import pytest
import servers
from beside import beside_a_ticker

library = pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")


@pytest.fixture(scope="module")
def postgres():
    with servers.postgres() as port:
        yield port


@pytest.fixture(scope="module")
def mariadb():
    with servers.mariadb() as port:
        yield port


# The pool has room for ten: the other tasks wait for a connection, in a condition of `threading`.
ORM = """
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

engine = create_engine(ARGS[0], pool_size=5, max_overflow=5, pool_timeout=20)

class Base(DeclarativeBase):
    pass

class Item(Base):
    __tablename__ = "item_of_sqlalchemy"
    id: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[int]

Base.metadata.drop_all(engine)
Base.metadata.create_all(engine)
Session = scoped_session(sessionmaker(engine))  # one for each thread: here, for each task

def work(n):
    session = Session()
    session.add_all([Item(task=n) for _ in range(5)])
    session.flush()
    session.execute(text(ARGS[1]))
    assert Session() is session
    found = session.scalars(select(Item).where(Item.task == n)).all()
    assert len(found) >= 5 and all(item.task == n for item in found)
    session.commit()
    Session.remove()
    return id(session)

def check(results):
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Item)) == 5 * (TASKS + 1)
"""


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sessions_over_postgresql(postgres, patch, driver):
    pytest.importorskip(driver, reason=f"{driver} is not installed")
    url = f"postgresql+{driver}://postgres@127.0.0.1:{postgres}/postgres"
    name = f"SQLAlchemy, {driver}"
    sleep = "select pg_sleep(0.2)"
    beside_a_ticker(name, ORM, url, sleep, slow=0.2, patch=patch, version=library.__version__)


def test_sessions_over_mariadb(mariadb, patch):
    pytest.importorskip("pymysql", reason="PyMySQL is not installed")
    url = f"mysql+pymysql://root@127.0.0.1:{mariadb}/test"
    prepare = """
import pymysql
with pymysql.connect(host="127.0.0.1", port=int(ARGS[2]), user="root") as connection:
    connection.cursor().execute("create database if not exists test")
"""
    version = library.__version__
    sleep = "select sleep(0.2)"
    beside_a_ticker(
        "SQLAlchemy, PyMySQL", prepare + ORM, url, sleep, mariadb, slow=0.2, patch=patch, version=version
    )


SQLITE = """
from sqlalchemy import create_engine, text

engine = create_engine(f"sqlite:///{ARGS[0]}/database", pool_size=5, max_overflow=0, pool_timeout=20)
with engine.begin() as connection:
    connection.execute(text("create table item (task int)"))

def work(n):
    with engine.begin() as connection:
        connection.execute(text("insert into item values (:n)"), {"n": n})
    with engine.connect() as connection:
        rows = connection.execute(text("select task from item where task = :n"), {"n": n}).all()
        time.sleep(0.1)  # with the connection taken: a file waits for nobody
        return {row[0] for row in rows}

def check(results):
    assert results == [{n} for n in range(TASKS)]
"""


def test_connections_to_a_file_of_sqlite(tmp_path, patch):
    version = library.__version__
    beside_a_ticker("SQLAlchemy, sqlite3", SQLITE, tmp_path, slow=0.1, patch=patch, version=version)
