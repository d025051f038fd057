PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench compare

demo: .venv/.installed  ## train a first SAE
	$(BIN)/sae-platform train

test: .venv/.installed  ## the whole test suite
	$(BIN)/python -m pytest

check: .venv/.installed  ## style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.installed .peers/.installed  ## what a step costs here and elsewhere; goes on where it stopped
	$(BIN)/python -m benchmarks

compare: .venv/.installed .peers/.installed .peers-5/.installed  ## our SAE folders and registry against those of the peers
	$(BIN)/python -m scripts.interchange
	mkdir -p build
	$(BIN)/sae-platform registry dump > build/saes.jsonl
	.peers/bin/python -m scripts.compare_saelens_registry build/saes.jsonl

# The torchvision that comes with the peers belongs to another build of torch and cannot be imported beside this one.
.peers/.installed: benchmarks/peers.txt
	test -x .peers/bin/python || $(PYTHON) -m venv .peers
	.peers/bin/python -m pip install -r benchmarks/peers.txt
	.peers/bin/python -m pip uninstall -y torchvision
	touch $@

.peers-5/.installed: benchmarks/peers-5.txt
	test -x .peers-5/bin/python || $(PYTHON) -m venv .peers-5
	.peers-5/bin/python -m pip install -r benchmarks/peers-5.txt
	touch $@

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $@
