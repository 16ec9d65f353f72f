# `make help` lists the targets. `make demo` and `make test` work from nothing: they make .venv,
# install what constraints.txt pins, build the wheel and install it. A second run only checks dates.

# Variables for the command line: make test ARGS="-k max", make demo ARGS="--lang ko".
ARGS     ?=
JOBS     ?= 2
# Warnings are errors where nobody reads them.
WERROR   ?= $(if $(CI),ON,OFF)
SANITIZE_TESTS ?= tests/test_kernels*.py tests/test_blur.py tests/test_traps_*.py

# PYTHON and CXX name the interpreter and the compiler; by default, the first that will do.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
            $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
            && { echo $$p; break; }; done)
ifeq ($(origin CXX),default)
CXX := $(firstword $(foreach c,c++ g++ clang++,$(if $(shell command -v $c 2>/dev/null),$c)) c++)
endif
export CXX
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BIN     := .venv/bin
PIP     := $(BIN)/pip
# Folders too, so that a deleted or renamed file counts as a change.
SOURCES := $(shell find csrc src -name __pycache__ -prune -o -print) \
           CMakeLists.txt pyproject.toml README.md LICENSE
# No isolation: the pinned torch is the one built against, and the build folder stays incremental.
BUILD_WHEEL = $(PIP) wheel -q . --no-build-isolation --no-deps

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-large lint format bench docs wheel sanitize clean check-python \
        check-compiler

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: .venv/installed ## run the main job on a photograph; the report is build/demo/report.html
	$(BIN)/poolkit demo --out build/demo $(ARGS)

# Threads that wait for work sleep at once: the processes of the tests share the cores, and would
# spend most of the time waiting for each other.
test: export OMP_WAIT_POLICY := passive
test: .venv/installed ## run the tests against the installed wheel
	$(BIN)/pytest -n $(JOBS) $(ARGS)

test-large: .venv/installed ## run the tests that need tens of gigabytes
	$(BIN)/pytest -m large -o addopts="--import-mode=importlib" tests/large $(ARGS)

lint: .venv/ready ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(wildcard csrc/*)

format: .venv/ready ## reformat Python and C++ in place
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard csrc/*)

bench: .venv/installed .venv/peers ## measure against the other libraries and the limit of memory
	$(BIN)/python -m benchmarks $(ARGS)

docs: .venv/installed .venv/site ## regenerate the generated pages of docs/; build the site, build/site
	$(BIN)/python docs/generate.py $(ARGS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo build/site/index.html

wheel: build/wheel/built ## build build/wheel/poolkit-*.whl
	@ls build/wheel/*.whl

# A build of its own on a path of its own, run by the same .venv: PYTHONPATH comes before it.
# Without --capture=no a report would be lost with the process that it ends.
sanitize: .venv/ready ## run the kernel tests under AddressSanitizer and UBSan (g++ only)
	rm -rf build/sanitize/wheel build/sanitize/site
	$(BUILD_WHEEL) -w build/sanitize/wheel -C build-dir=build/sanitize/cmake \
	  -C install.strip=false -C cmake.define.POOLKIT_SANITIZE=ON
	$(PIP) install -q --no-deps --target build/sanitize/site build/sanitize/wheel/*.whl
	PYTHONPATH=build/sanitize/site ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  $(BIN)/python -P -m pytest --capture=no $(SANITIZE_TESTS) $(ARGS)

clean: ## remove everything that make made
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache .hypothesis

# ---- From nothing to an installed wheel ---------------------------------------------------------

# Dates decide what is done again: .venv/ready, build/wheel/built, .venv/installed.
.venv/ready: constraints.txt benchmarks/models.txt | check-python check-compiler
	$(PYTHON) -m venv .venv
	sed '/^# Documentation site/,$$d' constraints.txt > .venv/constraints.txt
	$(PIP) install -q -r .venv/constraints.txt
	$(PIP) install -q --no-deps -r benchmarks/models.txt
	@touch $@

build/wheel/built: $(SOURCES) .venv/ready | check-compiler
	rm -rf build/wheel
	$(BUILD_WHEEL) -w build/wheel -C build-dir=build/cmake -C cmake.define.POOLKIT_WERROR=$(WERROR)
	@touch $@

# The packages of one section of constraints.txt, beside those of .venv/ready.
INSTALL_SECTION = sed -n '/^\# $(1)/,/^$$/p' constraints.txt > $@.txt && $(PIP) install -q -r $@.txt

# Only the site needs its generator.
.venv/site: .venv/ready
	$(call INSTALL_SECTION,Documentation site)
	@touch $@

# Only the benchmark needs other libraries: hundreds of megabytes.
.venv/peers: .venv/ready
	$(call INSTALL_SECTION,Peers of the benchmark)
	@touch $@

.venv/installed: build/wheel/built
	$(PIP) install -q --no-deps --force-reinstall build/wheel/*.whl
	@touch $@

NO_PYTHON := poolkit needs Python >= 3.11, and none of python3 and python3.11 to python3.14 is; \
             install one or name it: make PYTHON=/path/to/python
NO_VENV   := poolkit needs the venv and ensurepip modules of Python; install e.g. \
             `apt-get install python3-venv`
check-python:
	@test -n "$(PYTHON)" || { echo '$(NO_PYTHON)' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'poolkit needs Python >= 3.11, which $(PYTHON) is not' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo '$(NO_VENV)' >&2; exit 1; }

NO_COMPILER = poolkit needs a C++20 compiler (g++ >= 11 or clang++ >= 14); $(CXX) is missing or \
              too old; install e.g. `apt-get install g++`
# A file that compiles if compiler and standard library are young enough.
define COMPILER_CHECK
#include <version>
#if defined(__clang__) ? __clang_major__ < 14 : __GNUC__ < 11
#error too old
#endif
endef
export COMPILER_CHECK
check-compiler:
	@echo "$$COMPILER_CHECK" | $(CXX) -std=c++20 -fsyntax-only -x c++ - 2>/dev/null || \
	  { echo '$(NO_COMPILER)' >&2; exit 1; }
