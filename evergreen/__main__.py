"""The command line: ``evergreen run`` starts any Python program with its blocking calls patched."""

from __future__ import annotations

import argparse
import importlib.util
import os
import runpy
import sys
from types import ModuleType
from typing import NamedTuple

import evergreen
from evergreen import _evergreen_c as core
from evergreen import native, patcher

_DESCRIPTION = "Run Python programs whose blocking calls cooperate: threads become tasks."


class _Options(NamedTuple):
    """What stands on the command line of ``evergreen run``."""

    native: bool
    module: str | None
    rest: list[str]  # the script, unless there is a module, and what the program sees


def _parser() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The parsers of the command and of ``run``; the arguments of the latter are only for its help."""
    parser = argparse.ArgumentParser(prog="evergreen", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"evergreen {evergreen.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="patch the standard library, then run a script or a module",
        usage="evergreen run [--native] [-m MODULE | SCRIPT] [ARG ...]",
    )
    run.add_argument(
        "--native",
        action="store_true",
        help="have C extensions cooperate that wait in the C library, such as database drivers",
    )
    run.add_argument("-m", metavar="MODULE", help="run a module, as python -m does")
    run.add_argument("rest", nargs=argparse.REMAINDER, metavar="ARG", help="what the program sees")
    return parser, run


def _parse_run(words: list[str], run: argparse.ArgumentParser) -> _Options:
    """Read the words as Python reads its own: options end at ``-m MODULE``, at ``--``, and at the script."""
    native = False
    for i, word in enumerate(words):
        if word == "--native":
            native = True
        elif word in ("-h", "--help"):
            run.parse_args([word])
        elif word == "--":
            return _Options(native, None, words[i + 1 :])
        elif word.startswith("-m"):
            module = [word[2:]] if word != "-m" else words[i + 1 : i + 2]
            if not module:
                run.error("argument -m: expected one argument")
            return _Options(native, module[0], words[i + 1 + (word == "-m") :])
        elif word.startswith("-") and word != "-":
            run.error(f"unrecognized option: {word} (those of the program stand after it)")
        else:
            return _Options(native, None, words[i:])
    return _Options(native, None, [])


def run_script(path: str, args: list[str]) -> None:
    """Run a Python file (or a directory or zip file with a __main__.py) as ``python path`` would."""
    sys.argv[:] = [path, *args]
    if not os.path.isfile(path) or _is_archive(path):
        sys.path.pop(0)  # ours; run_path() puts the archive there
        runpy.run_path(path, run_name="__main__")
        return
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    module = ModuleType("__main__")
    module.__file__ = path
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = module
    exec(code, module.__dict__)


def _is_archive(path: str) -> bool:
    import zipfile

    return zipfile.is_zipfile(path)


def run_module(name: str, args: list[str]) -> None:
    """Run a module as ``python -m name`` would."""
    sys.argv[:] = [name, *args]
    sys.path[0] = os.getcwd()
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def main(argv: list[str] | None = None) -> None:
    """What the ``evergreen`` command does; exits with 2 for a program that is not there."""
    parser, run = _parser()
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] != ["run"]:
        parser.parse_args(words)
        parser.error("the first word has to be a COMMAND")
    options = _parse_run(words[1:], run)
    if options.module is None and not options.rest:
        parser.error("run needs a SCRIPT, or -m MODULE")
    if options.module is None and not os.path.exists(options.rest[0]):
        parser.error(f"no such script: {options.rest[0]}")
    if options.native:  # before a package is imported to find a module in it
        try:
            native.restart(argv)
        except RuntimeError as exc:
            parser.error(f"--native: {exc}")
    if options.module is not None:
        sys.path.insert(0, os.getcwd())
        try:
            found = importlib.util.find_spec(options.module)
        except (ImportError, ValueError):
            found = None
        sys.path.pop(0)
        if found is None:
            parser.error(f"no module named {options.module}")
    patcher.patch()
    try:
        if options.module is not None:
            run_module(options.module, options.rest)
        else:
            run_script(options.rest[0], options.rest[1:])
    except Exception:
        core.native_raise()  # a driver's error because of Ctrl-C: say that
        raise


if __name__ == "__main__":
    main()
