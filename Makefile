# Evergreen: each target makes its own environment and installs what it needs.
#
#   make PYTHON=python3.13 test     chooses the interpreter (3.11 or newer; .venv is made anew when it changes)
#   make test ARGS="-k timer -x"    passes ARGS on to pytest (test, asan, leaks, test-next) or to the benchmark

PYTHON =
DBG_PYTHON = python3.11-dbg
VENV = .venv
ARGS =
SECONDS =

export PIP_DISABLE_PIP_VERSION_CHECK = 1

C_FILES := $(wildcard _evergreen_c/*.[ch] _evergreen_c/native/*.[ch])
BENCH_C_FILES := $(wildcard benchmarks/native/*.c)
PIP = $(VENV)/bin/python -W ignore -m pip --quiet --quiet
REQUIREMENTS = python tools/requirements.py

.PHONY: help build demo test test-clients conformance suites races fuzz lint format bench bench-tools bench-quick bench-check \
	leaks asan docs test-next test-all clean FORCE
.DELETE_ON_ERROR:

help:
	@echo 'build        the package and its extension, in place, for $(VENV)'
	@echo 'demo         crawl a documentation tree with 100 tasks in one thread'
	@echo 'test         the tests'
	@echo 'test-clients client libraries, patched, against their servers (those that are installed)'
	@echo 'conformance  CPython'\''s own tests with everything patched: what passes only without'
	@echo 'suites       test suites of others, got by pip: what passes only unpatched; ARGS="django sh" chooses'
	@echo 'races        random schedules over every primitive, ARGS=100000 of them or as many as you like'
	@echo 'fuzz         searchers, SECONDS=60 each: re-entrance, raw greenlets, descriptors, memory, peers; also with asan'
	@echo 'lint         ruff, mypy, clang-format'
	@echo 'format       let ruff and clang-format rewrite the files'
	@echo 'bench        the benchmarks, into docs/benchmarks.md; bench-quick: rougher and sooner, printed only'
	@echo 'bench-check  what got worse since benchmarks/figures.json was committed'
	@echo 'leaks        the tests, many times over, on a debug Python: references, memory, descriptors'
	@echo 'asan         the tests with AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'docs         the manual, in docs/_build/html'
	@echo 'test-all     the tests on each Python this machine has (tox)'
	@echo 'test-next    the tests on Python 3.14 and 3.15, in a chroot of Debian sid'
	@echo 'clean        remove all that these targets made'

# ---- the environment: .python (made), .deps (filled), .extra-* (extras), .built and .package (Evergreen in it) ----
$(VENV)/.python: FORCE
	@tools/make_venv.sh $(VENV) $(PYTHON)

$(VENV)/.deps: $(VENV)/.python pyproject.toml
	$(PIP) install $$($(VENV)/bin/$(REQUIREMENTS) build run test)
	@touch $@

$(VENV)/.extra-%: $(VENV)/.deps
	$(PIP) install $$($(VENV)/bin/$(REQUIREMENTS) $*)
	@touch $@

$(VENV)/.built: $(VENV)/.deps setup.py $(C_FILES)
	EVERGREEN_DEV=1 $(VENV)/bin/python setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/.package: $(VENV)/.deps setup.py | $(VENV)/.built
	EVERGREEN_DEV=1 $(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

build: $(VENV)/.built $(VENV)/.package

# ---- what people run -------------------------------------------------------------------------------------------
demo: build $(VENV)/.extra-examples
	@[ -e /usr/share/doc/python3-doc/html/index.html ] || tools/apt_install.sh python3-doc
	$(VENV)/bin/python examples/demo.py

test: build
	$(VENV)/bin/python -m pytest -q $(ARGS)

test-clients: build $(VENV)/.extra-clients $(VENV)/.extra-packages
	$(VENV)/bin/python -m pytest -q -rs tests/clients $(ARGS)

conformance: build
	$(VENV)/bin/python tools/conformance.py $(ARGS)

suites: build
	nice $(VENV)/bin/python tools/suites.py $(ARGS)

races: build
	EVERGREEN_RACES=$(or $(ARGS),100000) $(VENV)/bin/python -m pytest -q -o faulthandler_timeout=3600 tests/test_races.py

# In 15 minutes, bench-quick in 2.  OpenSSL is for the clients of TLS servers; Go takes part if it is installed.
bench-tools: build $(VENV)/.extra-bench
	@mkdir -p build
	@[ -e /usr/include/openssl/ssl.h ] || tools/apt_install.sh libssl-dev

bench: bench-tools
	$(VENV)/bin/python benchmarks/run.py --json build/figures.json $(ARGS)
	$(VENV)/bin/python benchmarks/report.py build/figures.json docs/benchmarks.md
	cp build/figures.json benchmarks/figures.json

bench-check: bench-tools
	$(VENV)/bin/python benchmarks/run.py --quick --json build/figures.json $(ARGS)
	$(VENV)/bin/python benchmarks/check.py --again benchmarks/figures.json build/figures.json

bench-quick: bench-tools
	$(VENV)/bin/python benchmarks/run.py --quick $(ARGS)

docs: build $(VENV)/.extra-docs
	$(VENV)/bin/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

fuzz: build
	EVERGREEN_FUZZ=$(or $(SECONDS),60) $(VENV)/bin/python -m pytest -q -rP -o faulthandler_timeout=3600 tests/fuzz $(ARGS)

lint: $(VENV)/.extra-lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(C_FILES) $(BENCH_C_FILES)

format: $(VENV)/.extra-lint
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format
	$(VENV)/bin/clang-format -i $(C_FILES) $(BENCH_C_FILES)

# ---- leaks: a debug Python, and greenlet built for it, since a release build does not count its references --------
leaks:
	@command -v $(DBG_PYTHON) >/dev/null || tools/apt_install.sh $(DBG_PYTHON)
	@command -v c++ >/dev/null || tools/apt_install.sh g++
	@$(MAKE) --no-print-directory VENV=.venv-dbg PYTHON=$(DBG_PYTHON) .venv-dbg/.debug-greenlet build
	.venv-dbg/bin/python tools/leaks.py $(ARGS)

# NDEBUG: its assertions look at the greenlet that was switched to after coming back, and the hub does not keep that
# alive (it could not tell a recyclable greenlet from one that somebody holds if it did; see park.c).
.venv-dbg/.debug-greenlet: .venv-dbg/.deps
	CFLAGS=-DNDEBUG CXXFLAGS=-DNDEBUG $(PIP) install --force-reinstall --no-deps --no-binary greenlet greenlet
	@touch $@

# ---- asan: a tree of its own, so that the other builds never load an extension with sanitizers ------------------
# libstdc++ comes first too: greenlet throws C++ exceptions, and the sanitizer must find __cxa_throw at start.
# Python's own allocators would hide what the sanitizer looks for; what Python leaks at exit is not its business.
ASAN_LIBRARIES = $$($${CC:-gcc} -print-file-name=libasan.so) $$($${CC:-gcc} -print-file-name=libstdc++.so.6)
# ASan reports into files, since a test may swallow what its child says; UBSan cannot beside it, so pytest leaves
# the error stream alone.  It gives threads no signal stack, since it would free that of faulthandler instead, which
# pytest enables, in a test of pytest itself in a thread.
ASAN_REPORT = $(CURDIR)/.venv-asan/report
ASAN_RUN = LD_PRELOAD="$(ASAN_LIBRARIES)" PYTHONMALLOC=malloc \
	ASAN_OPTIONS=log_path=$(ASAN_REPORT):detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1:use_sigaltstack=0 \
	UBSAN_OPTIONS=log_path=$(ASAN_REPORT):print_stacktrace=1:halt_on_error=1

asan:
	@$(MAKE) --no-print-directory VENV=.venv-asan PYTHON=$(PYTHON) .venv-asan/.sanitized
	@rm -f $(ASAN_REPORT).*
	cd .venv-asan/src && { EVERGREEN_FUZZ=$(SECONDS) $(ASAN_RUN) ../bin/python -m pytest -q --capture=sys \
		-o faulthandler_timeout=$$(($(or $(SECONDS),0) + 600)) $(ARGS); status=$$?; \
		for report in $(ASAN_REPORT).*; do [ ! -e "$$report" ] || { cat "$$report"; status=1; }; done; \
		exit $$status; }

.venv-asan/.sanitized: .venv-asan/.deps FORCE
	@rm -rf .venv-asan/src && mkdir .venv-asan/src
	@tools/pack_tree.sh | tar -x -C .venv-asan/src
	cd .venv-asan/src && EVERGREEN_SANITIZE=1 ../bin/python setup.py --quiet build_ext --inplace
	cd .venv-asan/src && EVERGREEN_SANITIZE=1 ../bin/python -W ignore -m pip -qq install --no-build-isolation --no-deps -e .

# ---- other Pythons -----------------------------------------------------------------------------------------------
test-all: $(VENV)/.extra-dev
	$(VENV)/bin/python -m tox $(if $(ARGS),-- $(ARGS))

test-next: $(VENV)/.deps
	@tools/test_next.sh .chroot-sid $(VENV)/bin/python $(ARGS)

clean:
	rm -rf .venv .venv-dbg .venv-asan .tox build dist *.egg-info docs/_build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.chroot-sid -prune -o -name __pycache__ -exec rm -rf {} +
	rm -f evergreen/_evergreen_c*.so evergreen/_native*.so
	[ ! -e .chroot-sid ] || $$([ -w .chroot-sid ] || echo sudo) rm -rf .chroot-sid
