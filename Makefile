PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check

demo: .venv/.installed  ## train a first SAE
	$(BIN)/sae-platform train

test: .venv/.installed  ## the whole test suite
	$(BIN)/python -m pytest

check: .venv/.installed  ## style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $@
