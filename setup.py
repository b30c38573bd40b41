"""Build `_evergreen_c/*.c` into `evergreen._evergreen_c`; everything else stands in pyproject.toml.

The library that `evergreen run --native` preloads is built beside it, from `_evergreen_c/native/`.

The environment chooses what kind of build it is:

EVERGREEN_DEV=1       warnings are errors (the Makefile and tox set it)
EVERGREEN_SANITIZE=1  AddressSanitizer and UndefinedBehaviorSanitizer (`make asan`)
PKG_CONFIG, CC        which pkg-config and which compiler to use

What is missing on the machine is said in one sentence that names the package to install.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

LIBUV = "1.44"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"

NO_LIBUV = (
    f"libuv {LIBUV} or newer was not found ({{why}}): install its development files and pkg-config "
    "(Debian, Ubuntu: apt install libuv1-dev pkg-config; Fedora: dnf install libuv-devel pkgconf-pkg-config; "
    "macOS: brew install libuv pkgconf)."
)
NO_COMPILER = (
    "the C compiler {why}: install one "
    "(Debian, Ubuntu: apt install gcc libc6-dev; Fedora: dnf install gcc glibc-devel; "
    "macOS: xcode-select --install)."
)
NO_PYTHON_H = (
    "the headers of this Python ({why}) were not found: install them "
    f"(Debian, Ubuntu: apt install {PYTHON}-dev; Fedora: dnf install {PYTHON}-devel)."
)
NO_GREENLET = "greenlet 3.2 or newer, which the build needs, {why}: install it (pip install 'greenlet>=3.2')."


NATIVE = "evergreen._native"  # a library to preload, not a module: evergreen/native.py
SANITIZERS = ["-fsanitize=address,undefined"]


def build_kind() -> str:
    if os.environ.get("EVERGREEN_SANITIZE"):
        return "sanitize"
    return "dev" if os.environ.get("EVERGREEN_DEV") else "release"


class Missing(SystemExit):
    """Ends the build: setuptools and pip print the sentence and no traceback."""

    def __init__(self, sentence: str, why: str):
        super().__init__("error: " + sentence.format(why=why))


def libuv_flags() -> tuple[list[str], list[str]]:
    """Ask pkg-config what compiling and linking with libuv takes."""
    pkg_config = shlex.split(os.environ.get("PKG_CONFIG", "pkg-config"))

    def ask(*question: str) -> list[str] | None:
        try:
            reply = subprocess.run([*pkg_config, *question, "libuv"], capture_output=True, text=True)
        except OSError:
            raise Missing(NO_LIBUV, f"{shlex.join(pkg_config)} cannot be run") from None
        return shlex.split(reply.stdout) if reply.returncode == 0 else None

    version = ask("--modversion")
    if not version:
        raise Missing(NO_LIBUV, f"{shlex.join(pkg_config)} knows none")
    if ask(f"--atleast-version={LIBUV}") is None:
        raise Missing(NO_LIBUV, f"this is {version[0]}")
    return ask("--cflags") or [], ask("--libs") or []


def greenlet_include() -> str:
    """Return the folder for which <greenlet/greenlet.h> is greenlet's header."""
    try:
        import greenlet
    except ImportError:
        raise Missing(NO_GREENLET, "is not installed") from None
    return os.path.dirname(os.path.dirname(os.path.abspath(greenlet.__file__)))


