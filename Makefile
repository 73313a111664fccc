# Daily commands; `make help` lists them. Needs git, make, and Python 3.11 or newer with its venv module, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
# Of its own: one of the peers brings a pytest plugin, and nobody needs fifty megabytes of them to run the tests.
BENCH_VENV := build/bench
EMBEDDERS_VENV := build/embedders
EMBEDDERS_STAMP := $(EMBEDDERS_VENV)/.set-up
BENCH_STAMP := $(BENCH_VENV)/.set-up
# Two cores are what a laptop or a CI runner surely has, and about half of the time is waited: for a lease to expire, for
# processes to come back, for the disk. A file's tests share services, so a file stays on one.
TEST_WORKERS ?= 4
# Bytecode is kept even where the environment forbids it (tests/conftest.py says how long): the tests start hundreds of
# processes, and asserts are rewritten by each that finds none. compileall follows no links, so not `chargehand`.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
COMPILED := $(BIN)/python -m compileall -q orchestrator workers memory migrations benchmarks tests/chaos
SEED ?= 1
# Of `make chaos`: short or long; STEPS, FAULTS, KILLS and MOST_SECONDS change single things of it.
SIZE ?= short
SEEDS ?= 1000
FROM ?= 1

# As they were typed: a goal may contain quotes and dollars.
override export GOAL := $(value GOAL)
override export WORKSPACE := $(value WORKSPACE)
override export PATIENCE := $(value PATIENCE)
override export DATA := $(value DATA)
yes = $(filter-out 0 no false,$(1))

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-long test-browser test-embedders live check lint types imports bench bench-cost bench-memory chaos simulate schemathesis docs lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the pinned dependencies (again only when they change)
	@:

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Chargehand needs Python 3.11 or newer, '$(PYTHON)' is $$($(PYTHON) --version 2>&1); try: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; a few minutes on a slow line)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --only-binary :all: --requirement requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## Run the main job on the demo workspace, or on yours: WORKSPACE=path GOAL="..." KILL=1 PATIENCE=300
	@$(BIN)/chargehand demo $(if $(call yes,$(KILL)),--kill) \
	  $${WORKSPACE:+--workspace "$$WORKSPACE"} $${GOAL:+--goal "$$GOAL"} $${PATIENCE:+--patience "$$PATIENCE"}

up: setup ## Start databases, supervisor, pools and Flower until Ctrl-C
	@$(BIN)/chargehand up

test: setup ## Run the tests (TEST_WORKERS=4 processes; ARGS="-k words" for some)
	@$(COMPILED)
	@$(PYTEST) -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder -m "not long and not browser and not embedders" $(ARGS)

test-browser: setup ## Run the tests of the pages in Debian's chromium; screenshots go to build/screenshots
	@command -v chromium >/dev/null || { echo "The pages are tested in a browser; on Debian: apt-get install chromium" >&2; exit 1; }
	@$(COMPILED)
	@$(PYTEST) -n 0 -m browser tests/system/test_browser.py tests/integration/test_bench_slice.py $(ARGS)

test-long: setup ## Run the tests that kill, race and measure for long; CI runs them after the others
	@$(COMPILED)
	@$(PYTEST) -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder -m long $(ARGS)

live: setup ## Ask the real server of your key or base URL a few small questions (costs about a cent)
	@PYTHONPATH=tests $(BIN)/python -m live

test-embedders: $(EMBEDDERS_STAMP) ## Test the optional embedding models with their libraries, in an environment of their own
	@$(EMBEDDERS_VENV)/bin/python -m pytest -n 0 -m embedders tests/integration/memory/test_embedding_providers.py

