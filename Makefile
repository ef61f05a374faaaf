# Each target works on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint bench clean

demo: .venv/installed
	$(BIN)/isnet-jax train biased-digits --out runs/biased-digits

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow"

test-all: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadscope

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

clean:
	rm -rf .venv .venv-bench .venv-accelerators .pytest_cache .ruff_cache .hypothesis
