"""The standard library's own clients: smtplib, poplib, imaplib, ftplib, xmlrpc.client."""

import pathlib
import socket
import socketserver
import ssl
import time
import xmlrpc.server

import pytest
import servers
from beside import beside_a_ticker

CERTIFICATE = pathlib.Path(__file__).parents[1] / "data" / "localhost.pem"


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.kept = []

    def handle_error(self, request, client_address):
        pass


class Lines(socketserver.StreamRequestHandler):
    def say(self, *lines):
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

    def commands(self):
        while line := self.rfile.readline():
            yield line.decode().strip()


class Smtp(Lines):
    """Enough of RFC 5321 and STARTTLS (RFC 3207); slow to accept what it is given."""

    def handle(self):
        self.say("220 here")
        for line in self.commands():
            word = line.split()[0].upper()
            if word == "EHLO":
                self.say("250-here", "250 STARTTLS")
            elif word == "STARTTLS":
                self.say("220 go ahead")
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(CERTIFICATE)
                self.request = context.wrap_socket(self.request, server_side=True)
                self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", 0)
            elif word == "DATA":
                self.say("354 go on")
                text = []
                while (line := self.rfile.readline()) != b".\r\n":
                    text.append(line)
                time.sleep(0.3)
                self.server.kept.append(b"".join(text))
                self.say("250 taken")
            elif word == "QUIT":
                return self.say("221 bye")
            else:
                self.say("250 ok")


SMTP = """
import smtplib, ssl
from email.message import EmailMessage

def work(n):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.org", "b@example.org", f"letter {n}"
    message.set_content(f"this is letter {n}\\n" * 1000)
    with smtplib.SMTP("localhost", int(ARGS[0]), timeout=20) as client:
        if ARGS[2] == "tls":
            client.starttls(context=ssl.create_default_context(cafile=ARGS[1]))
        assert client.send_message(message) == {}
"""


@pytest.mark.parametrize("tls", ["plain", "tls"])
def test_smtplib(tls):
    server = Server(Smtp)
    with servers.threaded(server) as port:
        beside_a_ticker(f"smtplib, {tls}", SMTP, port, CERTIFICATE, tls, slow=0.3, patch="last")
    assert len(server.kept) == 21  # the first was sent before the others began
    for n in range(20):
        assert any(f"this is letter {n}\r\n".encode() * 1000 in letter for letter in server.kept)


class Pop(Lines):
    def handle(self):
        self.say("+OK here")
        for line in self.commands():
            word, *rest = line.split()
            if word == "RETR":
                time.sleep(0.3)
                self.say("+OK", *(f"line {i} of {rest[0]}" for i in range(1000)), ".")
            elif word == "STAT":
                self.say("+OK 100 1000")
            else:
                self.say("+OK")
            if word == "QUIT":
                return


POP = """
import poplib

def work(n):
    client = poplib.POP3("localhost", int(ARGS[0]), timeout=20)
    client.user("u"), client.pass_("p")
    assert client.stat() == (100, 1000)
    _, lines, _ = client.retr(n + 1)
    client.quit()
    assert lines == [f"line {i} of {n + 1}".encode() for i in range(1000)]
"""


def test_poplib():
    with servers.threaded(Server(Pop)) as port:
        beside_a_ticker("poplib", POP, port, slow=0.3, patch="last")


class Imap(Lines):
    """Enough of RFC 3501 to log in and fetch."""

    def handle(self):
        self.say("* OK here")
        for line in self.commands():
            tag, word, *rest = line.split()
            if word == "CAPABILITY":
                self.say("* CAPABILITY IMAP4REV1")
            elif word == "SELECT":
                self.say("* 100 EXISTS")
            elif word == "FETCH":
                time.sleep(0.3)
                body = f"mail {rest[0]}\r\n" * 1000
                self.say(f"* {rest[0]} FETCH (RFC822 {{{len(body)}}}", body + ")")
            elif word == "LOGOUT":
                self.say("* BYE")
            self.say(f"{tag} OK done")
            if word == "LOGOUT":
                return


IMAP = """
import imaplib

def work(n):
    client = imaplib.IMAP4("localhost", int(ARGS[0]), timeout=20)
    client.login("user", "password")
    assert client.select() == ("OK", [b"100"])
    status, data = client.fetch(str(n + 1), "(RFC822)")
    assert status == "OK" and data[0][1] == f"mail {n + 1}\\r\\n".encode() * 1000
    client.logout()
"""


def test_imaplib():
    with servers.threaded(Server(Imap)) as port:
        beside_a_ticker("imaplib", IMAP, port, slow=0.3, patch="last")


class Ftp(Lines):
    """Enough of RFC 959 and 2428 for passive transfers."""

    def handle(self):
        self.say("220 here")
        for line in self.commands():
            word, *rest = line.split()
            if word in ("EPSV", "PASV"):
                listener = socket.create_server(("127.0.0.1", 0))
                port = listener.getsockname()[1]
                if word == "EPSV":
                    self.say(f"229 go (|||{port}|)")
                else:
                    self.say(f"227 go (127,0,0,1,{port >> 8},{port & 255})")
            elif word in ("RETR", "STOR"):
                self.say("150 here it comes")
                peer, _ = listener.accept()
                listener.close()
                time.sleep(0.3)
                with peer:
                    if word == "RETR":
                        peer.sendall(rest[0].encode() * 50_000)
                    else:
                        with peer.makefile("rb") as stream:
                            self.server.kept.append((rest[0], stream.read()))
                self.say("226 done")
            elif word == "USER":
                self.say("331 and?")
            elif word == "QUIT":
                return self.say("221 bye")
            elif word == "PASS":
                self.say("230 come in")
            else:
                self.say("200 ok")


FTP = """
import ftplib, io

def work(n):
    with ftplib.FTP(timeout=20) as client:
        client.connect("localhost", int(ARGS[0]))
        client.login("user", "password")
        got = []
        client.retrbinary(f"RETR file{n}", got.append)
        assert b"".join(got) == f"file{n}".encode() * 50_000
        client.storbinary(f"STOR file{n}", io.BytesIO(bytes([n]) * 300_000))
"""


def test_ftplib():
    server = Server(Ftp)
    with servers.threaded(server) as port:
        beside_a_ticker("ftplib", FTP, port, slow=0.6, patch="last")
    assert dict(server.kept) == {f"file{n}": bytes([n]) * 300_000 for n in range(20)}


class XmlRpcServer(socketserver.ThreadingMixIn, xmlrpc.server.SimpleXMLRPCServer):
    request_queue_size = 128
    daemon_threads = True


XMLRPC = """
import xmlrpc.client

def work(n):
    with xmlrpc.client.ServerProxy(f"http://localhost:{ARGS[0]}/") as proxy:
        assert proxy.slowly_add(n, [1, 2, 3]) == n + 6
        try:
            proxy.no_such_method()
        except xmlrpc.client.Fault as fault:
            assert "not supported" in fault.faultString
"""


def test_xmlrpc():
    server = XmlRpcServer(("127.0.0.1", 0), logRequests=False)

    def slowly_add(number, more):
        time.sleep(0.3)
        return number + sum(more)

    server.register_function(slowly_add)
    with servers.threaded(server) as port:
        beside_a_ticker("xmlrpc.client", XMLRPC, port, slow=0.3, patch="last")
