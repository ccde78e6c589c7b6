# `make demo` and `make test` build .venv first if it is missing or older than its inputs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-xla test-pod-plan lint format clean

.venv/.built: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxmodels needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

## A short training of every kind of task on the embedded samples, and the ladder.
demo: .venv/.built
	rm -rf runs/demo
	$(BIN)/python scripts/train.py cifar10-simplecnn --engine flax --epochs 4 --out runs/demo/flax
	$(BIN)/python scripts/train.py cifar10-simplecnn --engine torch --epochs 4 --out runs/demo/torch
	$(BIN)/python scripts/train.py imdb-lstm --engine flax --epochs 15 --data.max-length 32 --out runs/demo/imdb
	$(BIN)/python scripts/train.py prices-lstm --engine torch --out runs/demo/prices
	$(BIN)/python scripts/forecast.py runs/demo/prices --engine flax
	$(BIN)/python scripts/train.py shakespeare-gru --engine flax --epochs 1 --out runs/demo/text
	$(BIN)/python scripts/generate.py runs/demo/text --engine torch --prompt 'The ' --max-new-tokens 80
	$(BIN)/python scripts/parity.py imdb-lstm shakespeare-gru prices-transformer --rungs weights,forward,gradient,resume --out runs/demo/others
	$(BIN)/python scripts/parity.py cifar10-logistic cifar10-simplecnn --steps 40 --rungs weights,forward,gradient,step,curve,metric,resume,engines --out runs/demo
	@echo 'Open runs/demo/report.html; the trainings, with plots and tables, are in the folders of runs/demo.'

## One thread of torch a worker: two that wait for each other's cores take twice the time.
test: .venv/.built
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m 'not slow and not tpu and not xla and not podplan' --durations=60

## What `make test` leaves out; real data is read from $$JAXMODELS_DATA.
test-slow: .venv/.built
	$(BIN)/pytest -m 'slow and not tpu and not xla and not podplan'

# torch-xla runs with one version of torch alone, of which PyPI has the CUDA build: 7 GB, two minutes.
.venv-xla/.built: pyproject.toml constraints-xla.txt
	$(PYTHON) -m venv .venv-xla
	.venv-xla/bin/pip install --quiet --disable-pip-version-check --constraint constraints-xla.txt --editable '.[jax,sample,text,forecast,xla]' pytest
	touch $@

## The torch-xla engine, in an environment of its own.
test-xla: .venv-xla/.built
	PJRT_DEVICE=CPU .venv-xla/bin/pytest -m xla --durations=30 parity_tests/test_xla.py

# libtpu in a folder of its own: in .venv every start of jax would look for a TPU, and complain.
.libtpu/.built: pyproject.toml constraints.txt | .venv/.built
	rm -rf .libtpu
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --constraint constraints.txt --target .libtpu \
		"libtpu==$$($(BIN)/python -c 'from jaxmodels.pod_plan.topology import required_compiler; print(required_compiler())')"
	touch $@

## The pod plan, by the TPU's own compiler, which is 700 MB on disk.
test-pod-plan: .venv/.built .libtpu/.built
	PYTHONPATH=.libtpu $(BIN)/pytest -m podplan --durations=10 parity_tests/test_pod_plan_compiled.py

lint: .venv/.built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.built
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-xla .libtpu runs build *.egg-info
