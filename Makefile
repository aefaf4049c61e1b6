# make demo and make test are the only set-up: both make .venv from constraints.txt first, once.
PYTHON ?= python3
BIN := .venv/bin
ENVIRONMENT := .venv/made
SLURM := .venv/slurm
PEERS := .venv-peers
ONLY ?= cluster and not long
RUNS ?= 50
SEED ?= 0
DEMO := runs/demo

.PHONY: demo test test-cluster chaos check format bench wheel clean help

help:  ## What can be made
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile

$(ENVIRONMENT): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer; make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(ENVIRONMENT)  ## Digits with a fifth of the labels wrong: find them, mend them, explain a prediction
	$(BIN)/lowland run --workdir $(DEMO)
	@echo
	$(BIN)/lowland evaluate $(DEMO)
	@echo
	$(BIN)/lowland suspects $(DEMO) --top 10
	@echo
	$(BIN)/lowland query $(DEMO) --row query:0 -k 5
	@echo
	@echo "report: $(DEMO)/results/report/index.html"

test: $(ENVIRONMENT)  ## All tests; ARGS="-k word" for some
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

test-cluster: $(ENVIRONMENT) $(SLURM)  ## On a real Slurm of three nodes, started for it (Debian's, installed when root); ONLY="cluster" for the long ones too
	$(BIN)/python -m pytest -m '$(ONLY)' $(ARGS) tests/cluster

chaos: $(ENVIRONMENT)  ## Runs killed at random moments come to the same; RUNS=50 SEED=0
	$(BIN)/python -m tests.chaos --runs $(RUNS) --seed $(SEED) $(ARGS)

# Plugin and dask-jobqueue are no part of 'dev': only these tests need them.
$(SLURM): $(ENVIRONMENT)
	$(BIN)/pip install --constraint constraints.txt --editable '.[dask,slurm]'
	@touch $@

check: $(ENVIRONMENT)  ## Linters, formats, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile stages
	bash .ci/lint $(BIN)

format: $(ENVIRONMENT)  ## Format everything, and mend what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile stages

bench: $(ENVIRONMENT) $(PEERS)/made  ## Capture against peers, as ratios measured in one run; NAMES="digits" for others
	$(BIN)/python -m benchmarks $(NAMES)

# torch comes first, so that nothing else decides on its build. torchvision and torchaudio go again: no peer needs them
# to capture, and builds that do not fit a CPU build of torch keep transformers, and with it bergson, from importing.
$(PEERS)/made: benchmarks/peers/requirements.txt benchmarks/peers/constraints.txt
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/pip install --constraint benchmarks/peers/constraints.txt torch
	$(PEERS)/bin/pip install --constraint benchmarks/peers/constraints.txt --requirement benchmarks/peers/requirements.txt
	$(PEERS)/bin/pip uninstall --yes torchvision torchaudio
	@touch $@

wheel: $(ENVIRONMENT)  ## dist/lowland-*.whl
	$(BIN)/python -m build --wheel

clean:  ## Remove the environment, caches and built files; runs stay
	rm -rf .venv $(PEERS) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find pipeline tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
