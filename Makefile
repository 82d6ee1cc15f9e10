# `make` alone prints what there is. Every verb first sees to .venv, and costs nothing when that is up to date.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

# Not even where the environment wishes it: each of some hundred processes would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
# A stamp carries what it was made of: the locks, and the folder, since an environment does not survive a move.
MADE_OF := pyproject.toml deploy/locks/bootstrap.txt
RUN_SUM := $(shell { pwd; cat $(MADE_OF) deploy/locks/run.txt; } | cksum | tr -d ' ')
DEV_SUM := $(shell { pwd; cat $(MADE_OF) deploy/locks/dev.txt; } | cksum | tr -d ' ')
RUN_STAMP := .venv/.run-$(RUN_SUM)
DEV_STAMP := .venv/.dev-$(DEV_SUM)
# The tools' environment holds everything that the daemon needs.
RUN_READY := $(or $(wildcard $(DEV_STAMP)),$(RUN_STAMP))
PYTEST := $(BIN)/python -m pytest
# For example: make test-unit ARGS='-k retry -x'
ARGS ?=

CHECKS := check-ruff check-format check-types check-imports check-dependencies check-spelling check-dead-code check-yaml

.PHONY: help setup run test lint format types test-unit test-rooms test-contract test-journey test-kafka \
        sweep bench chaos schema verify lock clean $(CHECKS)

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(RUN_STAMP):
	@.ci/setup run $@

$(DEV_STAMP):
	@.ci/setup dev $@

setup: $(DEV_STAMP) ## Make .venv with everything, tools included
	@:

run: $(RUN_READY) ## Start the daemon with its own PostgreSQL, Kafka and a demo; Ctrl-C ends all of it
	@exec $(BIN)/dispatcher run --embedded --demo $(ARGS)

test: $(DEV_STAMP) ## Prove everything: lint, types, imports, drift and all tests
	@.ci/test

lint: $(DEV_STAMP) ## Run every check that needs no test: ruff, mypy, import contracts, dependencies, spelling
	@$(MAKE) --no-print-directory --keep-going --output-sync=target -j 2 $(CHECKS)

format: $(DEV_STAMP) ## Rewrite the code as the formatter wants it, and mend what ruff can mend
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

types: check-types ## Run mypy

test-unit: $(DEV_STAMP) ## Run the unit tests and the house rules
	@$(PYTEST) tests/unit tests/house $(ARGS)

test-rooms: $(DEV_STAMP) ## Run the tests of single rooms against the real thing
	@$(PYTEST) tests/rooms $(ARGS)

test-contract: $(DEV_STAMP) ## Run the tests of schemas, vectors and facts about libraries
	@$(PYTEST) tests/contract $(ARGS)

test-journey: $(DEV_STAMP) ## Run the whole process through stops, kills and restarts
	@$(PYTEST) tests/journey $(ARGS)

test-kafka: $(DEV_STAMP) ## Run the tests that need a real Apache Kafka (a JDK and Maven)
	@$(PYTEST) tests/kafka $(ARGS)

sweep: $(DEV_STAMP) ## Run the tests of which `make test` runs a few: every guard taken out, the longest outages
	@$(PYTEST) -m sweep $(ARGS)

bench: $(DEV_STAMP) ## Measure throughput, CPU, latency and memory; prints ratios of one run
	@exec $(BIN)/python -m tests.bench $(ARGS)

chaos: $(DEV_STAMP) ## Kill, freeze and crash under load, then check that nothing was lost; ARGS=--help
	@exec $(BIN)/python -m tests.chaos $(ARGS)

schema: $(DEV_STAMP) ## Write the generated files again
	@$(BIN)/python -m tests.house.generated write

verify: $(DEV_STAMP) ## Fail when a generated file is not what its source says
	@$(BIN)/python -m tests.house.generated verify

lock: $(DEV_STAMP) ## Resolve the dependencies of pyproject.toml into deploy/locks again
	@.ci/lock

clean: ## Remove .venv and every cache; keeps .dispatcher, the data of make run
	@rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis dist build htmlcov .coverage*
	@find dispatcher tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(CHECKS): $(DEV_STAMP)

check-ruff:
	@$(BIN)/ruff check --quiet .

check-format:
	@$(BIN)/ruff format --check --quiet --diff .

check-types:
	@$(BIN)/mypy --no-error-summary

check-imports:
	@$(BIN)/lint-imports --no-cache > .venv/lint-imports.log 2>&1 || { cat .venv/lint-imports.log; exit 1; }

check-dependencies:
	@$(BIN)/deptry --no-ansi . > .venv/deptry.log 2>&1 || { cat .venv/deptry.log; exit 1; }

check-spelling:
	@$(BIN)/codespell

check-dead-code:
	@$(BIN)/vulture

check-yaml:
	@$(BIN)/yamllint --strict --config-file .ci/yamllint.yaml schemas deploy .ci
