# Two commands on a fresh machine: `make demo` and `make test`. Needs Python 3.11 or newer and make, nothing else.

SHELL := /bin/bash
# Python compiles what it imports once and keeps it: a fifth of what compiling every installed package takes.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
BIN := .venv/bin
STAMP := .venv/.setup-stamp
VLLM_STAMP := .venv/.vllm-stamp
WORKSPACE ?= workspace-demo
# A process a core takes whole files, each with one thread: what a file makes for its tests is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-all lint format lock airflow docs site clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Create .venv with the locked packages (a no-op when nothing changed)

$(STAMP): pyproject.toml constraints.txt overrides.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is older (set PYTHON=/path/to/python3.11)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(BIN)/python -m pip config get global.find-links 2>/dev/null || true)}" \
		VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -e '.[dev]' -c constraints.txt --override overrides.txt
	@touch $(STAMP)

$(VLLM_STAMP): $(STAMP)
	links="$${UV_FIND_LINKS:-$$($(BIN)/python -m pip config get global.find-links 2>/dev/null || true)}"; \
		UV_FIND_LINKS="$$links" VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet \
		$$(test -n "$$links" || echo --torch-backend=cpu) -e '.[dev,vllm]' -c constraints.txt --override overrides.txt
	@touch $(VLLM_STAMP)

demo: setup ## Run everything on the demo shop: data, language model, profiles, features, models, report
	@$(BIN)/reclm demo --workspace $(WORKSPACE)

test: setup lint $(VLLM_STAMP) ## Lint, check types, run the unit and integration tests (embedded default, with vLLM; a quarter of an hour on two cores)
	$(PYTEST) -m "not full"

test-all: setup $(VLLM_STAMP) ## Run the tests that `make test` leaves out: servers, browser, long runs (fails where a server is missing)
	$(PYTEST) -m full

lint: setup ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## Resolve the packages again into constraints.txt (no download addresses)
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(BIN)/python -m pip config get global.find-links 2>/dev/null || true)}" \
		$(BIN)/uv pip compile pyproject.toml --extra dev --extra lineage --extra vllm -c constraints.txt --override overrides.txt \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet -o constraints.txt
	@sed -i 's/^torch==\([0-9.]*\)+cpu/torch==\1/' constraints.txt

airflow: setup ## Start Airflow over the DAGs on the demo workspace, for a look; Ctrl-C stops all of it
	@$(BIN)/python -m reclm.schedule.standalone --workspace $(WORKSPACE)

docs: setup ## Build dbt's documentation of every table into the workspace
	@$(BIN)/reclm build --docs --workspace $(WORKSPACE)

site: setup ## Render docs/ and the Python API into site/index.html (dead links fail)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean: ## Remove the environment, caches and the demo workspace (never ./workspace)
	rm -rf .venv $(STAMP) $(WORKSPACE) .pytest_cache .mypy_cache .ruff_cache dbt/target dbt/logs site *.egg-info
