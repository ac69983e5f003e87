# Everything here works on a machine with python3 (3.11 or newer) and make; the tests on Apache
# Kafka and OpenSearch also want Java 17 and Maven, and say so where they are missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What `make test` was last installed from: a change there installs again.
INPUTS := pyproject.toml constraints.txt

.PHONY: test demo bench bench-loads simulate mutants chaos soak lint format dashboards clean

$(VENV)/installed-%: $(INPUTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

# The demo needs the least: no test tools.
demo: $(VENV)/installed-demo
	$(BIN)/sluiced demo $(ARGS)

# Most tests wait for processes and not for a core, so that more of them at a time take less time.
test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest -n $(or $(JOBS),3) --dist loadfile $(ARGS)

# The long storm over a real Kafka: about ten minutes. ARGS="--seed 1" is the same storm again, and
# ARGS=--jobs one over providers of batch jobs.
chaos: $(VENV)/installed-dev
	PYTHONPATH=tests $(BIN)/python -m chaos.run $(ARGS)

# Gigabytes of records of all sizes, a slow API that fails, and a limit of the kernel.
# ARGS="--profile 'answers at the cap'" is one round alone.
soak: $(VENV)/installed-dev
	PYTHONPATH=tests $(BIN)/python -m soak.run $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check daemon tests grafana docs
	$(BIN)/ruff check daemon tests grafana docs
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff format daemon tests grafana docs
	$(BIN)/ruff check --fix daemon tests grafana docs

dashboards: $(VENV)/installed-dev
	$(BIN)/python -B grafana/build.py

# A day of seeds, or as many as there is time for: SEEDS=10000 START=0 JOBS=2
simulate: $(VENV)/installed-dev
	PYTHONPATH=tests $(BIN)/python -m simulation.run \
		--seeds $(or $(SEEDS),10000) --start $(or $(START),0) --jobs $(or $(JOBS),2) $(ARGS)

# Plants each bug of tests/simulation/mutants, and fails if the simulation does not find it.
mutants: $(VENV)/installed-dev
	PYTHONPATH=tests $(BIN)/python -m simulation.mutate $(ARGS)

bench: $(VENV)/installed-dev
	PYTHONPATH=tests $(BIN)/python -m bench.run $(ARGS)

# Whether "auto" finds the best load of servers of which it is known: twenty minutes.
bench-loads: $(VENV)/installed-dev
	PYTHONPATH=tests $(BIN)/python -m bench.loads $(ARGS)

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
