# Each target works on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-newest lint bench clean

demo: .venv/installed
	$(BIN)/isnet-jax train biased-digits --out runs/biased-digits

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The engine's tests on another Python: make test-newest NEWEST=python3.13
NEWEST ?= $(shell .ci/newest-python)
test-newest: .venv-newest/installed-dev
	.venv-newest/bin/python -m pytest -n 2 --dist worksteal tests/lrp -m "not slow"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Against PyTorch, in three minutes; benchmarks/README.md has the rest.
bench: .venv-bench/installed
	.venv-bench/bin/python benchmarks/step_throughput.py --quick --out benchmarks/results/quick

.venv-bench/installed: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[benchmarks]"
	touch $@

# Compilers for TPU and GPU; libtpu beside CUDA, so without its dependencies.
.venv-accelerators/installed: pyproject.toml
	$(PYTHON) -m venv .venv-accelerators
	.venv-accelerators/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[cuda]"
	.venv-accelerators/bin/python -m pip install --quiet --disable-pip-version-check --no-deps libtpu
	touch $@

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@ .venv/installed

.venv-newest/installed-dev: pyproject.toml
	$(NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .venv-newest .venv-bench .venv-accelerators .pytest_cache .ruff_cache .hypothesis
