"""evergreen/io/dns.py and dns.c: names and addresses."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest
from helpers import in_thread, output_of, settle

from evergreen import _evergreen_c as core
from evergreen import spawn
from evergreen.io import dns

pytestmark = pytest.mark.usefixtures("hub")


def outcome(function, *args, **kwargs):
    try:
        found = function(*args, **kwargs)
    except Exception as exc:
        return type(exc), exc.args if isinstance(exc, OSError) else None
    return found, [type(value) for item in found for value in item]


@pytest.mark.parametrize(
    "args",
    [
        ("127.0.0.1", 80),
        ("127.1", "80"),
        ("::1", 80),
        ("::1", b"80", socket.AF_INET6, socket.SOCK_STREAM),
        (b"127.0.0.1", None),
        (None, 80),
        (None, 0, 0, 0, 0, socket.AI_PASSIVE),
        (None, None),
        ("localhost", 80),
        ("localhost", "http", 0, socket.SOCK_STREAM),
        ("localhost", "no-such-service"),
        ("localhost", 80, socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
        ("127.0.0.1", 80, socket.AF_INET6),
        ("127.0.0.1", 80, 0, 0, 0, socket.AI_CANONNAME),
        ("localhost", 80, 0, 0, 0, socket.AI_NUMERICHOST),
        ("127.0.0.1", "http", 0, 0, 0, socket.AI_NUMERICSERV),
        ("", 80),
        ("no-such-name.invalid", 80),
        ("a" * 64, 80),
        ("a..b", 80),
        ("bücher.invalid", 80),
        (5, 80),
        ("localhost", 1.5),
        ("localhost", 80, -1),
        ("fe80::1%lo", 80),
    ],
    ids=str,
)
def test_getaddrinfo_gives_what_socket_gives(args):
    assert outcome(dns.getaddrinfo, *args) == outcome(socket.getaddrinfo, *args)


@pytest.mark.parametrize(
    "args",
    [
        (("127.0.0.1", 80), 0),
        (("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV),
        (("127.0.0.1", 80), socket.NI_NUMERICHOST),
        (("127.0.0.1", 53), socket.NI_DGRAM),
        (("::1", 80), socket.NI_NUMERICSERV),
        (("::1", 80, 5, 0), socket.NI_NUMERICHOST),
        (("192.0.2.1", 80), socket.NI_NAMEREQD),
        (("localhost", 80), 0),
        (("127.0.0.1", 80, 0), 0),
        (("::1", 80, 1 << 20), 0),
        (("127.0.0.1",), 0),
        (["127.0.0.1", 80], 0),
        (("127.0.0.1", "80"), 0),
    ],
    ids=str,
)
def test_getnameinfo_gives_what_socket_gives(args):
    ours, theirs = outcome(dns.getnameinfo, *args), outcome(socket.getnameinfo, *args)
    assert ours == theirs or (ours[0] is theirs[0] and issubclass(ours[0], Exception))


def test_numeric_addresses_touch_no_thread(hub):
    found = []
    hub.call_soon(lambda: found.append(dns.getaddrinfo("192.0.2.1", 80)))  # where nothing may wait
    hub.call_soon(lambda: found.append(dns.getnameinfo(("::1", 80), 3)))
    settle()
    assert found[0][0][4] == ("192.0.2.1", 80)
    assert found[1] == ("::1", "80")


def test_a_name_in_a_callback_is_refused(hub):
    caught = []

    def callback():
        try:
            dns.getaddrinfo("localhost", 80)
        except RuntimeError as exc:
            caught.append(exc)

    hub.call_soon(callback)
    settle()
    assert "block the event loop" in str(caught[0])


def test_many_tasks_look_up_at_once():
    tasks = [spawn(dns.getaddrinfo, "localhost", port) for port in range(200)]
    for port, task in enumerate(tasks):
        assert {address[1] for *_, address in task.result()} == {port}


def test_a_thread_without_a_loop_looks_up(hub):
    assert in_thread(dns.getaddrinfo, "localhost", 80) == dns.getaddrinfo("localhost", 80)
    assert in_thread(dns.getnameinfo, ("127.0.0.1", 80), 0) == dns.getnameinfo(("127.0.0.1", 80), 0)


def test_a_lookup_is_audited():
    output_of(
        """
        import sys
        from evergreen.io import dns

        seen = []
        sys.addaudithook(lambda name, args: seen.append((name, args)) if "info" in name else None)
        dns.getaddrinfo("127.0.0.1", 80)
        assert ("socket.getaddrinfo", ("127.0.0.1", 80, 0, 0, 0)) in seen
        """
    )


@pytest.mark.parametrize("args", [("text", None, 0, 0, 0, 0), (b"a\0b", None, 0, 0, 0, 0), (b"a",)])
def test_the_core_refuses_what_is_no_bytes(args):
    with pytest.raises((TypeError, ValueError)):
        core.dns_getaddrinfo(*args)


# ---- a resolver that does not answer ------------------------------------------------------------------

STUCK = """
import os, sys, time
import evergreen
from evergreen.io import dns, fs

def open_lookups(n):
    tasks = [evergreen.spawn(dns.getaddrinfo, "localhost", 80) for _ in range(n)]
    evergreen.sleep(0.02)
    assert all(task.is_alive() for task in tasks)
    assert tasks[0].waiting[:2] == ("name", b"localhost")
    return tasks
"""


def run_stuck(code, tmp_path):
    """Run a script whose lookups of names end when somebody opens argv[1] for writing: its /etc/hosts."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    os.mkfifo(tmp_path / "hosts")
    command = f'mount --bind {tmp_path}/hosts /etc/hosts && exec {sys.executable} -c "$0" {tmp_path}/hosts'
    script = STUCK + textwrap.dedent(code)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, script], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_slow_names_delay_no_file(tmp_path):
    run_stuck(
        """
        from evergreen.timeout import Timeout

        open_lookups(100)
        with Timeout(5):
            for _ in range(100):
                fs.stat("/")
        """,
        tmp_path,
    )


def test_a_killed_lookup_is_left_to_itself(tmp_path):
    run_stuck(
        """
        loop = evergreen.current.loop
        tasks = open_lookups(20)
        for task in tasks:
            task.kill()
            assert task.join(5)
        assert loop.stats()["requests"] == 16  # those that have begun
        loop.destroy()
        """,
        tmp_path,
    )


def test_a_lookup_can_time_out(tmp_path):
    run_stuck(
        """
        from evergreen.timeout import Timeout
        try:
            with Timeout(0.01):
                dns.getnameinfo(("127.0.0.1", 80), 0)
        except Timeout:
            pass
        else:
            raise AssertionError
        """,
        tmp_path,
    )


def test_a_lookup_can_be_waited_for_in_the_child_of_a_fork(tmp_path):
    run_stuck(
        """
        tasks = open_lookups(3)
        pid = evergreen.fork(keep_tasks=True)
        if pid == 0:
            try:
                tasks[0].result()
            except OSError as exc:
                os._exit(exc.errno)
        import errno
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == errno.ECANCELED
        """,
        tmp_path,
    )
