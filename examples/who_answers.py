"""Which of these addresses accept connections?  They are all tried at once, and nothing is patched.

    python examples/who_answers.py localhost:22 localhost:80 example.org:443

Without arguments it tries two ports of its own, of which one listens.
"""

import sys

import evergreen
from evergreen.lib import socket


def answers(host, port):
    """Return how a connection attempt of at most two seconds ends, in words."""
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return "answers"
    except OSError as exc:
        return f"does not: {exc.strerror or exc}"


def main(addresses):
    tries = {address: evergreen.spawn(answers, *address.rsplit(":", 1)) for address in addresses}
    for address, attempt in tries.items():
        print(address, attempt.result())


def demonstrate():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and no listen()
        main(f"127.0.0.1:{sock.getsockname()[1]}" for sock in (listener, deaf))


if __name__ == "__main__":
    evergreen.run(main, sys.argv[1:]) if sys.argv[1:] else evergreen.run(demonstrate)
