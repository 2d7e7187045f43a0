# Everything a person types. Each target sets up what it needs, inside this folder alone.

.DEFAULT_GOAL := help
.PHONY: help setup services demo serve deploy redteam test test-fast mutations lint lock bench clean

ROOT := $(CURDIR)
VENV := $(ROOT)/.venv
PYTHON ?= python3

export PATH := $(VENV)/bin:$(PATH)
export UV_CACHE_DIR ?= $(ROOT)/.cache/uv
export XDG_CACHE_HOME ?= $(ROOT)/.cache
export XDG_CONFIG_HOME ?= $(ROOT)/.cache/config
export MPLCONFIGDIR ?= $(ROOT)/.cache/matplotlib
export TMPDIR := $(ROOT)/.cache/tmp
export HF_HOME ?= $(ROOT)/.cache/huggingface
export DVC_SITE_CACHE_DIR ?= $(ROOT)/.cache/dvc
export PREFECT_HOME ?= $(ROOT)/.prefect
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## make .venv with everything in requirements.txt
	@mkdir -p $(TMPDIR)

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version 2>&1) is too old; install Python 3.11 or later, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "error: $(PYTHON) cannot make a virtual environment; install its venv package (Debian: python3-venv)" >&2; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip sync --quiet --require-hashes requirements.txt
	VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

services: ## install what the tests of a team's services need: PostgreSQL and Chromium, from Debian's packages
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && command -v chromium >/dev/null; then exit 0; fi; \
	 if [ "$$(id -u)" = 0 ]; then as=; elif sudo --non-interactive true 2>/dev/null; then as=sudo; else as=nobody; fi; \
	 if [ "$$as" = nobody ] || ! command -v apt-get >/dev/null; then \
		echo "error: this needs apt-get and root; install PostgreSQL and Chromium yourself (Debian: postgresql, chromium)" >&2; exit 1; \
	 fi; \
	 install="$$as env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends"; \
	 $$as apt-get update --quiet && $$install postgresql && $$install chromium

demo: setup ## the whole pipeline on scikit-learn's digits, then its result and where to look
	dvc repro
	@python -m flows.summary

redteam: setup ## attack the embedded default, undefended and sanitized
	dvc repro redteam/dvc.yaml
	@cat reports/redteam/drill/table.md

serve: setup ## a Prefect server, work pool and worker of this machine, with all deployments; Ctrl-C ends them
	@python -m flows.serve

deploy: setup ## the work pool and all deployments, on the server that PREFECT_API_URL names
	@python -m flows.serve --deploy-only

test: setup ## run the tests, two files at a time (they wait for servers more than they compute)
	OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: setup ## run the tests that take seconds
	python -m pytest -m "not slow"

mutations: setup ## make each slip of tests/mutations/ in a copy and see that its tests fail on it (about 20 minutes)
	python tests/mutate.py

lint: setup ## ruff (lint and format) and mypy
	ruff check .
	ruff format --check .
	mypy

lock: ## compile requirements*.txt anew from pyproject.toml
	$(VENV)/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --group dev \
		pyproject.toml --output-file requirements.txt

bench: setup ## the claims in the README, measured again (minutes)
	dvc repro denoiser
	python -m benchmarks.noise_only
	python -m benchmarks.noise_only --architecture small-cnn
	python -m benchmarks.certify
	python -m benchmarks.partition_certify
	python -m benchmarks.frontiers --data digits --sigma .25 .5 1 2 --k 1 2 5 10 20
	python -m benchmarks.crafting
	python -m benchmarks.ensemble
	python -m benchmarks.adaptive --histories 20
	python -m benchmarks.drill
	python -m benchmarks.sanitizer
	python -m benchmarks.memory --denoiser data/denoiser

clean: ## remove what this machine made: stores, caches, stage outputs (asks nothing)
	rm -rf .venv .cache .mlflow .prefect .state .dvc/tmp .dvc/cache .pytest_cache .mypy_cache .ruff_cache
	rm -rf data/*.npz data/*.json data/*.csv data/*.safetensors data/denoiser data/ensemble
