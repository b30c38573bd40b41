"""pika against RabbitMQ."""

import os
import shutil
import socket
import subprocess

import pytest
import servers
from beside import beside_a_ticker

library = pytest.importorskip("pika", reason="pika is not installed")


@pytest.fixture(scope="module")
def port():
    _, epmd = servers.need("erl", "epmd")
    found = [p for p in ("/usr/lib/rabbitmq/bin/rabbitmq-server", shutil.which("rabbitmq-server")) if p]
    found = [path for path in found if os.path.exists(path)]
    if not found:
        pytest.skip("rabbitmq-server is not installed")
    with servers.new_folder("rabbitmq") as folder:
        yield from broker(folder, found[0], epmd)


def broker(folder, binary, epmd):
    port, spread, names = servers.free_port(), servers.free_port(), servers.free_port()
    environment = {
        **os.environ,
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"clients{port}@{socket.gethostname().partition('.')[0]}",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(spread),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "logs"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "ERL_EPMD_PORT": str(names),
    }
    (folder / "plugins").write_text("[].\n")
    (folder / "rabbitmq.conf").write_text("default_user = guest\ndefault_pass = guest\n")
    command = [*servers.as_nobody(folder), binary]
    try:
        with servers.process(command, port, folder / "log", env=environment, cwd=folder):
            yield port
    finally:  # the broker has started a daemon, which knows the names of Erlang's nodes
        subprocess.run([epmd, "-port", str(names), "-kill"], capture_output=True)


QUEUES = """
import pika

def connect():
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", int(ARGS[0]), socket_timeout=20))

def work(n):
    connection = connect()
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.confirm_delivery()
    for i in range(20):
        channel.basic_publish("", queue, f"{n} {i}".encode())
    got = []
    for method, properties, body in channel.consume(queue, inactivity_timeout=0.3):
        if method is None:
            break
        channel.basic_ack(method.delivery_tag)
        got.append(body.decode())
    assert got == [f"{n} {i}" for i in range(20)]
    connection.close()
"""


def test_each_task_has_a_connection(port, patch):
    beside_a_ticker("pika", QUEUES, port, slow=0.3, patch=patch, version=library.__version__)