class BuildExtension(build_ext):
    """build_ext that finds the libraries when it builds, so that metadata and sdist need none of them."""

    def run(self) -> None:
        if self.inplace or self.editable_mode:  # keep the objects, apart from those of other Pythons
            kind = f"{sysconfig.get_config_var('SOABI')}-{build_kind()}"
            self.build_lib, self.build_temp = f"build/lib-{kind}", f"build/objects-{kind}"
        else:
            self.force = True  # a wheel: built whole, whatever an earlier build left
        super().run()

    def build_extensions(self) -> None:
        uv_cflags, uv_libs = libuv_flags()
        # -isystem: a warning in somebody else's header is not an error of ours.  The compiler then ignores
        # the -I that setuptools gives for the same folder.  gcc would also follow symbolic links among such
        # headers: Debian's for a debug Python are links to the release's, and lost their own pyconfig.h.
        includes = [sysconfig.get_path("include"), sysconfig.get_path("platinclude"), greenlet_include()]
        flags = ["-fno-canonical-system-headers"]
        for folder in dict.fromkeys(includes):
            flags += ["-isystem", folder]
        for flag in uv_cflags:
            flags += ["-isystem", flag[2:]] if flag.startswith("-I") else [flag]
        if self.compiler.compiler_type != "msvc":
            self.check_toolchain(flags)
            flags += self.style_flags()
        for extension in self.extensions:
            if extension.name == NATIVE:
                # No fortified calls in what stands before them, and no sanitizer: it is loaded before theirs.
                extension.extra_compile_args = [flag for flag in flags if flag not in SANITIZERS]
                extension.extra_compile_args += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=0"]
                extension.extra_link_args = ["-ldl"]
                continue
            extension.extra_compile_args = flags
            extension.extra_link_args = uv_libs + (SANITIZERS if build_kind() == "sanitize" else [])
        self.compiler.compile = partial(self.compile, self.compiler.compile)
        super().build_extensions()

    def compile(self, compile, sources, output_dir, depends=(), **options):
        """Compile the *sources* that changed, as many at a time as there are processors."""
        objects = self.compiler.object_filenames(sources, output_dir=output_dir)
        changed = [
            source
            for source, target in zip(sources, objects, strict=True)
            if self.force or newer_group([source, *depends], target)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda source: compile([source], output_dir=output_dir, **options), changed))
        return objects

    def style_flags(self) -> list[str]:
        """Return the flags of the kind of build the environment asks for."""
        flags = ["-std=gnu11", "-fvisibility=hidden"]
        if build_kind() != "release":
            flags += ["-Wall", "-Wextra", "-Werror", "-g"]
        if build_kind() == "sanitize":
            # asan-stack=0: greenlets copy their C stack away, and red zones do not survive that.
            flags += [*SANITIZERS, "--param", "asan-stack=0", "-fno-omit-frame-pointer", "-O1", "-UNDEBUG"]
        elif not hasattr(sys, "gettotalrefcount"):  # a debug Python keeps its own -Og, and assert()
            flags += ["-O3"]
        return flags

    def check_toolchain(self, flags: list[str]) -> None:
        """Try the compiler, then each header alone, before the build prints pages about them."""
        python_h = os.path.join(sysconfig.get_path("include"), "Python.h")
        probes = [
            ("#include <stddef.h>\n#include <stdio.h>\n", NO_COMPILER, "cannot compile a C program"),
            ("#include <Python.h>\n", NO_PYTHON_H, python_h),
            ("#include <uv.h>\n", NO_LIBUV, "pkg-config knows one, but uv.h cannot be included"),
            ("#include <Python.h>\n#include <greenlet/greenlet.h>\n", NO_GREENLET, "has no greenlet.h"),
        ]
        compiler = self.compiler.compiler_so
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "probe.c")
            for text, sentence, why in probes:
                with open(source, "w") as file:
                    file.write(text)
                try:
                    command = [*compiler, *flags, "-fsyntax-only", source]
                    reply = subprocess.run(command, capture_output=True)
                except OSError:
                    raise Missing(NO_COMPILER, f"{compiler[0]} cannot be run") from None
                if reply.returncode != 0:
                    raise Missing(sentence, why)


NATIVE_LIBRARY = [
    Extension(
        NATIVE,
        sources=["_evergreen_c/native/preload.c"],
        depends=["_evergreen_c/native/preload.h", "setup.py"],
    )
]
if sys.platform != "linux":  # LD_PRELOAD is an affair of ELF
    NATIVE_LIBRARY = []

setup(
    cmdclass={"build_ext": BuildExtension},
    ext_modules=[
        Extension(
            "evergreen._evergreen_c",
            sources=sorted(glob("_evergreen_c/*.c")),
            depends=sorted(glob("_evergreen_c/**/*.h", recursive=True)) + ["setup.py"],
        ),
        *NATIVE_LIBRARY,
    ],
)
