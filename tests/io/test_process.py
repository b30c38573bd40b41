"""evergreen/io/process.py: child processes and their pipes."""

import errno
import gc
import os
import resource
import signal
import socket
import subprocess
import warnings

import pytest
from helpers import in_thread, output_of, settle

from evergreen import TaskExit, sleep, spawn
from evergreen import _evergreen_c as core
from evergreen.io import process
from evergreen.io.process import DEVNULL, PIPE, STDOUT, CalledProcessError, Pipe, Process, TimeoutExpired
from evergreen.timeout import Timeout


@pytest.fixture(autouse=True)
def nothing_left(hub):
    """No descriptor and no child stays behind."""
    with socket.socket() as unconnected:
        core.wait_fd(unconnected, 2)  # makes the set of descriptors, which stays
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    with Pipe(read_end) as reader, Pipe(write_end) as writer:
        yield reader, writer


# ---- run --------------------------------------------------------------------------------------------


def test_run_collects_output():
    done = process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert isinstance(done, subprocess.CompletedProcess)


def test_run_gives_input_and_text():
    done = process.run(["cat"], input="grün\r\n", capture_output=True, text=True)
    assert done.stdout == "grün\n"
    done = process.run(["cat"], input="grün", stdout=PIPE, encoding="latin-1")
    assert (done.stdout, done.stderr) == ("grün", None)
    assert process.run(["cat"], input=b"", stdout=PIPE).stdout == b""


def test_run_checks():
    with pytest.raises(CalledProcessError) as caught:
        process.run("echo out; exit 5", shell=True, check=True, stdout=PIPE)
    assert (caught.value.returncode, caught.value.output) == (5, b"out\n")
    assert process.run(["true"], check=True).returncode == 0
    assert process.run(["sh", "-c", "kill -9 $$"]).returncode == -9


def test_run_times_out_and_kills():
    with pytest.raises(TimeoutExpired) as caught:
        process.run(["sh", "-c", "echo out; exec sleep 100"], stdout=PIPE, timeout=0.2)
    assert (caught.value.timeout, caught.value.output) == (0.2, b"out\n")


def test_a_killed_task_kills_what_it_runs():
    victim = spawn(process.run, ["sleep", "100"])
    settle()
    victim.kill()
    with pytest.raises(TaskExit):
        victim.result()


