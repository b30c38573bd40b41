"""native.py: the library that is preloaded, and the processes that have it."""

import os
import subprocess
import sys
import textwrap

import pytest
from helpers import output_of

from evergreen import native


def run_native(*args, **kwargs):
    command = [sys.executable, "-m", "evergreen", "run", "--native", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)


@pytest.fixture
def script(tmp_path):
    """Return a function that writes a script and returns its path."""

    def write(code):
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(code))
        return path

    return write


def test_without_the_command_it_is_off():
    code = "from evergreen import native; print(native.status(), native.status().caught)"
    assert output_of(code) == "Status(active=False, calls={}) 0\n"


def test_the_command_turns_it_on_for_scripts_and_modules(script, tmp_path):
    path = script("import sys; from evergreen import native; print(native.status().active, sys.argv[1:])")
    for what in ([path], ["-m", "script"]):
        child = run_native(*what, "one", "--two", cwd=tmp_path)
        assert (child.stdout, child.stderr) == ("True ['one', '--two']\n", "")


def test_status_counts_the_calls_that_waited(script):
    path = script(
        """
        import ctypes, evergreen
        from evergreen import native
        libc = ctypes.CDLL(None)
        tasks = [evergreen.spawn(libc.usleep, 1000) for _ in range(3)]
        for task in tasks:
            task.join()
        assert native.status().caught == 3
        print({name: n for name, n in native.status().calls.items() if n})
        """
    )
    child = run_native(path)
    assert (child.stdout, child.stderr) == ("{'usleep': 3}\n", "")


def test_the_programs_children_do_not_have_it_unless_it_says_so(script):
    path = script(
        """
        import os, subprocess, sys
        from evergreen import native
        ask = [sys.executable, "-c", "from evergreen import native; print(native.status().active)"]
        print(subprocess.check_output(ask, text=True), end="", flush=True)
        os.system(f'"{sys.executable}" -c "import os; print(os.environ.get(\\'LD_PRELOAD\\', \\'\\'))"')
        print(subprocess.check_output(ask, text=True, env=native.environment()), end="")
        """
    )
    child = run_native(path)
    assert (child.stdout, child.stderr) == (f"False\n{os.environ.get('LD_PRELOAD', '')}\nTrue\n", "")


def test_a_preload_of_the_programs_own_is_kept(script):
    path = script(
        "import os; from evergreen import native; print(native.status().active, os.environ['LD_PRELOAD'])"
    )
    own = f"{os.environ.get('LD_PRELOAD', '')} libm.so.6".strip()
    child = run_native(path, env={**os.environ, "LD_PRELOAD": own})
    assert (child.stdout, child.stderr) == (f"True {own}\n", "")


def test_an_environment_keeps_what_is_there_and_gains_the_library_once():
    once = native.environment({"LD_PRELOAD": "libm.so.6", "HOME": "/"})
    assert once == {"LD_PRELOAD": f"libm.so.6:{native.library()}", "HOME": "/"}
    assert native.environment(once) == once


def test_the_interpreters_options_are_kept(script):
    path = script("import sys; print(sys.flags.dev_mode, sys.flags.optimize, sys.warnoptions)")
    command = [sys.executable, "-X", "dev", "-O", "-W", "error::UserWarning", "-m", "evergreen"]
    child = subprocess.run([*command, "run", "--native", path], capture_output=True, text=True, timeout=60)
    assert (child.stdout, child.stderr) == ("True 1 ['default', 'error::UserWarning']\n", "")


def test_the_exit_code_and_standard_input_are_the_programs(script):
    child = run_native(script("import sys; sys.exit(int(sys.stdin.read()))"), input="7")
    assert (child.returncode, child.stderr) == (7, "")


def test_a_library_that_is_missing_is_one_clear_line_and_exit_code_2(script):
    hide = """
        import sys
        from evergreen import __main__, native
        native.library = lambda: (_ for _ in ()).throw(FileNotFoundError("no library here"))
        __main__.main(["run", "--native", sys.argv[1]])
        """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(hide), script("")], capture_output=True, text=True, timeout=60
    )
    assert child.returncode == 2
    assert child.stderr.endswith("error: --native: no library here\n")


def test_a_library_that_is_not_loaded_is_one_clear_line_and_exit_code_2(script):
    # The process has been started anew, and the library is not in it: as with a static Python.
    child = run_native(script(""), env={**os.environ, "_EVERGREEN_NATIVE_BEFORE": ""})
    assert child.returncode == 2
    assert "error: --native: this system did not preload the library" in child.stderr


@pytest.mark.parametrize("folder", ["with space", "with:colon"])
def test_a_path_that_cannot_be_preloaded_is_refused(monkeypatch, folder):
    monkeypatch.setattr(native, "library", lambda: f"/{folder}/_native.so")
    with pytest.raises(ValueError, match="cannot be preloaded"):
        native.environment({})


def test_main_can_be_called_with_arguments(script):
    code = "import sys; from evergreen.__main__ import main; main(['run', '--native', sys.argv[1]])"
    path = script("from evergreen import native; print(native.status().active)")
    assert output_of(code, path) == "True\n"
