# Two commands on a fresh machine, each doing all its set-up: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install demo test test-slow test-gpu lint clean
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sciencessl needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[all,dev]"
	@touch $@

demo: install
	$(BIN)/sciencessl demo galaxy --out demo

test: install lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-slow: install
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: install
	$(BIN)/python -m pytest -m gpu

lint: install
	$(BIN)/ruff check sciencessl domains data_prep configs tests docs benchmarks
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
