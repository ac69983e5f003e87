# Everything here works on a machine with python3 (3.11 or newer) and make; the Apache Kafka tests
# also want Java 17 and Maven, and say so where they are missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What `make test` was last installed from: a change there installs again.
INPUTS := pyproject.toml constraints.txt

.PHONY: test demo bench lint format clean

$(VENV)/installed-%: $(INPUTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

# The demo needs the least: no test tools.
demo: $(VENV)/installed-demo
	$(BIN)/sluiced demo $(ARGS)

test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check daemon tests
	$(BIN)/ruff check daemon tests
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff format daemon tests
	$(BIN)/ruff check --fix daemon tests

bench: $(VENV)/installed-dev
	PYTHONPATH=tests $(BIN)/python -m bench.run $(ARGS)

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
