# Every target does everything itself on a machine that has Python 3.11 or newer, pip and make.
PYTHON ?= python3
VENV ?= .venv
# So many files of tests at a time; each test computes on one core.
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all chaos lint format docs clean

help:
	@echo "make quickstart   install, generate a small labelled set, find a model for it, say how to use it"
	@echo "make test         install, then lint, type-check and run the quick tests"
	@echo "make test-all     the same with every model and everything slow"
	@echo "make chaos        sweeps whose processes are killed at random moments, a hundred of them"
	@echo "make format       format the code"
	@echo "make docs         write docs/keys.md from the typed nodes, docs/exports.md from the formats"
	@echo "make clean        remove the virtual environment and what the tools left behind"

$(VENV)/.package: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $$($(PYTHON) -V) was found. Name another: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.package
	$(INSTALL) -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.package
	$(BIN)/python examples/quickstart.py quickstart

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

chaos: $(VENV)/.dev
	$(BIN)/python tests/chaos.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	$(BIN)/python -m lightning_automl_vision.help > docs/keys.md
	$(BIN)/python -m lightning_automl_vision.export.matrix > docs/exports.md

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
