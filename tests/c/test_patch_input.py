"""patch_input.c: input() at a terminal lets other tasks run, and lines are edited as ever."""

import codecs
import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import textwrap
import time

import pytest
from helpers import output_of, run_python

HEAD = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that ^C comes as a signal
{module}
import evergreen
from evergreen import patcher, sleep, spawn
patcher.patch()
ticks = [0]

def tick():
    while True:
        ticks[0] += 1
        sleep(0.001)

def wait_for_ticks(n=20):
    end = ticks[0] + n
    while ticks[0] < end:
        sleep(0.001)

ticker = spawn(tick)
"""


class Terminal:
    """A child at a terminal of its own; it is what its user sees and types."""

    def __init__(self, code, module):
        self.master, slave = pty.openpty()
        self.attributes = termios.tcgetattr(slave)
        head = textwrap.dedent(HEAD).format(module=f"import {module}" if module else "")
        self.child = subprocess.Popen(
            [sys.executable, "-c", head + textwrap.dedent(code)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "INPUTRC": "/dev/null"},
        )
        self.slave = slave
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.seen = ""

    def wait_for(self, pattern):
        """Return the match of what the child has shown since the last one."""
        end = time.monotonic() + 20
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{pattern} does not come: {self.seen!r}"
            with contextlib.suppress(OSError):  # it has ended
                if more := os.read(self.master, 1000):
                    self.seen += self.decoder.decode(more)
                    continue
            assert re.search(pattern, self.seen), f"{pattern} did not come: {self.seen!r}"
        self.seen = self.seen[found.end() :]
        return found

    def type(self, keys):
        os.write(self.master, keys.encode())

    def end(self):
        """Return the exit code; the terminal must be as it was."""
        status = self.child.wait(20)
        now = termios.tcgetattr(self.slave)
        assert now[:6] == self.attributes[:6]
        return status


@pytest.fixture
def terminal():
    open_ones = []

    def start(code, module=""):
        open_ones.append(Terminal(code, module))
        return open_ones[-1]

    yield start
    for one in open_ones:
        one.child.kill()
        one.child.wait()
        os.close(one.master)
        os.close(one.slave)


@pytest.fixture(params=["", "readline"], ids=["plain", "readline"])
def module(request):
    if request.param:
        pytest.importorskip("readline", reason="this interpreter was built without readline")
    return request.param


def test_other_tasks_run_while_the_main_program_asks(terminal, module):
    user = terminal(
        """
        before = ticks[0]
        spawn(lambda: (wait_for_ticks(), print("(ticked)")))
        name = input("name? ")
        print("hello", name, ticks[0] > before + 20)
        """,
        module,
    )
    user.wait_for("name\\? ")
    user.wait_for("ticked")
    user.type("wor")
    user.type("ld\n")
    user.wait_for("hello world True")
    assert user.end() == 0


def test_a_task_asks_and_the_main_program_goes_on(terminal, module):
    user = terminal(
        """
        def ask():
            return [input("first? "), input(), input("third? ")]

        task = spawn(ask)
        sleep(0)
        wait_for_ticks()
        print("(waits for", task.waiting[0] + ")")
        print(task.result())
        """,
        module,
    )
    user.wait_for("first\\? ")
    user.wait_for(r"\(waits for input\)")
    user.type("one\ntwo\n")
    user.wait_for("third\\? ")
    user.type("three\n")
    user.wait_for(re.escape("['one', 'two', 'three']"))
    assert user.end() == 0


def test_others_run_between_any_two_keys(terminal, module):
    user = terminal(
        """
        def watch():
            while True:
                wait_for_ticks()
                print(f"<{ticks[0]}>")

        spawn(watch)
        print(repr(input("? ")))
        """,
        module,
    )
    user.wait_for("\\? ")
    for key in "abc":
        user.type(key)
        user.wait_for("<(\\d+)>")
        user.wait_for("<(\\d+)>")
    user.type("\n")
    user.wait_for("'abc'")
    assert user.end() == 0


def test_two_tasks_ask_one_after_the_other(terminal, module):
    user = terminal(
        """
        tasks = [spawn(input, f"{n}? ") for n in range(3)]
        print([task.result() for task in tasks])
        """,
        module,
    )
    for n in range(3):
        user.wait_for(f"{n}\\? ")
        user.type(f"answer {n}\n")
    user.wait_for(re.escape("['answer 0', 'answer 1', 'answer 2']"))
    assert user.end() == 0


def test_the_end_of_input_is_an_eof_error(terminal, module):
    user = terminal(
        """
        try:
            input("? ")
        except EOFError as exc:
            print("end", repr(exc))
        print(repr(input("again? ")))
        """,
        module,
    )
    user.wait_for("\\? ")
    user.type("\x04")
    user.wait_for("end EOFError")
    user.wait_for("again\\? ")
    user.type("yes\n")
    user.wait_for("'yes'")
    assert user.end() == 0


def test_a_line_of_any_length_and_of_any_letters(terminal):
    user = terminal('text = input("? ")\nprint(len(text), set(text))')
    user.wait_for("\\? ")
    user.type("ä" * 1500 + "\n")
    user.wait_for("1500 {'ä'}")
    assert user.end() == 0


def test_control_c_interrupts_the_main_program_that_asks(terminal, module):
    user = terminal(
        """
        try:
            input("? ")
        except KeyboardInterrupt:
            print("interrupted")
        print(repr(input("again? ")))
        """,
        module,
    )
    user.wait_for("\\? ")
    user.type("half a line")
    user.type("\x03")
    user.wait_for("interrupted")
    user.wait_for("again\\? ")
    user.type("whole\n")
    user.wait_for("'whole'")
    assert user.end() == 0


def test_control_c_while_a_task_asks_ends_the_program_and_restores_the_terminal(terminal, module):
    user = terminal('spawn(input, "? ").result()', module)
    user.wait_for("\\? ")
    user.type("half a line")
    user.type("\x03")
    user.wait_for("KeyboardInterrupt")
    assert user.end() in (1, -signal.SIGINT)


@pytest.mark.parametrize("keys", ["", "half", "\x12search", "\x1b", "\x1b5"])
def test_a_task_that_is_killed_while_it_asks(terminal, module, keys):
    user = terminal(
        """
        task = spawn(input, "? ")
        kill = spawn(lambda: (wait_for_ticks(100), task.kill(reason="enough")))
        try:
            task.result()
        except evergreen.TaskExit as exc:
            print("killed:", exc.reason)
        print(repr(input("again? ")))
        if "readline" in sys.modules:
            print(sys.modules["readline"].get_current_history_length(), "in history")
        """,
        module,
    )
    user.wait_for("\\? ")
    user.type(keys)
    user.wait_for("killed: enough")
    user.wait_for("again\\? ")
    if not module and keys:
        user.type("\x15")  # the terminal has kept the line that was begun
    user.type("yes\n")
    user.wait_for("'yes'")
    if module:
        user.wait_for("1 in history")
    assert user.end() == 0


def test_a_deadline_ends_it(terminal, module):
    user = terminal(
        """
        try:
            with evergreen.fail_after(0.05):
                input("? ")
        except TimeoutError:
            print("too late")
        """,
        module,
    )
    user.wait_for("too late")
    assert user.end() == 0


def test_lines_are_edited_recalled_and_completed(terminal):
    pytest.importorskip("readline", reason="this interpreter was built without readline")
    user = terminal(
        """
        words = ["evergreen", "everlasting"]

        def complete(text, state):
            sleep(0.001)  # even that may wait
            return [word for word in words if word.startswith(text)][state]

        readline.set_completer(complete)
        readline.parse_and_bind("tab: complete")
        for n in range(4):
            print("got", repr(input(f"{n}? ")))
        print([readline.get_history_item(n) for n in range(1, 10)])
        """,
        "readline",
    )
    user.wait_for("0\\? ")
    user.type("wrld\x1b[D\x1b[D\x1b[Do\n")  # three times left
    user.wait_for("got 'world'")
    user.wait_for("1\\? ")
    user.type("\x1b[A!\n")  # up: the line before
    user.wait_for("got 'world!'")
    user.wait_for("2\\? ")
    user.type("ev\tg\t\n")
    user.wait_for("got 'evergreen ?'")
    user.wait_for("3\\? ")
    user.type("\x12wor\r")  # search backwards
    user.wait_for("got 'world!'")
    user.wait_for(r"\['world', 'world!', 'evergreen ?', 'world!', None")
    assert user.end() == 0


def test_readline_that_is_imported_while_a_task_asks_serves_the_next_line(terminal):
    pytest.importorskip("readline", reason="this interpreter was built without readline")
    user = terminal(
        """
        task = spawn(input, "0? ")
        wait_for_ticks()
        import readline
        print(repr(task.result()))
        print(repr(input("1? ")))
        """
    )
    user.wait_for("0\\? ")
    user.type("a\n")
    user.wait_for("'a'")
    user.wait_for("1\\? ")
    user.type("c\x1b[Db\n")
    user.wait_for("'bc'")
    assert user.end() == 0


@pytest.mark.parametrize("call", ["sys.stdin.readline()", "sys.stdin.buffer.readline()", "next(sys.stdin)"])
def test_reading_stdin_at_a_terminal_lets_other_tasks_run(terminal, call):
    user = terminal(
        f"""
        spawn(lambda: (wait_for_ticks(), print("(ticked)")))
        print(repr({call}))
        """
    )
    user.wait_for("ticked")
    user.type("hello\n")
    user.wait_for("'hello\\\\n'")
    assert user.end() == 0


def test_input_from_a_pipe_lets_other_tasks_run():
    code = """
    import sys, time
    import evergreen
    from evergreen import patcher, spawn
    patcher.patch()
    marks = []
    spawn(lambda: (time.sleep(0.001), print("(ticked)", flush=True)))
    print("got", input("? "), file=sys.stderr)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout.read(len("? (ticked)")) == "? (ticked)"
        child.stdin.write("hello\n")
        child.stdin.flush()
        assert child.stderr.readline() == "got hello\n"


