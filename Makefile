# Everything a developer runs. Each target first makes .venv from the newest Python here and
# installs the project into it, again whenever pyproject.toml has changed.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help serve test check bench demo torture format clean

# The newest Python from 3.11 on that can make a virtual environment. Override: make PYTHON=...
PYTHON ?= $(shell for name in python3.{19..11} python3 python; do \
	$$name -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$name; break; }; done)

BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := $(wildcard flashq tools tests benchmarks examples)

help:
	@echo 'make serve   start the whole server (ARGS="--shards 4" passes flags)'
	@echo 'make test    run every test, in parallel (ARGS="-k name" passes flags)'
	@echo 'make check   format, lint, import contracts, types, generated files, then make test'
	@echo 'make bench   measure, and print one table'
	@echo 'make demo    index the standard library through the queue while processes are killed'
	@echo 'make torture kill everything at random for minutes, and count what was lost (ARGS="--minutes 10")'
	@echo 'make format  format and fix what can be fixed'
	@echo 'make clean   remove caches and built files'

$(INSTALLED): pyproject.toml
	@[ -x $(BIN)/python ] || [ -n "$(PYTHON)" ] || \
		{ echo 'flashq needs Python 3.11 or later with venv (Debian: apt install python3-venv)' >&2; exit 1; }
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

serve: $(INSTALLED)
	@exec $(BIN)/flashq serve $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist worksteal --timeout 60 $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/mypy --strict $(SOURCES)
	$(BIN)/python -m tools.generate --check
	$(MAKE) test

bench: $(INSTALLED)
	@exec $(BIN)/python -m benchmarks $(ARGS)

demo: $(INSTALLED)
	@exec $(BIN)/python -m examples.demo $(ARGS)

# The table is kept in build/torture.txt. ARGS="--self-test" sees that sabotage is noticed.
torture: $(INSTALLED)
	@exec $(BIN)/python -m tests.torture $(ARGS)

format: $(INSTALLED)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
