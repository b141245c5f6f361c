# Everything sets itself up: it needs git, make, python3 (3.11 or later) and python3-venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test lint format types layers unit bench clean

help:
	@echo "make demo     move a real process from one node to another, in the model"
	@echo "make test     format check, lint, types, floors, tests, and every example of the docs"
	@echo "make bench    the benchmarks"
	@echo "make format   format the code"
	@echo "make clean    remove what was built"

$(STAMP): requirements.lock pyproject.toml
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-build-isolation --no-deps -e .
	@touch $@

demo: $(STAMP)
	@$(BIN)/mmigrate demo

# The checks of the text run beside each other; the tests come last, and their closing line.
test: $(STAMP)
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint types layers
	@$(MAKE) --no-print-directory unit

lint: $(STAMP)
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@echo "format and lint: ok"

types: $(STAMP)
	@$(BIN)/mypy --no-error-summary
	@echo "types: ok"

layers: $(STAMP)
	@$(BIN)/lint-imports --no-logo >.layers 2>&1 || { cat .layers; rm -f .layers; exit 1; }
	@rm -f .layers
	@echo "floors: ok"

unit: $(STAMP)
	@$(BIN)/pytest -n 2

bench: $(STAMP)
	@$(BIN)/mmigrate bench

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
