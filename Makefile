# Everything a user or a developer types. A machine needs Python 3.11+ with headers, git, g++ and make.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export PYTHONDONTWRITEBYTECODE :=

# make run DATA=… EVAL=… RECIPE=… ARGS="…"
RUN_ARGS := $(if $(DATA),--data '$(DATA)') $(if $(EVAL),--eval '$(EVAL)') $(if $(RECIPE),--recipe '$(RECIPE)') $(ARGS)

.PHONY: help
help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: run
run: $(VENV)/.installed ## the whole pipeline: curate, pretrain, distil, evaluate, release
	@$(BIN)/selfsight run $(RUN_ARGS)

.PHONY: doctor
doctor: $(VENV)/.installed ## check this machine, the parameters and the services
	@$(BIN)/selfsight doctor

.PHONY: test
test: $(VENV)/.installed-dev ## unit, integration and fault tests, under 12 minutes
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

.PHONY: test-slow
test-slow: $(VENV)/.installed-dev ## the slower tests
	$(BIN)/python -m pytest -m slow $(ARGS)

.PHONY: lint
lint: $(VENV)/.installed-dev ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/.installed-dev ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(VENV)/.installed-docs ## build the documentation site, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: bench
bench: $(VENV)/.installed-dev ## every benchmark, or ONLY=P1
	$(BIN)/python -m benchmarks $(ONLY)

.PHONY: clean
clean: ## remove the virtual environment and build leftovers; data, runs and models stay
	rm -rf $(VENV) site .mypy_cache .ruff_cache *.egg-info

.PHONY: preflight
preflight:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or later, or name one with 'make PYTHON=…'" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old: name Python 3.11 or later with 'make PYTHON=…'" >&2; exit 2; }
	@command -v g++ >/dev/null || { echo "g++ is missing and DeepSpeed compiles its CPU operators: install it (Debian, Ubuntu: apt-get install g++)" >&2; exit 2; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || { echo "Python.h is missing: install the Python headers (Debian, Ubuntu: apt-get install python3-dev)" >&2; exit 2; }
	@git rev-parse --git-dir >/dev/null 2>&1 || { echo "this is not a git repository: clone the project with git, or type 'git init'" >&2; exit 2; }

$(VENV)/bin/python: | preflight
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@ $(VENV)/.installed