$(EMBEDDERS_STAMP): requirements-embedders.lock pyproject.toml
	@test -x $(EMBEDDERS_VENV)/bin/pip || $(PYTHON) -m venv $(EMBEDDERS_VENV)
	@$(EMBEDDERS_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement requirements-embedders.lock
	@$(EMBEDDERS_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

check: lint types imports ## Lint, formatting, strict types, import layers

lint: setup ## Ruff: rules and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup ## Mypy, strict
	$(BIN)/mypy

imports: setup ## Import-linter: who may import whom
	$(BIN)/lint-imports

bench: $(BENCH_STAMP) ## Measure against the floor and the peers, one JSON line a figure (SUITES="turn peers" for some)
	@$(BENCH_VENV)/bin/python -m benchmarks $(SUITES)

bench-cost: setup ## Price a recorded multi-agent run four ways: all-large or routed, uncached or cached
	@$(BIN)/python -m benchmarks cost

bench-memory: setup ## Measure recall on your collections (BEIR folders, LoCoMo's JSON): DATA=folder
	@$(BIN)/python -m benchmarks memory

$(BENCH_STAMP): $(STAMP) requirements-bench.lock
	@echo "Setting up $(BENCH_VENV) (once): all of requirements.lock, and for the suite 'peers' alone:"
	@grep -v '^#' requirements-bench.lock | xargs echo " "
	@$(BIN)/python -m venv --clear $(BENCH_VENV)
	@$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check --only-binary :all: \
	  --requirement requirements.lock --requirement requirements-bench.lock
	@$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

chaos: setup ## Kill next to every commit, race 200 runs, then break everything under load: SEED=1 SIZE=short|long STEPS=200 FAULTS=20
	@CHAOS_POINTS=all RACES_RUNS=200 $(BIN)/python -m pytest -n 0 tests/system/test_crash_points.py tests/system/test_races.py
	@PYTHONPATH=tests $(BIN)/python -m chaos --seed $(SEED) --size $(SIZE) $(if $(STEPS),--steps $(STEPS)) \
	  $(if $(FAULTS),--faults $(FAULTS)) $(if $(KILLS),--kills $(KILLS)) $(if $(MOST_SECONDS),--most-seconds $(MOST_SECONDS))

simulate: setup ## Run the core in small worlds that go wrong in memory: SEEDS=1000 FROM=1
	@PYTHONPATH=tests $(BIN)/python -m simulation --seeds $(SEEDS) --from $(FROM)

# Ten examples take a minute and a half on a quiet machine, thirty two and a half; a hundred were never seen to their end.
schemathesis: setup ## Ask the HTTP API for whatever its schema allows and forbids, every check on (SCHEMATHESIS_EXAMPLES=10)
	SCHEMATHESIS_EXAMPLES=$${SCHEMATHESIS_EXAMPLES:-10} SCHEMATHESIS_PHASES=coverage,fuzzing,stateful \
	  $(BIN)/python -m pytest -q -n 0 tests/integration/api/test_schema_is_kept.py

docs: setup ## Build the site of the documents, with the reference, in build/site; broken links fail
	@$(BIN)/python docs/stage.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/site/index.html"

lock: ## Resolve requirements.lock and requirements-bench.lock anew from pyproject.toml in a clean environment
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check '.[dev]'
	{ echo "# Exact versions of everything, for development and CI. Made by 'make lock' from pyproject.toml."; \
	  build/lock/bin/pip freeze | grep -v '^chargehand '; } > requirements.lock
	build/lock/bin/pip install --quiet --disable-pip-version-check --constraint requirements.lock '.[bench]'
	{ echo "# What the benchmarks need beyond requirements.lock. Made by 'make lock' from pyproject.toml."; \
	  build/lock/bin/pip freeze | grep -v '^chargehand ' | grep -vxF -f requirements.lock; } > requirements-bench.lock
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check '.[dev,fastembed,voyageai]'
	{ echo "# What the optional embedding models are tested with. Made by 'make lock' from pyproject.toml."; \
	  build/lock/bin/pip freeze | grep -v '^chargehand '; } > requirements-embedders.lock
	rm -rf build/lock

clean: ## Remove .venv, builds and caches; databases stay (CHARGEHAND_HOME, ~/.local/share/chargehand)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
