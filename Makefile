# Every target makes what it needs: the first one called sets up .venv (some minutes), later ones
# start at once. Only Python 3.11 or newer has to be there.

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH  := torch==2.14.1 torchvision==0.29.1
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
RUN    := runs/quickstart
PARTS  := explainers pipeline cli tests benchmarks configs clusters docs

# More threads than cores make torch slower by an order of magnitude when tests start workers.
export OMP_NUM_THREADS ?= 1

.PHONY: help install format lint test test-unit test-slow test-all drills bench demo montage docs clean

help:
	@echo "make demo       explain 5,000 digits with five methods and write a report"
	@echo "make montage    draw every method's maps of six digits: runs/montage.png"
	@echo "make test       all tests but the long ones (test-unit: the fast part, test-slow: the rest)"
	@echo "make test-all   whole networks and benchmarks too"
	@echo "make drills     twenty faults on purpose: what is expected, what was observed"
	@echo "make lint       ruff, mypy, import-linter, codespell"
	@echo "make format     ruff format, and what ruff can fix"
	@echo "make bench      ratios against peers and against bare torch"
	@echo "make docs       regenerate the generated pages and tables"
	@echo "make install    set up .venv for development"
	@echo "make clean      remove caches and .venv; runs stay"

install: $(VENV)/.dev

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "xpipe needs Python 3.11 or newer: none was found" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The torch pair first and alone, so that nothing else decides on its version.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) --upgrade pip
	$(PIP) $(TORCH)
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --editable '.[dev]'
# It wants an old pillow and a server; what a test needs of it does without.
	$(PIP) --no-deps 'virelay>=0.6.1'
	@touch $@

format: install
	$(BIN)/ruff check --fix-only $(PARTS)
	$(BIN)/ruff format $(PARTS)

lint: install
	$(BIN)/ruff check $(PARTS)
	$(BIN)/ruff format --check $(PARTS)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

test: test-unit test-slow

test-unit: install
	$(BIN)/python -m pytest --numprocesses auto -m "not slow and not ray and not long"

test-slow: install
	$(BIN)/python -m pytest --numprocesses auto -m "slow and not ray and not long"
	$(BIN)/python -m pytest -m "ray and not long"

test-all: install
	$(BIN)/python -m pytest

# One after another: each has the machine for itself, as some kill what others might run on.
drills: install
	$(BIN)/python -m pytest -m drill

bench: install
	@set -e; for path in benchmarks/[a-z]*.py; do \
		name=$$(basename $$path .py); echo "$$name"; $(BIN)/python -m benchmarks.$$name; done

demo: $(VENV)/.demo
	$(BIN)/xpipe run configs/quickstart/run.yaml
	@echo "the report is $(CURDIR)/$(RUN)/report.html; open it in a browser"

montage: $(VENV)/.demo
	$(BIN)/python -m docs.montage
	@echo "the picture is $(CURDIR)/runs/montage.png"

docs: install
	$(BIN)/python -m docs.generate

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf .import_linter_cache
	find explainers pipeline cli tests benchmarks configs clusters docs -name __pycache__ \
		-prune -exec rm -rf {} +
