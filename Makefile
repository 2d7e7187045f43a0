# The commands for people. Each target installs what it needs, inside this folder only.

.DEFAULT_GOAL := help
.PHONY: help setup services demo serve deploy redteam test test-fast mutations mutations-all lint docs lock bench clean

ROOT := $(CURDIR)
VENV := $(ROOT)/.venv
PYTHON ?= python3
# Bytecode is compiled at once: where Python may not write it later, each process compiles all that it imports.
# An environment's commands contain its path. If the project was moved or copied, the environment is made again.
MOVED := $(filter-out $(realpath $(VENV)),$(shell cat $(VENV)/.installed 2>/dev/null))

export PATH := $(VENV)/bin:$(PATH)
export UV_CACHE_DIR ?= $(ROOT)/.cache/uv
export XDG_CACHE_HOME ?= $(ROOT)/.cache
export XDG_CONFIG_HOME ?= $(ROOT)/.cache/config
export MPLCONFIGDIR ?= $(ROOT)/.cache/matplotlib
export TMPDIR := $(ROOT)/.cache/tmp
export HF_HOME ?= $(ROOT)/.cache/huggingface
export DVC_SITE_CACHE_DIR ?= $(ROOT)/.cache/dvc
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
	@$(PYTHON) -m venv $(if $(MOVED),--clear) $(VENV) || \
		{ echo "error: $(PYTHON) cannot make a virtual environment; install its venv package (Debian: python3-venv)" >&2; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip sync --quiet --compile-bytecode --require-hashes requirements.txt
	VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@cd $(VENV) && pwd -P > .installed
ifneq ($(MOVED),)
.PHONY: $(VENV)/.installed
endif

services: ## install what the tests of a team's services need: PostgreSQL and Chromium, from Debian's packages
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && command -v chromium >/dev/null; then exit 0; fi; \
	 if [ "$$(id -u)" = 0 ]; then as=; elif sudo --non-interactive true 2>/dev/null; then as=sudo; else as=nobody; fi; \
	 if [ "$$as" = nobody ] || ! command -v apt-get >/dev/null; then \
		echo "error: this needs apt-get and root; install PostgreSQL and Chromium yourself (Debian: postgresql, chromium)" >&2; exit 1; \
	 fi; \
	 install="$$as env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends"; \
	 $$as apt-get update --quiet && $$install postgresql && $$install chromium

demo: setup ## run the whole pipeline on scikit-learn's digits, then print the result and where to look
	dvc repro
	@python -m flows.summary

redteam: setup ## attack the default data set, undefended and sanitized
	dvc repro redteam/dvc.yaml
	@cat reports/redteam/drill/table.md

serve: setup ## run a Prefect server, work pool and worker on this machine, with all deployments; Ctrl-C ends them
	@python -m flows.serve

deploy: setup ## register the work pool and all deployments on the server that PREFECT_API_URL names
	@python -m flows.serve --deploy-only

test: setup ## run the tests, two files at a time (they wait for servers more than they compute)
	OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: setup ## run the tests that take seconds
	python -m pytest -m "not slow"

mutations: setup ## try the slips of the functions that changed since tests/mutations/record.json (minutes)
	python tests/mutants.py

mutations-all: setup ## try every slip, by machine and by hand (hours; goes on where it was stopped)
	python tests/mutants.py --all
	python tests/mutate.py

lint: setup ## run ruff (lint and format) and mypy, and look for tests that cannot fail
	ruff check .
	ruff format --check .
	mypy
	python tests/lint_tests.py

docs: setup ## the documentation as a site: docs/_build/html/index.html (needs no network to be read)
	python -m sphinx --quiet --fail-on-warning --keep-going -c docs -d docs/_build/doctrees . docs/_build/html

lock: ## compile requirements.txt again from pyproject.toml
	$(VENV)/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --group dev \
		--extra pipeline pyproject.toml --output-file requirements.txt

# Inputs of `make bench` that the project lacks: torchvision's folder of CIFAR-10 and Fashion-MNIST, a denoiser for each
# (diffusers directories), two ResNets for CIFAR-10 (.safetensors), the public poisoning benchmark's setups (JSON).
CIFAR = --root $(PUBLISHED) --denoiser $(CIFAR_DENOISER) --extractor $(EXTRACTOR)
missing = $(strip $(foreach name,$(1),$(if $($(name)),,$(name)=)))
claim = $(if $(call missing,$(1)),@echo "left out: benchmarks.$(if $(filter --data --set,$(word 2,$(2))),$(wordlist 1,3,$(2)),$(firstword $(2))): give $(call missing,$(1))",python -m benchmarks.$(strip $(2)))
OPENVINO = $(wildcard $(VENV)/lib/python*/site-packages/openvino)

bench: setup ## measure the README's claims again (hours); lists what it leaves out, for example without PUBLISHED=DIR
	dvc repro denoiser
	python -m benchmarks.certify
	python -m benchmarks.partition_certify
	python -m benchmarks.frontiers --data digits --sigma .25 .5 1 2 --k 1 2 5 10 20
	python -m benchmarks.chooser
	python -m benchmarks.ensemble
	python -m benchmarks.adaptive --histories 20
	python -m benchmarks.faults
	python -m benchmarks.sanitizer
	python -m benchmarks.modes
	python -m benchmarks.scale
	python -m benchmarks.noise
	python -m benchmarks.waits
	$(call claim,CIFAR_DENOISER,memory --denoiser $(CIFAR_DENOISER))
	$(if $(OPENVINO),$(call claim,PUBLISHED CIFAR_DENOISER,int8 --root $(PUBLISHED) --denoiser $(CIFAR_DENOISER)),@echo "left out: benchmarks.int8: install the extra cpu")
	$(call claim,PUBLISHED CIFAR_DENOISER,image_sets --set cifar10 --root $(PUBLISHED) --denoiser $(CIFAR_DENOISER))
	$(call claim,PUBLISHED CIFAR_DENOISER,denoiser --root $(PUBLISHED) --denoiser $(CIFAR_DENOISER))
	$(call claim,PUBLISHED CIFAR_DENOISER,conv --root $(PUBLISHED) --denoiser $(CIFAR_DENOISER))
	$(call claim,PUBLISHED,fashion --root $(PUBLISHED))
	$(call claim,PUBLISHED,frontiers --data fashion-mnist --root $(PUBLISHED) --sigma .5 1 2 4)
	$(call claim,PUBLISHED EXTRACTOR,frontiers --data cifar10 --root $(PUBLISHED) --extractor $(EXTRACTOR) --sigma .5 .75 1 1.5)
	$(call claim,PUBLISHED,influence --set fashion-mnist --root $(PUBLISHED) --m 6 6 6 6 6 100 --votes-sigma 2)
	$(call claim,PUBLISHED,influence --set fashion-mnist --root $(PUBLISHED) --unseen known --m 6 --sigma 0 .5 2 --votes-sigma 2 --votes-m 6)
	$(call claim,PUBLISHED,influence --set fashion-mnist --root $(PUBLISHED) --unseen raw --m 6 6 6 6 6 50 --votes-sigma 2 --votes-m 50)
	$(call claim,PUBLISHED CIFAR_DENOISER EXTRACTOR,influence --set cifar10 $(CIFAR) --m 20 20 20 20 20 100 --votes-sigma 2)
	$(call claim,PUBLISHED,influence --set cifar10 --root $(PUBLISHED) --unseen raw --sigma 0 .25 .5 1 2 --m 20 20 20 20 50 --votes-sigma 2 --votes-m 50)
	$(call claim,PUBLISHED CIFAR_DENOISER EXTRACTOR,transfer $(CIFAR))
	$(call claim,EXTRACTOR,crafting --extractor $(EXTRACTOR))
	$(call claim,PUBLISHED CIFAR_DENOISER EXTRACTOR DEEPER SETUPS FASHION_DENOISER,redteam $(CIFAR) --deeper $(DEEPER) --setups $(SETUPS) --fashion-denoiser $(FASHION_DENOISER))
	$(call claim,PUBLISHED CIFAR_DENOISER EXTRACTOR DEEPER SETUPS,frozen $(CIFAR) --deeper $(DEEPER) --setups $(SETUPS))
	$(call claim,PUBLISHED CIFAR_DENOISER EXTRACTOR SETUPS,compare $(CIFAR) --setups $(SETUPS))
	$(call claim,PUBLISHED CIFAR_DENOISER EXTRACTOR SETUPS,covered $(CIFAR) --setups $(SETUPS))
	$(call claim,PUBLISHED CIFAR_DENOISER EXTRACTOR SETUPS,covered $(CIFAR) --setups $(SETUPS) --noise-only)
	$(call claim,PUBLISHED CIFAR_DENOISER EXTRACTOR SETUPS,surviving --denoiser $(CIFAR_DENOISER) --drill data/redteam/witches-brew-scratch-* data/redteam/bullseye-transfer-* --draws 1)
	python -m benchmarks.paper page
	python -m benchmarks.tables
	@echo "left out: image_sets on Fashion-MNIST, which needs another params.yaml;" \
		"cifar_models, which needs a GPU"

clean: ## remove what this machine made: stores, caches, stage outputs (without asking; keeps the ledger of attempts)
	if [ -d .state ]; then find .state -mindepth 1 -maxdepth 1 ! -name attempts -exec rm -rf {} +; fi
	rm -rf .venv .cache .mlflow .prefect .dvc/tmp .dvc/cache .pytest_cache .mypy_cache .ruff_cache docs/_build
	rm -rf data/*.npz data/*.json data/*.csv data/*.safetensors data/denoiser data/ensemble
	@if [ -d .state/attempts ]; then echo "kept .state/attempts: which ensembles were planned on which raw set"; fi
