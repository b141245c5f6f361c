# Everything sets itself up in .venv: it needs git, make, python3 (3.11 or later) and python3-venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LAB := $(VENV)/.lab
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
INSTALL_LAB = $(PIP) install --require-hashes --only-binary :all: -r requirements-lab.lock && touch $(LAB)

.PHONY: help demo test lab lint format types layers unit bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     move a real process from one node to another, in the model"
	@echo "make test     format, lint, types, floors, tests, and every example of the docs"
	@echo "make lab      install what boots real kernels: QEMU, kernels, virtme-ng"
	@echo "make bench    the benchmarks"
	@echo "make format   format the code"
	@echo "make lint     make types     make layers     make unit     parts of make test"
	@echo "make clean    remove what was built"

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "mmigrate needs Python 3.11 or later with venv: apt-get install python3-venv" >&2; exit 3; }
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --require-hashes --only-binary :all: -r requirements.lock
	@$(PIP) install --no-build-isolation --no-deps -e .
	$(if $(wildcard $(LAB)),@$(INSTALL_LAB))
	@touch $@

demo: $(STAMP)
	@$(BIN)/mmigrate demo

# The checks of the text run beside each other, and all of them even if one fails; the tests
# come last, and their closing line.
test: $(STAMP)
	@$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target types lint layers
	@$(MAKE) --no-print-directory unit

# With it `make test` also boots a kernel; without it those tests are skipped, and say so.
lab: $(LAB)
	@sh tools/lab-packages

$(LAB): $(STAMP) requirements-lab.lock
	@echo "installing virtme-ng into $(VENV) ..."
	@$(INSTALL_LAB)

lint: $(STAMP)
	@$(BIN)/ruff format --check --quiet --diff . || { echo "make format does this" >&2; exit 1; }
	@$(BIN)/ruff check --quiet --output-format=concise .
	@echo "format and lint: ok"

types: $(STAMP)
	@$(BIN)/mypy --no-error-summary
	@echo "types: ok"

layers: $(STAMP)
	@report=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$report" >&2; exit 1; }
	@echo "floors: ok"

# The examples of a page share a namespace, so a file belongs to one worker.
unit: $(STAMP)
	@$(BIN)/pytest -n 2 --dist loadfile

bench: $(STAMP)
	@$(BIN)/mmigrate bench

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
