"""What docs/howto/servers.rst says of gunicorn, uWSGI and pytest."""

import contextlib
import json
import os
import pathlib
import signal
import sys
import threading
import time
import urllib.request

import pytest
import servers
from helpers import run_python

ROOT = pathlib.Path(__file__).parents[2]
REQUESTS = 100
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}

APPLICATION = """
import json, os, time

def application(environ, start_response):
    time.sleep(float(environ["PATH_INFO"][1:]))
    threads = len(os.listdir("/proc/self/task"))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), threads]).encode()]
"""


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as answer:
        return json.load(answer)


class Askers:
    """So many threads that each ask for a page; they are clients, and native ones."""

    def __init__(self, count, port, path):
        self.answers, self.errors = [], []
        self._threads = [threading.Thread(target=self._ask, args=(port, path)) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, port, path):
        try:
            self.answers.append(get(port, path))
        except OSError as exc:
            self.errors.append(exc)

    def wait(self):
        for thread in self._threads:
            thread.join()
        assert not self.errors
        return self.answers


@contextlib.contextmanager
def gunicorn(folder, *options, text=APPLICATION):
    (folder / "package.py").write_text(text)
    port = servers.free_port()
    config = str(ROOT / "examples" / "gunicorn_conf.py")
    command = [sys.executable, "-m", "gunicorn", "-c", config, "--workers=1"]
    command += [*options, f"--bind=127.0.0.1:{port}", "package:application"]
    environment = {**ENVIRONMENT, "HOME": str(folder)}  # newer ones leave a control socket there
    with servers.process(command, port, folder / "log", cwd=folder, env=environment) as child:
        yield port, child


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["lazy", "preload"])
def test_a_worker_of_gunicorn_serves_slow_requests_side_by_side(tmp_path, options):
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    with gunicorn(tmp_path, *options) as (port, _):
        get(port, "0")
        start = time.monotonic()
        answers = Askers(REQUESTS, port, "0.3").wait()
        took = time.monotonic() - start
    pids, threads = {pid for pid, _ in answers}, {count for _, count in answers}
    assert len(answers) == REQUESTS and len(pids) == 1
    assert max(threads) < 5, "a native thread for each request"
    assert took < 0.3 * REQUESTS / 10


def test_gunicorn_lets_requests_end_when_it_is_told_to(tmp_path):
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    with gunicorn(tmp_path) as (port, child):
        pid, _ = get(port, "0")
        askers = Askers(20, port, "1")
        while sockets_of(pid) < 20:
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        assert len(askers.wait()) == 20
        assert child.wait(30) == 0


FLASK = """
import logging, threading, time
import flask

package = application = flask.Flask(__name__)

@application.route("/<seconds>")
def page(seconds):
    thread = threading.Thread(target=time.sleep, args=[float(seconds)])
    thread.start()
    thread.join()
    return flask.jsonify(seconds)
"""


@pytest.mark.parametrize("application", ["wsgi", "flask"])
def test_gunicorn_ends_without_a_line_on_stderr(tmp_path, application):
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    if application == "flask":
        pytest.importorskip("flask", reason="flask is not installed")
    text = FLASK if application == "flask" else APPLICATION
    with gunicorn(tmp_path, "--log-level=warning", text=text) as (port, child):
        get(port, "0.01")
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
    assert (tmp_path / "log").read_text() == ""


def sockets_of(pid):
    """How many sockets a process has open."""
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    return count


UWSGI = """
import json, os, time

import evergreen
from evergreen import patcher

patcher.patch()

def application(environ, start_response):
    start = time.monotonic()
    with evergreen.TaskGroup() as group:
        for _ in range(50):
            group.spawn(time.sleep, 0.2)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), time.monotonic() - start]).encode()]
"""


def test_a_request_of_uwsgi_uses_tasks(tmp_path):
    found = [
        path for folder in (sys.prefix, sys.base_prefix) for path in pathlib.Path(folder, "bin").glob("uwsgi")
    ]
    if not found:
        pytest.skip("uwsgi is not installed")
    (tmp_path / "application.py").write_text(UWSGI)
    port = servers.free_port()
    command = [str(found[0]), f"--http-socket=127.0.0.1:{port}", "--master", "--lazy-apps", "--processes=2"]
    command += ["--wsgi-file=application.py", f"--virtualenv={sys.prefix}", "--die-on-term"]
    with servers.process(command, port, tmp_path / "log", cwd=tmp_path, env=ENVIRONMENT):
        answers = Askers(6, port, "").wait()
    assert len(answers) == 6
    assert all(0.2 <= took < 2 for _, took in answers), answers


CONFTEST = """
import pytest
import evergreen
from evergreen import patcher

patcher.patch()

@pytest.fixture(autouse=True)
def no_task_is_left():
    yield
    left = evergreen.current.loop.tasks()
    for task in left:
        task.kill()
    assert not left, left
"""

TESTS = """
import threading, time
import pytest
import evergreen

def test_tasks_and_threads_wait_side_by_side():
    start = time.monotonic()
    tasks = [evergreen.spawn(time.sleep, 0.1) for _ in range(50)]
    threads = [threading.Thread(target=time.sleep, args=[0.1]) for _ in range(50)]
    for thread in threads:
        thread.start()
    for waiting in tasks + threads:
        waiting.join()
    assert time.monotonic() - start < 2

def test_that_hangs():
    threading.Lock().acquire()
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def test_that_leaves_a_task():
    evergreen.spawn(time.sleep, 1000)

def test_with_a_deadline():
    with pytest.raises(TimeoutError), evergreen.fail_after(0.01):
        time.sleep(1000)
"""


def test_pytest_runs_tests_of_a_patched_program(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    options = ["-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=60"]
    code = "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    done = run_python(code, *options, cwd=tmp_path, timeout=90, env=ENVIRONMENT)
    assert "1 failed, 3 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "Deadlock: nothing can ever wake" in done.stdout
    assert done.stderr == ""
    assert "test_that_leaves_a_task" in done.stdout
