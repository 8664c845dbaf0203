# Everything runs inside .venv with the versions of constraints.txt; the stamps keep set-up from running twice.
PYTHON ?= python3
GRID ?= grids/starting_layer.yaml
ARGS ?=

.PHONY: help setup sweep check test test-long clean
help:
	@echo 'make sweep GRID=grids/starting_layer.yaml   set up .venv, run a grid, write its report'
	@echo 'make test                                   set up .venv with the test extras, run every test'
	@echo 'make test-long                              the tests that take minutes each, and each fault 20 times'
	@echo 'make check                                  ruff and mypy'

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "famba-sweep needs Python 3.11 to 3.13; choose one with: make PYTHON=/path/to/python ..."; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/ready-test: .venv/ready
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

setup: .venv/ready

sweep: .venv/ready
	.venv/bin/famba-sweep $(GRID) $(ARGS)

check: .venv/ready-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check --quiet .
	.venv/bin/mypy

test: .venv/ready-test
	.venv/bin/pytest -n 2 --dist worksteal

test-long: .venv/ready-test
	.venv/bin/pytest -m long
	@mkdir -p build
	.venv/bin/pytest -n 2 -m "long or not long" --tries 20 --fault-table build/faults.md tests/sweep/faults

clean:
	rm -rf .venv build *.egg-info
