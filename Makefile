# Every way to work with Farthing. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CONFIG ?= configs/default.yaml
PORT ?=
GPU ?= rtx4090
ARGS ?=
WORKERS ?= 3
PY := .venv/bin/python

.PHONY: help setup serve test check bench bench-overhead fit monitor lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: ## virtual environment and pinned dependencies (done by the others as needed)
	@./tools/setup.sh serve

serve: ## serve in the foreground: make serve [CONFIG=file] [PORT=8000]
	@./tools/setup.sh serve
	@exec $(PY) -m serving run --config $(CONFIG) $(if $(PORT),--port $(PORT))

# Compiled once, whatever the environment says, and not by each of the hundreds of processes that tests start.
test: export PYTHONDONTWRITEBYTECODE :=
test: ## all tests: make test [ARGS='tests/router -x'] [WORKERS=3]
	@./tools/setup.sh dev
	@$(PY) -m models prepare embedded
	$(PY) -m pytest $(if $(ARGS),$(ARGS),-m 'not stack' -n $(WORKERS) --dist worksteal)
	$(if $(ARGS),,$(PY) -m pytest -m stack $(sort $(shell grep -rl 'mark\.stack' tests --include='test_*.py')))

check: ## lint, types, import direction, size caps
	@./tools/setup.sh dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) tools/caps.py

bench: ## what 1,000 requests cost: make bench [ARGS='--zeroeval FILE --out FOLDER']
	@./tools/setup.sh dev
	$(PY) -m benchmarks.cost $(ARGS)

bench-overhead: ## the gateway's overhead: make bench-overhead [ARGS='--peer litellm']
	@./tools/setup.sh dev
	$(PY) -m benchmarks.overhead $(ARGS)

fit: ## what fits a GPU: make fit GPU=rtx4090
	@./tools/setup.sh serve
	@$(PY) -m models fit --gpu $(GPU) $(ARGS)

monitor: ## Prometheus and Grafana on loopback, with Docker or without
	@if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then \
	  exec docker compose -f cluster/monitoring/compose.yaml up; else exec cluster/monitoring/run.sh; fi

lock: ## resolve requirements/*.in into the locks anew
	@./tools/lock.sh

clean: ## remove the virtual environment and caches (the ledger and models in .farthing stay)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache benchmarks/.venv-litellm
