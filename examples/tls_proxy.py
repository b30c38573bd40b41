"""Put TLS before any TCP server: ``python examples/tls_proxy.py CERTIFICATE.pem LISTEN TARGET``.

Clients that connect to LISTEN in TLS talk to TARGET, which speaks plain text.  LISTEN and TARGET are
``host:port``; the certificate's file holds the private key as well.  Each connection is one task for each
direction, and each reads like a loop over blocking calls.
"""

import argparse
import ssl
import sys

import evergreen
from evergreen.io.tcp import TCPClient
from evergreen.io.tls import TLSServer


def address(text):
    """Return (host, port) of "host:port"."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return host.strip("[]") or "127.0.0.1", int(port)


def copy(source, sink):
    """Pass on what comes until its end, then say that there is no more."""
    while data := source.read(65536):
        sink.write(data)
    sink.shutdown()


def forward(client, target):
    """Connect a client with the target; both directions end before the connection does."""
    with TCPClient() as server:
        server.connect(target)
        with evergreen.TaskGroup() as directions:
            directions.spawn(copy, client, server)
            directions.spawn(copy, server, client)


def serve(listen, target, context):
    """Forward connections until somebody presses Ctrl-C."""

    def handle(client):
        name = client.peername
        try:
            forward(client, target)
        except* OSError as group:
            print(f"{name}: {group.exceptions[0]}", file=sys.stderr)

    server = TLSServer(handle, context)
    server.bind(listen)
    print("listening on {}:{}".format(*server.sockname[:2]), flush=True)
    try:
        server.serve()
    finally:
        server.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("certificate", help="a PEM file with certificate and private key")
    parser.add_argument("listen", type=address, help="host:port for TLS; port 0 is any free one")
    parser.add_argument("target", type=address, help="host:port of the plain server")
    options = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.certificate)
    except OSError as error:
        sys.exit(f"{options.certificate}: {error}")
    try:
        evergreen.run(serve, options.listen, options.target, context)
    except KeyboardInterrupt:
        pass
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
