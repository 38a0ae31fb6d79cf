# `make quickstart` and `make test` set up everything they need: a virtual environment in .venv with the versions
# of constraints.txt. PYTHON chooses the interpreter (3.11 or newer). On Linux, PyPI's torch is a CUDA build of
# several gigabytes: TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the small CPU build instead.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if $$python -c "$(NEW_ENOUGH)" 2>/dev/null; then echo $$python; exit; fi; done; echo python3)
endif

# The oldest versions that pyproject.toml accepts: make test-oldest, or OLDEST=1 for any other target.
ifdef OLDEST
VENV := .venv-oldest
CONSTRAINTS := constraints-oldest.txt
else
VENV := .venv
CONSTRAINTS := constraints.txt
endif
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
pinned = $(shell sed -n '/^$(1)==/p' $(CONSTRAINTS))

# transformers' own model tests are the contract, and only its source distribution holds them.
CONTRACT := .cache/transformers-tests$(if $(OLDEST),-oldest)
export TRANSFORMERS_TESTS := $(CURDIR)/$(CONTRACT)
CONTRACT_READY := $(CONTRACT)/.$(call pinned,transformers)

TEST_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
PYTEST_ARGS ?= -n auto --maxprocesses 8 --dist loadscope
QUICKSTART := recipes/translation/quickstart.yaml

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(READY) ## Create .venv with the package and all its extras

$(READY): pyproject.toml $(CONSTRAINTS)
	@command -v $(PYTHON) >/dev/null || \
		{ echo "$(PYTHON) is not installed; name a Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c "$(NEW_ENOUGH)" || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), but vanilla-transformer needs Python 3.11 or newer;" \
		"name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version): a few minutes the first time."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(call pinned,torch) $(call pinned,torchvision)
	$(PIP) --editable '.[all]'
	@touch $@

$(CONTRACT_READY): | $(READY)
	@rm -rf $(CONTRACT) && mkdir -p $(CONTRACT)
	@if $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
		--no-build-isolation --dest $(CONTRACT) $(call pinned,transformers) && \
		tar -xzf $(CONTRACT)/transformers-*.tar.gz -C $(CONTRACT) --strip-components=1 --wildcards '*/tests' '*/LICENSE'; \
	then rm $(CONTRACT)/transformers-*.tar.gz && touch $@; \
	else echo "No source distribution of $(call pinned,transformers): its common model tests will be skipped." >&2; fi

.PHONY: transformers-tests
transformers-tests: $(CONTRACT_READY) ## Download transformers' own model tests into .cache

.PHONY: quickstart
quickstart: $(READY) ## Train a small English-Spanish model from scratch, score it, translate
	@if test -e outputs/quickstart; then \
		earlier=outputs/quickstart-$$(date +%Y%m%d-%H%M%S); mv outputs/quickstart $$earlier; \
		echo "The earlier quickstart is now in $$earlier."; fi
	$(BIN)/python recipes/seq2seq.py $(QUICKSTART)

.PHONY: test
test: $(READY) $(CONTRACT_READY) lint ## Run lint, types and all tests
	$(TEST_ENV) $(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: test-oldest
test-oldest: ## Run all tests with the oldest versions that pyproject.toml accepts
	$(MAKE) OLDEST=1 tests

.PHONY: tests
tests: $(READY) $(CONTRACT_READY)
	$(TEST_ENV) $(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: coverage
coverage: $(READY) $(CONTRACT_READY) ## Run all tests and show the lines that none of them runs
	$(TEST_ENV) $(BIN)/python -m pytest $(PYTEST_ARGS) --cov --cov-report=term

.PHONY: bench
bench: $(READY) ## Measure speed and memory beside the peers, about 15 minutes on two idle cores
	$(BIN)/python benchmarks/speed.py --output outputs/benchmarks $(BENCH_ARGS)

TORTURE := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false PYTHONPATH=src:tests $(BIN)/python tests/torture
INPUTS ?= 10000

.PHONY: torture
torture: $(READY) ## Disturb trainings and fuzz every entry point, under an hour; prints two tables
	$(TORTURE)/runs.py
	$(TORTURE)/fuzz.py --inputs $(INPUTS)

.PHONY: lint
lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: format
format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: results
results: $(READY) ## Write the tables of results and the model cards again
	$(BIN)/python tools/collect_results.py

.PHONY: docs
docs: $(READY) ## Build the site of the documentation in site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

.PHONY: docs-check
docs-check: $(READY) ## Run every command and every Python block of the documentation, long ones shortened
	$(TEST_ENV) $(BIN)/python tools/check_docs.py $(DOCS_ARGS)

.PHONY: clean
clean: ## Remove caches and the virtual environments; outputs/ stays
	rm -rf .venv .venv-oldest .cache .coverage* .mypy_cache .pytest_cache .ruff_cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