def test_a_program_that_is_not_there():
    with pytest.raises(FileNotFoundError) as caught:
        process.run(["/no/such/program"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert caught.value.filename == "/no/such/program"


@pytest.mark.parametrize(
    "options", [{"input": b"x", "stdin": PIPE}, {"capture_output": True, "stdout": PIPE}]
)
def test_options_that_contradict_each_other(options):
    with pytest.raises(ValueError):
        process.run(["true"], **options)


def test_cwd_env_and_redirections(tmp_path):
    done = process.run("pwd; echo $MINE", shell=True, cwd=tmp_path, env={"MINE": "x"}, stdout=PIPE)
    assert done.stdout.decode().split() == [str(tmp_path), "x"]
    with open(tmp_path / "file", "w+b") as file:
        process.run(["sh", "-c", "echo out; echo err >&2"], stdin=DEVNULL, stdout=file, stderr=STDOUT)
        file.seek(0)
        assert file.read() == b"out\nerr\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_uid_and_gid():
    done = process.run("id -u; id -g", shell=True, uid=65534, gid=65534, extra_groups=[], stdout=PIPE)
    assert done.stdout.split() == [b"65534", b"65534"]


def test_children_run_side_by_side():
    before = os.times().elapsed
    tasks = [spawn(process.run, ["sleep", "0.3"]) for _ in range(10)]
    for task in tasks:
        task.result()
    assert os.times().elapsed - before < 2


def test_more_than_a_pipe_holds_goes_through():
    data = os.urandom(2_000_000)
    done = process.run(["sh", "-c", "tee /dev/stderr"], input=data, capture_output=True)
    assert done.stdout == data
    assert done.stderr == data


# ---- a child to talk to -----------------------------------------------------------------------------


def test_a_conversation():
    with Process(["cat"], stdin=PIPE, stdout=PIPE) as child:
        assert (child.poll(), child.returncode, child.stderr) == (None, None, None)
        for line in (b"one\n", b"two\n"):
            assert child.stdin.write(line) == 4
            assert child.stdout.readline() == line
        child.stdin.close()
        assert child.stdout.read() == b""
    assert child.returncode == 0
    assert (child.stdin.closed, child.stdout.closed) == (True, True)
    assert repr(child) == f"<Process ['cat'] pid {child.pid}: returned 0>"


def test_wait_times_out_and_lets_others_run():
    ran = []
    with Process(["cat"], stdin=PIPE) as child:
        spawn(ran.append, 1)
        with pytest.raises(TimeoutExpired):
            child.wait(0.01)
        assert ran == [1]
        child.stdin.close()
        assert child.wait() == 0
        assert child.wait(0) == 0


def test_many_tasks_wait_for_one_child():
    with Process(["cat"], stdin=PIPE) as child:
        waiters = [spawn(child.wait) for _ in range(5)]
        settle()
        assert all(waiter.is_alive() for waiter in waiters)
        victim = spawn(child.wait)
        settle()
        victim.kill()
        child.terminate()
        assert [waiter.result() for waiter in waiters] == [-signal.SIGTERM] * 5
        with pytest.raises(TaskExit):
            victim.result()
        child.kill()  # harmless
    assert child.poll() == -signal.SIGTERM


def test_communicate_may_be_asked_again():
    with Process(["sh", "-c", "echo one; read x; echo $x"], stdin=PIPE, stdout=PIPE) as child:
        with pytest.raises(TimeoutExpired) as caught:
            process_with_slow_input(child)
        assert caught.value.output == b"one\n"
        with pytest.raises(ValueError):
            child.communicate(b"more")
        os.kill(child.pid, signal.SIGCONT)
        assert child.communicate() == (b"one\ntwo\n", None)


def process_with_slow_input(child):
    line = child.stdout.read(4)
    os.kill(child.pid, signal.SIGSTOP)
    child.stdout._buffer[:0] = line  # as if it had not been read
    child.communicate(b"two\n", timeout=0.05)


def test_a_child_that_wants_no_input():
    with Process(["sh", "-c", "exec 0<&-; echo out"], stdin=PIPE, stdout=PIPE) as child:
        assert child.communicate(b"x" * 1_000_000) == (b"out\n", None)
    with Process(["true"]) as child:
        with pytest.raises(ValueError):
            child.communicate(b"x")


def test_writing_to_a_child_that_has_ended():
    with Process(["true"], stdin=PIPE) as child:
        child.wait()
        with pytest.raises(BrokenPipeError):
            child.stdin.write(b"x")


def test_too_many_open_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 4, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            process.run(["true"], input=b"", capture_output=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.errno == errno.EMFILE


def test_without_a_pidfd_a_thread_waits(monkeypatch):
    def none(pid, flags=0):
        raise OSError(errno.ENOSYS, "no pidfds")

    monkeypatch.setattr(os, "pidfd_open", none)
    assert process.run(["sh", "-c", "exit 4"]).returncode == 4
    with Process(["cat"], stdin=PIPE) as child:
        with pytest.raises(TimeoutExpired):
            child.wait(0.01)
        child.stdin.close()


def test_other_children_are_left_alone():
    other = os.posix_spawnp("true", ["true"], os.environ)
    process.run(["true"])
    assert os.waitpid(other, 0) == (other, 0)


def test_children_of_a_thread_without_a_loop(hub):
    def work():
        with Process(["cat"], stdin=PIPE, stdout=PIPE) as child:
            child.stdin.write(b"line\n")
            line = child.stdout.readline()
            child.stdin.close()
            return line, child.wait(10)

    assert in_thread(work) == (b"line\n", 0)
    done = in_thread(lambda: process.run(["cat"], input=b"input", capture_output=True))
    assert (done.stdout, done.stderr) == (b"input", b"")


def test_a_forked_child_has_children_of_its_own():
    out = output_of(
        """
        import os
        from evergreen.io import process

        running = process.Process(["cat"], stdin=process.PIPE)
        pid = os.fork()
        if pid == 0:
            os._exit(process.run(["sh", "-c", "exit 7"]).returncode)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        running.stdin.close()
        print(running.wait(10))
        """
    )
    assert out == "0\n"


# ---- pipes -------------------------------------------------------------------------------------------


def test_lines(pipe):
    reader, writer = pipe
    writer.write(b"one\ntwo")
    assert reader.readline() == b"one\n"
    rest = spawn(reader.readline)
    settle()
    assert rest.is_alive()
    writer.write(bytearray(b"!\nthree\n\nlast"))
    writer.flush()
    writer.close()
    assert rest.result() == b"two!\n"
    assert list(reader) == [b"three\n", b"\n", b"last"]
    assert reader.readline() == reader.read() == reader.read1() == b""


def test_reading_parts(pipe):
    reader, writer = pipe
    writer.write(b"0123456789")
    assert reader.read1(3) == b"012"
    assert reader.read(2) == b"34"
    exact = spawn(reader.read, 10)
    settle()
    assert exact.is_alive()
    writer.write(b"abcdefgh")
    assert exact.result() == b"56789abcde"
    assert reader.read1() == b"fgh"
    assert reader.read(0) == reader.read1(0) == b""


def test_a_writer_waits_while_the_pipe_is_full(pipe):
    reader, writer = pipe
    data = os.urandom(1_000_000)
    task = spawn(writer.write, memoryview(data))
    settle()
    assert task.is_alive()
    assert reader.read(len(data)) == data
    assert task.result() == len(data)


def test_readers_take_turns(pipe):
    reader, writer = pipe
    tasks = [spawn(reader.readline) for _ in range(3)]
    settle()
    writer.write(b"1\n2")
    writer.write(b"\n3\n")
    assert [task.result() for task in tasks] == [b"1\n", b"2\n", b"3\n"]


def test_a_killed_reader_loses_nothing(pipe):
    reader, writer = pipe
    victim = spawn(reader.readline)
    settle()
    writer.write(b"half ")
    while not reader._buffer:
        sleep(0.001)
    victim.kill()
    victim.join()
    writer.write(b"line\n")
    assert reader.readline() == b"half line\n"


def test_closing_wakes_a_reader(pipe):
    reader, writer = pipe
    task = spawn(reader.read)
    settle()
    reader.close()
    with pytest.raises(OSError) as caught:
        task.result()
    assert caught.value.errno == errno.EBADF
    for call in (reader.read, reader.readline, reader.fileno):
        with pytest.raises(ValueError):
            call()
    reader.close()


def test_reading_can_time_out(pipe):
    with pytest.raises(Timeout):
        with Timeout(0.002):
            pipe[0].read()


def test_bad_arguments(pipe):
    with pytest.raises(TypeError):
        pipe[1].write("text")


def test_a_pipe_that_nobody_closed_is_closed_and_told():
    read_end, write_end = os.pipe()
    os.close(write_end)
    with pytest.warns(ResourceWarning, match="unclosed"):
        Pipe(read_end)
        gc.collect()


def test_a_child_that_is_forgotten_is_told():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        child = Process(["sleep", "100"])
        pid = child.pid
        del child
        gc.collect()
    assert any("still running" in str(warning.message) for warning in caught)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    subprocess._active.clear()
