"""__main__.py: the command line."""

import subprocess
import sys
import textwrap
import zipfile

import pytest

import evergreen


def run_evergreen(*args, cwd=None, **kwargs):
    command = [sys.executable, "-m", "evergreen", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, **kwargs)


@pytest.fixture
def script(tmp_path):
    """Return a function that writes a script and returns its path."""

    def write(code, name="script.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(code))
        return path

    return write


def test_a_script_runs_as_the_main_module(script, tmp_path):
    path = script(
        """
        import sys
        print(__name__, __file__, sys.argv, sys.path[0])
        """
    )
    child = run_evergreen("run", path, "one", "-v", "--two=3")
    assert child.stderr == ""
    assert child.stdout == f"__main__ {path} {[str(path), 'one', '-v', '--two=3']} {tmp_path}\n"


def test_blocking_calls_cooperate_in_a_script(script):
    path = script(
        """
        import time
        import evergreen
        order = []
        def nap(seconds, name):
            time.sleep(seconds)
            order.append(name)
        tasks = [evergreen.spawn(nap, 0.05, "slow"), evergreen.spawn(nap, 0.01, "fast")]
        for task in tasks:
            task.join()
        print(order)
        """
    )
    child = run_evergreen("run", path)
    assert (child.stdout, child.stderr) == ("['fast', 'slow']\n", "")


def test_a_module_runs_as_with_python_m(script, tmp_path):
    script("import sys; print(__name__, sys.argv[1:], sys.path[0])", "package/__main__.py")
    script("", "package/__init__.py")
    child = run_evergreen("run", "-m", "package", "one", "-m", "two", cwd=tmp_path)
    assert child.stderr == ""
    assert child.stdout == f"__main__ ['one', '-m', 'two'] {tmp_path}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "pkg.mod", "-q", "--native", "-m", "x", "-h"],
        ["-m", "pkg.mod", "--", "-x", "--version"],
        ["-mpkg.mod", "run", "--help"],
        ["--", "-script.py", "-m", "--native"],
        ["pkg/mod.py", "-h", "--", "--native", "-mx"],
    ],
)
@pytest.mark.parametrize("native", [[], ["--native"]])
def test_the_programs_options_are_its_own_as_with_python(script, tmp_path, words, native):
    code = "import sys; from evergreen import native; print(sys.argv, native.status().active)"
    script("print('imported')", "pkg/__init__.py")
    script(code, "pkg/mod.py")
    script(code, "-script.py")
    child = run_evergreen("run", *native, *words, cwd=tmp_path)
    python = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=60, cwd=tmp_path
    ).stdout
    assert (child.stdout.replace("True", "False"), child.stderr) == (python, "")
    assert ("True" in child.stdout) == bool(native)


def test_an_option_that_is_not_there_and_stands_before_the_program_is_refused(script, tmp_path):
    child = run_evergreen("run", "-q", script("print('never')"))
    assert (child.returncode, child.stdout) == (2, "")
    assert "unrecognized option: -q" in child.stderr


def test_the_help_of_run_is_shown_before_a_program_only(tmp_path):
    assert "usage: evergreen run" in run_evergreen("run", "--native", "-h", cwd=tmp_path).stdout


def test_a_module_of_the_standard_library_runs(tmp_path):
    child = run_evergreen("run", "-m", "json.tool", input='{"a":1}', cwd=tmp_path)
    assert (child.returncode, child.stdout) == (0, '{\n    "a": 1\n}\n')


def test_a_directory_and_a_zip_file_run_their_main(script, tmp_path):
    path = script("print('from the archive', __name__)", "app/__main__.py")
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, "__main__.py")
    for what in (path.parent, archive):
        child = run_evergreen("run", what)
        assert (child.stdout, child.stderr) == ("from the archive __main__\n", "")


def test_the_scripts_exit_code_is_the_commands(script):
    assert run_evergreen("run", script("import sys; sys.exit(7)")).returncode == 7
    assert run_evergreen("run", script("import evergreen; evergreen.run(exit, 8)")).returncode == 8


def test_an_exception_ends_it_with_a_traceback(script):
    child = run_evergreen("run", script("def f():\n    raise KeyError('oops')\nf()"))
    assert child.returncode == 1
    assert "in f" in child.stderr
    assert child.stderr.endswith("KeyError: 'oops'\n")


def test_a_syntax_error_is_shown(script):
    child = run_evergreen("run", script("a b c"))
    assert child.returncode == 1
    assert "SyntaxError" in child.stderr


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["run"], "SCRIPT"),
        (["run", "no/such/script.py"], "no such script: no/such/script.py"),
        (["run", "-m", "no_such_module"], "no module named no_such_module"),
        (["run", "-m", "no.such.module"], "no module named no.such.module"),
        (["run", "-m"], "expected one argument"),
        ([], "COMMAND"),
        (["fly"], "invalid choice"),
    ],
)
def test_what_cannot_be_run_is_one_clear_line_and_exit_code_2(args, text, tmp_path):
    child = run_evergreen(*args, cwd=tmp_path)
    assert child.returncode == 2
    assert text in child.stderr
    assert "Traceback" not in child.stderr


def test_version_and_help():
    child = run_evergreen("--version")
    assert child.stdout == f"evergreen {evergreen.__version__}\n"
    child = run_evergreen("--help")
    assert child.returncode == 0 and "run" in child.stdout
    child = run_evergreen("run", "--help")
    assert child.returncode == 0 and "MODULE" in child.stdout


def test_the_script_sees_everything_patched(script):
    path = script(
        """
        from evergreen import patcher
        print(patcher.is_patched("time"))
        """
    )
    assert run_evergreen("run", path).stdout == "True\n"


def test_the_script_may_be_relative(script, tmp_path):
    script("import beside; print(beside.value)")
    script("value = 5", "beside.py")
    child = run_evergreen("run", "script.py", cwd=tmp_path)
    assert (child.stdout, child.stderr) == ("5\n", "")


def test_pickle_and_inspect_find_the_scripts_main(script):
    path = script(
        """
        import inspect, pickle
        class Thing:
            pass
        assert type(pickle.loads(pickle.dumps(Thing()))) is Thing
        print(inspect.getsource(Thing).strip().splitlines()[0])
        """
    )
    child = run_evergreen("run", path)
    assert (child.stdout, child.stderr) == ("class Thing:\n", "")


def test_atexit_and_main_globals_are_as_with_python(script):
    path = script(
        """
        import atexit
        value = 3
        @atexit.register
        def last():
            print("last", value)
        print("first")
        """
    )
    child = run_evergreen("run", path)
    assert (child.stdout, child.stderr) == ("first\nlast 3\n", "")


def test_a_source_file_with_an_encoding(tmp_path):
    path = tmp_path / "latin.py"
    path.write_bytes("# -*- coding: latin-1 -*-\nprint(ascii('é'))\n".encode("latin-1"))
    child = run_evergreen("run", path)
    assert (child.stdout, child.stderr) == ("'\\xe9'\n", "")
