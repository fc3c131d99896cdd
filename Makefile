# The tasks of this repository. `make help` lists them; ARGS="..." is passed on.
.DEFAULT_GOAL := help
.PHONY: setup setup-tests up test e2e attacks chaos soak rollout check deploy-check gen lock bench help

setup: ## Install what is missing into .venv and .tools; quick when nothing is
	@scripts/setup.sh

setup-tests:
	@scripts/setup.sh --tests

up: setup ## Start the whole gateway on loopback
	@.venv/bin/tollhouse up $(ARGS)

test: setup-tests ## Run every test, on real Envoy, Redis and Triton
	@.venv/bin/python -m pytest -q -n 2 $(ARGS)

e2e: setup-tests ## Run the end-to-end tests only
	@.venv/bin/python -m pytest -q tests/e2e $(ARGS)

attacks: setup ## Try every attack, and every guard's absence; write docs/security.md
	@.venv/bin/python -m tests.e2e.attacks.document
	@.venv/bin/python -m pytest -q tests/e2e/attacks $(ARGS)

chaos: setup ## Kill parts at random and compare the books: 25 minutes
	@.venv/bin/python -m tests.chaos $(ARGS)

soak: setup ## Keep the aggregator away for 10 minutes under load
	@.venv/bin/python -m tests.chaos.soak $(ARGS)

rollout: setup ## Replace gateways under 100 running streams, ten times: 4 minutes
	@.venv/bin/python -m tests.rollout $(ARGS)

check: setup ## Lint, types, import rules, protos, configuration
	.venv/bin/ruff check --quiet --output-format concise
	.venv/bin/ruff format --check --quiet
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
	.venv/bin/python protos/generate.py --check
	.venv/bin/buf lint
	.venv/bin/buf format -d --exit-code
	scripts/check-breaking.sh
	.venv/bin/codespell
	.venv/bin/tollhouse check-config

gen: setup ## Generate services/tollhouse/pb from protos/
	@.venv/bin/python protos/generate.py

deploy-check: setup-tests ## Check deploy/: manifests, compose.yaml, images, rules; deploys nothing
	@.venv/bin/python -m deploy.check

lock: setup ## Pin the dependencies anew: make lock ARGS=--upgrade
	@scripts/lock.sh $(ARGS)

bench: setup ## Measure the gateway beside Envoy alone and the bare shape
	@.venv/bin/python -m bench.run $(ARGS)

help: ## List the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
