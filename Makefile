# Every target works on a fresh clone: `setup` makes or refreshes .venv first and
# takes a fraction of a second when nothing has changed. `just` has the same targets.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PYTHON := $(VENV)/bin/python

# Commands that start services see .env; variables already set in the shell win.
# Tests never read it, so their result does not depend on who runs them.
WITH_ENV = $(if $(wildcard .env),$(PYTHON) -m dotenv -f .env run --no-override --)

PYTEST_ARGS ?=
BENCH_ARGS ?=
K3S_ARGS ?=

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Create or refresh .venv (all other targets do this by themselves)
	@scripts/setup.sh

.PHONY: dev
dev: setup ## Start router + local_agent (no Docker); Ctrl-C stops all of it
	@exec $(WITH_ENV) $(PYTHON) -m scripts.dev

.PHONY: docker-dev
docker-dev: ## Build & run all services via Docker Compose
	@scripts/docker_dev.sh

.PHONY: k3s-up
k3s-up: ## Spin up single-node k3s and deploy llm-d; K3S_ARGS="--help" lists the options
	@scripts/k3s_up.sh $(K3S_ARGS)

.PHONY: k3s-down
k3s-down: ## Remove what k3s-up made; K3S_ARGS="--help" lists the options
	@scripts/k3s_down.sh $(K3S_ARGS)

.PHONY: test
test: setup ## Run all tests with coverage, in parallel
	@$(PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report term $(PYTEST_ARGS)

.PHONY: chart-test
chart-test: setup ## Lint, render and check the Helm charts, with all their ci/*-values.yaml
	@$(PYTHON) -m pytest -q tests/worker_cluster $(PYTEST_ARGS)

.PHONY: test-clients
test-clients: setup ## Drive the router with real client libraries; installs them into .clients/
	@$(PYTHON) -m scripts.clients
	@TEST_CLIENTS=1 $(PYTHON) -m pytest -q tests/clients $(PYTEST_ARGS)

.PHONY: test-vllm
test-vllm: setup ## Drive the router with real vLLM behind real Envoy; installs vLLM into .vllm/
	@$(PYTHON) -m scripts.vllm
	@TEST_VLLM=1 $(PYTHON) -m pytest -q tests/vllm $(PYTEST_ARGS)

.PHONY: test-docker
test-docker: setup ## Build the images and try the Compose stack with a real Docker (ten minutes)
	@TEST_DOCKER=1 $(PYTHON) -m pytest -q -s tests/docker $(PYTEST_ARGS)

.PHONY: lint
lint: setup ## Run ruff, mypy (strict), black (check mode) and import-linter
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m black --check .
	@$(VENV)/bin/lint-imports --no-logo
	@$(PYTHON) -m mypy

.PHONY: format
format: setup ## Rewrite the code in the house style (ruff --fix, black)
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m black --quiet .

.PHONY: docs
docs: setup ## Build the documentation site into site/ (strict)
	@$(PYTHON) -m scripts.reference --check
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict
	@echo "built: site/index.html"

.PHONY: reference
reference: setup ## Regenerate the reference pages that come from the code
	@$(PYTHON) -m scripts.reference

.PHONY: cassettes
cassettes: setup ## Record anew what external providers answer, for each whose key is set
	@$(PYTHON) -m scripts.cassettes

.PHONY: soak
soak: setup ## Ten minutes of mixed traffic with faults and leaving clients, and what is left behind
	@exec $(PYTHON) -m scripts.soak $(SOAK_ARGS)

.PHONY: bench
bench: setup ## Measure the router against nginx, in about five minutes
	@exec $(PYTHON) -m scripts.bench $(BENCH_ARGS)

.PHONY: bench-peers
bench-peers: setup ## Measure it against vllm-router and LiteLLM too; installs them into .bench/
	@exec $(PYTHON) -m scripts.bench --peers $(BENCH_ARGS)

.PHONY: clean
clean: ## Remove caches and build outputs; keeps .venv, data/, .bench/peers, .clients, .vllm and .env
	@rm -rf site build dist htmlcov .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* .bench/bin .bench/run-* .soak
