# `make demo` and `make test` build .venv first if it is missing or older than its inputs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint format clean

.venv/.built: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxmodels needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

## The ladder and a short training of both frameworks on the embedded sample.
demo: .venv/.built
	rm -rf runs/demo
	$(BIN)/python scripts/train.py cifar10-simplecnn --engine flax --epochs 4 --out runs/demo/flax
	$(BIN)/python scripts/train.py cifar10-simplecnn --engine torch --epochs 4 --out runs/demo/torch
	$(BIN)/python scripts/parity.py cifar10-logistic cifar10-simplecnn --steps 80 --out runs/demo
	@echo 'Open runs/demo/report.html; the trainings and their plots are in runs/demo/flax and runs/demo/torch.'

test: .venv/.built
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow and not tpu'

## What `make test` leaves out; real data is read from $$JAXMODELS_DATA.
test-slow: .venv/.built
	$(BIN)/pytest -m 'slow and not tpu'

lint: .venv/.built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.built
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs build *.egg-info
