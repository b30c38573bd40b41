"""redis-py against a Redis server."""

import pytest
import servers
from beside import beside_a_ticker

library = pytest.importorskip("redis", reason="redis is not installed")


@pytest.fixture(scope="module")
def port():
    with servers.redis() as port:
        yield port


POOLED = """
import redis
client = redis.Redis(port=int(ARGS[0]), socket_timeout=10)
client.flushdb()

def work(n):
    for i in range(50):
        client.incr("total")
        client.set(f"key-{n}-{i}", n * i)
    pipe = client.pipeline()
    for i in range(50):
        pipe.get(f"key-{n}-{i}")
    assert [int(value) for value in pipe.execute()] == [n * i for i in range(50)]
    assert client.blpop(f"nothing-{n}", timeout=0.3) is None
    return int(client.incrby("after", n))

def check(results):
    assert int(client.get("total")) == 50 * (TASKS + 1)
    assert max(results) == sum(range(TASKS)), results
"""


def test_a_client_with_a_pool(port, patch):
    beside_a_ticker("redis-py", POOLED, port, slow=0.3, patch=patch, version=library.__version__)


HANDED_OVER = """
import redis
client = redis.Redis(port=int(ARGS[0]))
client.flushdb()

def work(n):  # each even task waits for what its odd neighbour pushes, later
    if n % 2:
        time.sleep(0.3)
        for i in range(30):
            client.rpush(f"queue-{n}", i)
        return list(range(30))
    got = []
    if n == 0 and "warm" not in globals():
        globals()["warm"] = True
        return got
    while len(got) < 30:
        got.append(int(client.blpop(f"queue-{n + 1}", timeout=10)[1]))
    return got

def check(results):
    assert results == [list(range(30))] * TASKS
"""


def test_tasks_hand_items_over_through_the_server(port, patch):
    beside_a_ticker("redis-py, lists", HANDED_OVER, port, slow=0.3, patch=patch, version=library.__version__)


SUBSCRIBED = """
import redis
client = redis.Redis(port=int(ARGS[0]))

def work(n):
    with client.pubsub() as subscription:
        subscription.subscribe(f"channel-{n}")
        assert subscription.get_message(timeout=5)["type"] == "subscribe"
        assert subscription.get_message(timeout=0.3) is None
        client.publish(f"channel-{n}", f"hello {n}")
        return subscription.get_message(timeout=5)["data"].decode()

def check(results):
    assert results == [f"hello {n}" for n in range(TASKS)]
"""


def test_subscriptions(port, patch):
    beside_a_ticker("redis-py, pubsub", SUBSCRIBED, port, slow=0.3, patch=patch, version=library.__version__)
