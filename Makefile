# make demo    set up and run the main job        make check   seconds: lint, types, imports, quick tests
# make test    everything that CI runs            make prove   hours: long proofs on the real 270M
# make setup   .venv with the specdec command     make goldens regenerate the golden files
# make bench    the standard measurements, and what changed since the last on this machine

.DEFAULT_GOAL := demo
SHELL := /bin/sh
PYTHON := .venv/bin/python
PIP := $(PYTHON) -m pip install --quiet --disable-pip-version-check
# the version that the golden files were made with
TORCH := torch==2.13.0
# one BLAS thread per test process: two processes share two cores
PYTEST := OPENBLAS_NUM_THREADS=1 $(PYTHON) -m pytest -n 2

.PHONY: demo setup check lint test prove goldens bench clean

demo: setup
	@$(PYTHON) benchmarks/demo.py

setup: .venv/.stamp-run

.venv/.stamp-run: pyproject.toml scripts/system-packages.sh
	@scripts/system-packages.sh run
	@test -x $(PYTHON) || python3 -m venv .venv
	@echo "installing Python packages into .venv"
	@$(PIP) -e '.[cpu]'
	@touch $@

.venv/.stamp-test: .venv/.stamp-run
	@scripts/system-packages.sh test
	@$(PIP) -e '.[cpu,dev]'
	@touch $@

# training and clusters: large packages that only `make test` and `make prove` want
.venv/.stamp-extras: .venv/.stamp-test
	@$(PIP) -e '.[cpu,dev,distil,ray]' $(TORCH)
	@touch $@

lint: .venv/.stamp-test
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check --quiet .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-cache | tail -n 3
	@.venv/bin/codespell

check: lint
	@$(PYTEST) -m "not slow and not prove"

test: .venv/.stamp-extras lint
	@$(PYTEST) -m "not prove"

.venv/.stamp-goldens: .venv/.stamp-extras
	@$(PIP) -e '.[cpu,dev,distil,ray,goldens]'
	@touch $@

prove: .venv/.stamp-goldens
	@$(PYTHON) -m pytest -m prove --durations=0

goldens: .venv/.stamp-goldens
	@$(PYTHON) tests/make_goldens.py

bench: setup
	@$(PYTHON) benchmarks/bench.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
