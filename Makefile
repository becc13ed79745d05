# `make demo` and `make test` each do all the set-up themselves; a second run is quick.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# What `make reproduce-table6` works on.
MANIFEST ?= walking_tours
ROOT ?= data
DETECTOR ?= detic

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-slow check format bench fault-table reproduce-table6

help:              ## Show this list
	@grep -E '^[a-z0-9%-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(INSTALLED) ## Make .venv and install wtours with everything the demo and the tests need

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "wtours needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

demo: $(INSTALLED)  ## The whole road on two rendered walks, offline, in minutes
	$(BIN)/wtours demo

test: $(INSTALLED)  ## All tests but the soak: no GPU, no internet, at most 15 minutes on 2 cores
	$(BIN)/python -m pytest -m "not slow and not gpu" $(PYTEST_ARGS)

test-fast: $(INSTALLED) ## The inner loop: under a minute on 2 cores
	$(BIN)/python -m pytest -m "not medium and not slow and not gpu" $(PYTEST_ARGS)

test-slow: $(INSTALLED) ## Soak, random kills, long video
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

check: $(INSTALLED) ## Format, rules and types
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

format: $(INSTALLED) ## Rewrite: ruff's format and its safe fixes
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

bench: $(INSTALLED) ## All benchmarks (bench-learning alone takes up to an hour); each prints a table and writes benchmarks/out/NAME.json
	@for file in benchmarks/bench_*.py; do $(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done

bench-%: $(INSTALLED) ## One benchmark, for example make bench-render
	$(BIN)/python -m benchmarks.bench_$*

fault-table: $(INSTALLED) ## The table of docs/reliability.md: each download fault, by wtours and by its peers
	$(BIN)/python -m benchmarks.faults.table

reproduce-table6: $(INSTALLED) ## Table 6 of the paper: download, analyze, report; MANIFEST= ROOT= DETECTOR= FROM_DIR= override
	@# Code 3: some videos are missing, or no objects; the page says which, and why.
	$(BIN)/wtours download --manifest $(MANIFEST) --root $(ROOT) $(if $(FROM_DIR),--from-dir $(FROM_DIR)) || [ $$? -eq 3 ]
	$(BIN)/wtours analyze --manifest $(MANIFEST) --root $(ROOT) --detector $(DETECTOR) || [ $$? -eq 3 ]
	$(BIN)/wtours report --manifest $(MANIFEST) --root $(ROOT)
