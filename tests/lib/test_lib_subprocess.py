"""evergreen.lib.subprocess, os and io: children and pipes that let other tasks run, unpatched."""

import io as standard_io
import os as standard_os
import subprocess as standard

import pytest

from evergreen import spawn
from evergreen.lib import io, os, subprocess


def test_five_children_run_at_once_beside_a_ticker(either, ticks):
    children = [spawn(subprocess.run, ["sleep", "0.05"], check=True) for _ in range(5)]
    for child in children:
        assert child.result().returncode == 0
    assert ticks[0]


def test_children_that_wait_for_each_other_all_run(either):
    """The first one ends only when the last one has written."""
    r, w = os.pipe()
    tasks = [spawn(subprocess.run, ["head", "-c1"], stdin=r, capture_output=True)]
    tasks += [spawn(subprocess.run, "printf x", shell=True, stdout=w)]
    assert tasks[0].result().stdout == b"x"
    tasks[1].join()
    os.close(r)
    os.close(w)


def test_output_is_captured_while_others_run(either, ticks):
    assert subprocess.check_output("sleep 0.02; echo out", shell=True, text=True) == "out\n"
    assert ticks[0]
    child = subprocess.run(["cat"], input=b"x" * 300_000, capture_output=True)
    assert len(child.stdout) == 300_000
    assert subprocess.getoutput("echo $((1 + 1))") == "2"


def test_pipes_are_read_line_by_line_while_others_run(either, parked):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        tasks = [parked(child.stdout.readline), parked(next, child.stdout)]
        child.stdin.write(b"a\nb\n")
        child.stdin.flush()
        assert [task.result() for task in tasks] == [b"a\n", b"b\n"]
        rest = parked(child.stdout.read)
        child.stdin.close()
        assert rest.result() == b""
    assert child.returncode == 0


def test_two_tasks_may_wait_for_one_child(either, parked):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        tasks = [parked(child.wait), parked(child.wait)]
        child.stdin.close()
        assert [task.result() for task in tasks] == [0, 0]


def test_a_timeout_is_the_standard_exception(either, ticks):
    with pytest.raises(standard.TimeoutExpired):
        subprocess.run(["sleep", "60"], timeout=0.01)
    with pytest.raises(standard.CalledProcessError):
        subprocess.run(["false"], check=True)
    assert ticks[0]


def test_in_a_native_thread_children_are_waited_for_natively(either, natively):
    assert natively(lambda: subprocess.check_output(["echo", "x"])) == b"x\n"


def test_classes_are_those_of_the_standard_library(hub):
    assert issubclass(subprocess.Popen, standard.Popen)
    assert subprocess.CompletedProcess is standard.CompletedProcess
    assert subprocess.PIPE is standard.PIPE
    assert set(standard.__all__) <= set(dir(subprocess))


# ---- os, io -----------------------------------------------------------------------------------


def test_os_read_and_write_wait_for_the_other_end_of_a_pipe(either, parked):
    r, w = os.pipe()
    task = parked(os.read, r, 10)
    os.write(w, b"x")
    assert task.result() == b"x"
    task = parked(os.write, w, bytes(500_000))
    got = 0
    while got < 500_000:
        got += len(os.read(r, 65536))
    assert task.result() == 500_000
    os.close(r)
    os.close(w)


def test_waits_for_children_of_os(either, parked):
    r, w = os.pipe()
    pid = os.posix_spawnp("cat", ["cat"], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, r, 0)])
    os.close(r)
    task = parked(os.waitpid, pid, 0)
    os.close(w)
    assert task.result() == (pid, 0)


def test_popen_of_os(either, ticks):
    with os.popen("sleep 0.02; echo x") as pipe:
        assert pipe.read() == "x\n"
    assert ticks[0]


@pytest.mark.parametrize("open_", [io.open, os.fdopen])
def test_streams_on_pipes_wait(either, parked, open_):
    r, w = os.pipe()
    with open_(r, "r") as reader, open_(w, "w") as writer:
        task = parked(reader.readline)
        writer.write("hello\n")
        writer.flush()
        assert task.result() == "hello\n"


def test_open_is_the_standard_open_otherwise(hub, tmp_path):
    path = tmp_path / "file"
    with io.open(path, "w+") as file:
        file.write("text")
        file.seek(0)
        assert file.read() == "text"
        assert file.mode == "w+"
        assert isinstance(file.buffer, standard_io.BufferedRandom)
        assert isinstance(file.buffer.raw, standard_io.FileIO)
    with io.open(path, "rb") as file:
        assert list(file) == [b"text"]
        assert isinstance(file, standard_io.BufferedReader)
    with pytest.raises(FileNotFoundError):
        io.open(tmp_path / "none")
    with pytest.raises(ValueError, match="invalid mode"):
        io.open(path, "z")
    assert io.StringIO is standard_io.StringIO


def test_the_environment_is_one(hub, monkeypatch):
    monkeypatch.setenv("EVERGREEN_TEST", "x")
    assert os.environ is standard_os.environ
    assert os.getenv("EVERGREEN_TEST") == "x"
    assert os.path is standard_os.path
