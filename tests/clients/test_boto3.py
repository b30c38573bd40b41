"""boto3 against moto's server."""

import sys

import pytest
import servers
from beside import beside_a_ticker

library = pytest.importorskip("boto3", reason="boto3 is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    port, folder = servers.free_port(), tmp_path_factory.mktemp("moto")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    with servers.process(command, port, folder / "log"):
        yield port


# The server works in Python, on one core: what takes time is what it calculates.
BUCKETS = """
import boto3
from botocore.config import Config

s3 = boto3.client(
    "s3",
    endpoint_url=f"http://127.0.0.1:{ARGS[0]}",
    region_name="us-east-1",
    aws_access_key_id="key",
    aws_secret_access_key="secret",
    config=Config(max_pool_connections=30),
)

def work(n):
    bucket = f"bucket-{n}"
    s3.create_bucket(Bucket=bucket)
    for i in range(3):
        s3.put_object(Bucket=bucket, Key=f"key-{i}", Body=bytes([n]) * 10_000)
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["Key"] for item in listed] == ["key-0", "key-1", "key-2"]
    for i in range(3):
        assert s3.get_object(Bucket=bucket, Key=f"key-{i}")["Body"].read() == bytes([n]) * 10_000
    time.sleep(0.3)
"""


def test_one_client_of_many_tasks(port, patch):
    beside_a_ticker("boto3", BUCKETS, port, slow=0.3, patch=patch, version=library.__version__)
