"""pymongo against a small server that speaks its protocol: its monitors are threads, which are tasks here."""

import socketserver
import struct
import threading
import time

import pytest
import servers
from beside import beside_a_ticker

library = pytest.importorskip("pymongo", reason="pymongo is not installed")
bson = pytest.importorskip("bson", reason="pymongo is not installed")


class Mongo(socketserver.StreamRequestHandler):
    """OP_MSG and, for the first hello, OP_QUERY of MongoDB's wire protocol; insert and find."""

    def handle(self):
        while head := self.rfile.read(16):
            length, request, _, code = struct.unpack("<iiii", head)
            body = self.rfile.read(length - 16)
            if code == 2004:  # OP_QUERY: flags, name of the collection, two numbers, document
                command = bson.decode(body[body.index(b"\0", 4) + 9 :])
                reply = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(self.answer(command, []))
                self.send(request, 1, reply)
            else:
                self.message(request, body)

    def message(self, request, body):
        (flags,) = struct.unpack_from("<I", body)
        at, end, command, documents = 4, len(body) - (4 if flags & 1 else 0), None, []
        while at < end:
            kind, (size,) = body[at], struct.unpack_from("<i", body, at + 1)
            part = body[at + 1 : at + 1 + size]
            if kind == 0:
                command = bson.decode(part)
            else:
                documents += bson.decode_all(part[part.index(b"\0", 4) + 1 :])
            at += 1 + size
        reply = bson.encode(self.answer(command, documents))
        if not flags & 2:  # moreToCome: it expects no answer
            self.send(request, 2013, struct.pack("<IB", 0, 0) + reply)

    def send(self, request, code, body):
        self.wfile.write(struct.pack("<iiii", 16 + len(body), 1, request, code) + body)

    def answer(self, command, documents):
        name, value = next(iter(command.items()))
        if name.lower() in ("hello", "ismaster"):
            limits = {"maxBsonObjectSize": 1 << 24, "maxMessageSizeBytes": 1 << 25, "maxWriteBatchSize": 1000}
            versions = {"minWireVersion": 0, "maxWireVersion": 21, "helloOk": True}
            return {"isWritablePrimary": True, "ismaster": True, **limits, **versions, "ok": 1}
        if name == "insert":
            documents = documents or command["documents"]
            with self.server.lock:
                self.server.kept += documents
            return {"n": len(documents), "ok": 1}
        if name == "find":
            time.sleep(0.3)
            with self.server.lock:
                found = [item for item in self.server.kept if item["task"] == command["filter"]["task"]]
            return {"cursor": {"id": 0, "ns": f"{command['$db']}.{value}", "firstBatch": found}, "ok": 1}
        return {"ok": 1}


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


COLLECTION = """
from pymongo import MongoClient

client = MongoClient("127.0.0.1", int(ARGS[0]), heartbeatFrequencyMS=500, maxPoolSize=10)
items = client.shop.items

def work(n):  # twenty tasks, ten connections
    items.insert_many([{"task": 100 + n, "number": i} for i in range(50)])
    found = list(items.find({"task": 100 + n}))
    assert {item["number"] for item in found} == set(range(50))

def check(results):
    client.close()
"""


def test_one_client_of_many_tasks(patch):
    server = Server(("127.0.0.1", 0), Mongo)
    server.kept, server.lock = [], threading.Lock()
    with servers.threaded(server) as port:
        beside_a_ticker("pymongo", COLLECTION, port, slow=0.3, patch=patch, version=library.version)
    assert len(server.kept) == 50 * 21
