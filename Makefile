# `make demo` and `make test` need nothing but python 3.11 or newer: they set up .venv themselves.
# PYTHON names the interpreter to make .venv with; TORCH_FLAGS are pip options for torch alone
# (see docs/install.md).

PYTHON = python3
TORCH_FLAGS =
BIN = .venv/bin

help:
	@echo "make install  set up .venv with the pinned versions of constraints.txt"
	@echo "make demo     install, then train and backtest offline on a synthetic market"
	@echo "make demo-cluster  200 small trainings on a cluster of this machine, a worker killed meanwhile"
	@echo "make test     install, then run all tests"
	@echo "make quick    install, then the tests that take less than a minute together"
	@echo "make check    lint, types and layers, then make test"
	@echo "make lint     ruff (lint and format), mypy and import-linter"
	@echo "make bench    install, then run all benchmarks (about 15 minutes) into docs/performance.md"
	@echo "make bench-learning  what is learned, against whom (hours), into docs/learning_results.md"
	@echo "make audit    known vulnerabilities and licences of all that is installed (asks the network)"
	@echo "make release-pins  requirements-release.txt anew, with the digests of all packages"
	@echo "make clean    remove caches and build products; .venv and user_data stay"
	@echo "Options: PYTHON=python3.12 for another interpreter, TORCH_FLAGS for pip options of torch"

install: .venv/installed

demo: install
	$(BIN)/mtf-scalper demo

demo-cluster: install
	$(BIN)/python tools/demo_cluster.py

test: install
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	  command -v $$name > /dev/null && exit 0; done; \
	  test -n "$$MTF_SCALPER_CHROMIUM" || \
	  echo "make: no Chromium, so the browser tests are skipped; install the system's package" \
	    "(Debian: apt-get install chromium) or set MTF_SCALPER_CHROMIUM to the program" >&2
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Leaves out what starts a program or processes, opens a browser or takes long: tests/conftest.py.
quick: install
	$(BIN)/python -m pytest -q -n 2 -m "not (program or processes or browser or slow)"

check: lint
	$(MAKE) test

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A requirement that is not met is printed and recorded; only a failed measurement stops the rest.
bench: install
	$(BIN)/python -m pip install -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/environment.py
	$(BIN)/python benchmarks/simulate.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/update.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/evaluation.py

bench-learning: install
	$(BIN)/python -m pip install -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/learning.py
	$(BIN)/python benchmarks/families.py
	$(BIN)/python benchmarks/real_candles.py
	$(BIN)/python benchmarks/tuning.py

# What could not be looked up is a failure too (--strict).
audit: install
	$(BIN)/python -m pip install -c constraints.txt -e ".[audit]"
	$(BIN)/pip-audit --strict --disable-pip --require-hashes -r requirements-release.txt
	$(BIN)/python tools/licences.py

release-pins: install
	$(BIN)/python -m pip install -c constraints.txt -e ".[audit]"
	$(BIN)/python tools/release_pins.py

clean:
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

# torch goes first and alone, so that TORCH_FLAGS can choose its build; the second call keeps it.
.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -c constraints.txt $(TORCH_FLAGS) torch
	$(BIN)/python -m pip install -c constraints.txt -e ".[freqtrade,evidence,cluster,tune,dev]"
	@touch .venv/installed

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else 1)' || { \
	  echo "make: needs python 3.11 or newer, but '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1 || true); try: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.PHONY: help install demo demo-cluster quick test check lint bench bench-learning audit release-pins clean
