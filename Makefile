# Every target makes a virtual environment where there is none and installs into it what it needs; a second call
# installs nothing. Another interpreter or folder: make test PYTHON=python3.13 VENV=.venv-new

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
TESTS ?= tests gradtx
OUT ?= runs

BIN := $(VENV)/bin
EXAMPLES := $(patsubst examples/%.py,%,$(shell grep -l __main__ examples/*.py examples/flax/*.py))
BENCHMARKS := run import_cost step_cost many_leaves optimizer_bytes accuracy normalization curvature scaling storage

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo examples pictures test test-all lint docs bench clean

## demo: train on handwritten digits and draw the curves
demo: $(VENV)/.has-examples
	$(BIN)/python examples/digits.py --out $(OUT)/digits $(ARGS)

## examples: run every example; ARGS=--short makes it quick
examples: $(VENV)/.has-examples
	set -e; for name in $(EXAMPLES); do $(BIN)/python examples/$$name.py --out $(OUT)/$$name $(ARGS); done

## pictures: the examples' pictures, for the documentation
pictures: examples
	cp $(OUT)/*/*.png $(OUT)/flax/*/*.png docs/pictures/

## test: what does not take long
test: $(VENV)/.has-test
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" $(if $(SELECT),-k "$(SELECT)") $(TESTS)

## test-all: every test
test-all: $(VENV)/.has-test
	$(BIN)/python -m pytest -q -n $(WORKERS) $(TESTS)

## lint: style and types
lint: $(VENV)/.has-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

## docs: the documentation as web pages in site/
docs: $(VENV)/.has-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

## bench: measure against peers; numbers in runs/bench
bench: $(VENV)/.has-test
	mkdir -p $(OUT)/bench
	set -e; for name in $(BENCHMARKS); do \
	    $(BIN)/python -m benchmarks.$$name --json $(OUT)/bench/$$name.json $(ARGS); \
	done

## clean: remove whatever the other targets made
clean:
	rm -rf .venv .venv-new $(VENV) $(OUT) .cache .hypothesis .pytest_cache .ruff_cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra of pyproject.toml that is installed.
$(VENV)/.has-%: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@

$(BIN)/python:
	$(if $(shell $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) and print("recent")' 2>&1 | grep -x recent),,\
	    $(error gradtx needs Python 3.11 or newer, but `$(PYTHON) --version` says $(shell $(PYTHON) --version 2>&1 | head -n 1); write make $(MAKECMDGOALS) PYTHON=python3.12))
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
