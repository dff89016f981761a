# The same targets as the Makefile, for those who prefer `just`; each one hands over to make,
# so that what a target does is written once.

# Show this list
help:
    @just --list --unsorted

# Create or refresh .venv (all other targets do this by themselves)
setup:
    @make setup

# Start router + local_agent (no Docker); Ctrl-C stops all of it
dev:
    @exec make dev

# Build & run all services via Docker Compose
docker-dev:
    @make docker-dev

# Spin up single-node k3s and deploy llm-d; K3S_ARGS="--help" lists the options
k3s-up:
    @make k3s-up

# Remove what k3s-up made; K3S_ARGS="--help" lists the options
k3s-down:
    @make k3s-down

# Run all tests with coverage, in parallel
test:
    @make test

# Lint, render and check the Helm charts, with all their ci/*-values.yaml
chart-test:
    @make chart-test

# Drive the router with real client libraries; installs them into .clients/
test-clients:
    @make test-clients

# Drive the router with real vLLM behind real Envoy; installs vLLM into .vllm/
test-vllm:
    @make test-vllm

# Build the images and try the Compose stack with a real Docker (ten minutes)
test-docker:
    @make test-docker

# Run ruff, mypy (strict), black (check mode) and import-linter
lint:
    @make lint

# Rewrite the code in the house style (ruff --fix, black)
format:
    @make format

# Build the documentation site into site/ (strict)
docs:
    @make docs

# Regenerate the reference pages that come from the code
reference:
    @make reference

# Record anew what external providers answer, for each whose key is set
cassettes:
    @make cassettes

# Ten minutes of mixed traffic with faults and leaving clients, and what is left behind
soak:
    @exec make soak

# Measure the router against nginx, in about five minutes
bench:
    @exec make bench

# Measure it against vllm-router and LiteLLM too; installs them into .bench/
bench-peers:
    @exec make bench-peers

# Remove caches and build outputs; keeps .venv, data/, .bench/peers, .clients, .vllm and .env
clean:
    @make clean
