# Everything a developer runs. Each target first makes .venv and installs what it needs, from the
# lock in requirements/, again whenever the lock or pyproject.toml has changed.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help serve test unit lint types check newest lock bench demo torture format clean

# The newest tested Python that can make a virtual environment. Override: make PYTHON=...
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	$$name -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$name; break; }; done)

# Another environment beside the usual one: make check PYTHON=python3.12 VENV=.venv-3.12
VENV ?= .venv
BIN := $(VENV)/bin
SERVER := $(VENV)/.server
DEV := $(VENV)/.dev
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCKED := $(PIP) install --require-hashes --no-deps --requirement
SOURCES := $(wildcard flashq tools tests benchmarks examples)
COMPILE := .venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate --no-header
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal --timeout 60

help:
	@echo 'make serve   start the whole server (ARGS="--shards 4" passes flags)'
	@echo 'make unit    run the pure tests, in parallel: seconds'
	@echo 'make test    run every test, in parallel (ARGS="-k name" passes flags)'
	@echo 'make check   format, lint, import contracts, types, generated files, unit, then the rest'
	@echo 'make newest  make check with the newest release of every dependency, and list those that differ'
	@echo 'make lock    write requirements/*.lock anew from pyproject.toml'
	@echo 'make bench   measure, and print one table'
	@echo 'make demo    index the standard library through the queue while processes are killed'
	@echo 'make torture kill everything at random for minutes, and count what was lost (ARGS="--minutes 10")'
	@echo 'make format  format and fix what can be fixed'
	@echo 'make clean   remove caches and built files'

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || \
		{ echo 'flashq needs Python 3.11 or later with venv (Debian: apt install python3-venv)' >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)

# The project itself is built by the locked hatchling, so that nothing is resolved on the way.
$(SERVER): requirements/build.lock requirements/server.lock pyproject.toml | $(BIN)/python
	$(LOCKED) requirements/build.lock
	$(LOCKED) requirements/server.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.lock $(SERVER)
	$(LOCKED) requirements/dev.lock
	@touch $@

serve: $(SERVER)
	@exec $(BIN)/flashq serve $(ARGS)

test: $(DEV)
	$(PYTEST) $(ARGS)

unit: $(DEV)
	$(PYTEST) tests/tidy tests/unit $(ARGS)

lint: $(DEV)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/python -m tools.generate --check

types: $(DEV)
	$(BIN)/mypy --strict $(SOURCES)

check: lint types unit
	$(PYTEST) --ignore tests/tidy --ignore tests/unit $(ARGS)

# Each run installs anew: the newest of today is not that of yesterday.
newest:
	rm -rf .venv-newest
	$(MAKE) VENV=.venv-newest .venv-newest/bin/python
	.venv-newest/bin/python -m pip --disable-pip-version-check --quiet install --upgrade --editable '.[dev]'
	touch .venv-newest/.server .venv-newest/.dev
	.venv-newest/bin/python -m tools.locked requirements/dev.lock
	$(MAKE) check VENV=.venv-newest

lock: $(BIN)/python
	[ -x .venv-lock/bin/uv ] || { $(BIN)/python -m venv .venv-lock; .venv-lock/bin/python -m pip install --quiet uv; }
	$(COMPILE) --output-file requirements/build.lock requirements/build.in
	$(COMPILE) --extra dev --output-file requirements/dev.lock pyproject.toml
	$(COMPILE) --extra server --extra postgres --extra grpc --constraint requirements/dev.lock \
		--output-file requirements/server.lock pyproject.toml

bench: $(DEV)
	@exec $(BIN)/python -m benchmarks $(ARGS)

demo: $(SERVER)
	@exec $(BIN)/python -m examples.demo $(ARGS)

# The table is kept in build/torture.txt. ARGS="--self-test" sees that sabotage is noticed.
torture: $(DEV)
	@exec $(BIN)/python -m tests.torture $(ARGS)

format: $(DEV)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