def test_unpatched_again_it_is_the_native_one(terminal, module):
    user = terminal(
        """
        print(repr(input("1? ")))
        patcher.unpatch()
        before = ticks[0]
        text = input("2? ")
        print(repr(text), ticks[0] - before)
        """,
        module,
    )
    user.wait_for("1\\? ")
    user.type("a\n")
    user.wait_for("2\\? ")
    user.type("b\n")
    user.wait_for("'b' 0")
    assert user.end() == 0


def test_a_native_thread_asks_natively(terminal, module):
    user = terminal(
        """
        answer = evergreen.offload(input, "? ")
        print(repr(answer))
        """,
        module,
    )
    user.wait_for("\\? ")
    user.type("a\n")
    user.wait_for("'a'")
    assert user.end() == 0


def test_a_completion_that_asks_is_refused_as_ever(terminal):
    pytest.importorskip("readline", reason="this interpreter was built without readline")
    user = terminal(
        """
        errors = []

        def complete(text, state):
            try:
                input("nested? ")
            except RuntimeError as exc:
                errors.append(str(exc))

        readline.set_completer(complete)
        readline.parse_and_bind("tab: complete")
        print(repr(input("? ")), errors[0])
        """,
        "readline",
    )
    user.wait_for("\\? ")
    user.type("a\t\n")
    user.wait_for("'a' can't re-enter readline")
    assert user.end() == 0


def test_input_without_a_terminal_reads_stdin():
    assert run_python("print('x')").stdout == "x\n"
    code = """
    from evergreen import patcher, spawn
    patcher.patch()
    print(spawn(input).result(), input())
    """
    assert output_of(code, input="a\nb\n") == "a b\n"


def test_tasks_run_while_the_interpreter_in_module_code_waits_for_a_statement(terminal, module):
    """What `evergreen run -m code` starts."""
    user = terminal("import code; code.interact(local=globals(), exitmsg='')", module)
    user.wait_for(">>> ")
    user.type("task = spawn(lambda: (wait_for_ticks(), print('it goes on')))\n")
    user.wait_for(">>> it goes on")
    user.type("\x04")
    assert user.end() == 0
