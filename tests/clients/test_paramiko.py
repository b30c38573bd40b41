"""paramiko against sshd: its transport is a thread, which is a task here."""

import getpass
import os
import subprocess

import pytest
import servers
from beside import beside_a_ticker

library = pytest.importorskip("paramiko", reason="paramiko is not installed")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """A server for this user and one key; yields its port and the path of the key."""
    daemon, keygen = servers.need("sshd", "ssh-keygen")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    if os.getuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd wants it when it starts as root
    port = servers.free_port()
    (folder / "config").write_text(
        f"""
        Port {port}
        ListenAddress 127.0.0.1
        HostKey {folder}/host
        PidFile {folder}/pid
        AuthorizedKeysFile {folder}/user.pub
        StrictModes no
        UsePAM no
        PasswordAuthentication no
        MaxStartups 100
        PerSourceMaxStartups none
        Subsystem sftp internal-sftp
        SetEnv HOME={folder}
        """
    )
    with servers.process([daemon, "-D", "-e", "-f", folder / "config"], port, folder / "log"):
        yield port, folder / "user"


CONNECT = """
import paramiko

def connect():
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect("127.0.0.1", int(ARGS[0]), username=ARGS[2], key_filename=ARGS[1],
                   allow_agent=False, look_for_keys=False, timeout=30, banner_timeout=30, auth_timeout=30)
    return client
"""

COMMANDS = (
    CONNECT
    + """
def work(n):
    with connect() as client:
        _, output, _ = client.exec_command(f"sleep 0.5; echo hello {n}; exit {n}")
        assert output.read().decode() == f"hello {n}\\n"
        assert output.channel.recv_exit_status() == n
"""
)

CHANNELS = (
    CONNECT
    + """
client = connect()
client.get_transport().window_size = 2**20

def work(n):  # many channels of one connection
    stdin, output, _ = client.exec_command("cat; sleep 0.5", timeout=20)
    text = f"{n} over and over\\n" * 1000
    stdin.write(text)
    stdin.close()
    stdin.channel.shutdown_write()
    assert output.read().decode() == text
"""
)

FILES = (
    CONNECT
    + """
import os, tempfile
folder = tempfile.mkdtemp()

def work(n):
    with connect() as client, client.open_sftp() as sftp:
        with sftp.open(f"{folder}/{n}", "wb") as file:
            file.write(bytes([n]) * 100_000)
        with sftp.open(f"{folder}/{n}", "rb") as file:
            assert file.read() == bytes([n]) * 100_000
        sftp.remove(f"{folder}/{n}")
        time.sleep(0.5)

def check(results):
    os.rmdir(folder)
"""
)


@pytest.mark.parametrize("name, code", [("commands", COMMANDS), ("channels", CHANNELS), ("sftp", FILES)])
def test_tasks_work_over_ssh(sshd, patch, name, code):
    name = f"paramiko, {name}"
    who, version = getpass.getuser(), library.__version__
    beside_a_ticker(name, code, *sshd, who, slow=0.5, patch=patch, tasks=8, version=version)
