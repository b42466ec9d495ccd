# The targets do all of their own set-up on a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TEST_FLAGS ?=
DEMO_DIR ?= runs/demo

.PHONY: demo test test-slow finetune-model faults pages lint types clean

demo: $(INSTALLED)  ## train a small LLaMA, analyse its gradients, write the report
	$(BIN)/subspace-lab demo $(DEMO_DIR)

test: $(INSTALLED) lint types  ## lint, types and all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(TEST_FLAGS)

finetune-model: $(INSTALLED)  ## SmolLM2-135M-Instruct into the user's cache, 93 MB fetched once and converted to 540 MB
	$(BIN)/python -m subspace_lab.training.smollm2

test-slow: $(INSTALLED)  ## the tests that take long: several processes, killed trainings, the fine-tuning of a real model
	-$(BIN)/python -m subspace_lab.training.smollm2  # without it its tests are skipped, and fail where CI=true
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m slow $(TEST_FLAGS)

faults: $(INSTALLED)  ## mutants of everything on disk, signals, full disks: results/benchmarks/faults.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.faults

pages: $(INSTALLED)  ## the generated parts of the pages, from committed results; trains nothing
	$(BIN)/python -m benchmarks.pages
	$(BIN)/python -m subspace_lab.studies.grass_paper.analyzed_runs
	$(BIN)/python -m subspace_lab.studies.plans.study
	$(BIN)/subspace-lab figures results/grass_paper --profile cpu --page docs/evidence.md --pictures figures --draw-only
	$(BIN)/subspace-lab safety report results/safety --page docs/safety.md --pictures figures/safety
	$(BIN)/subspace-lab safety report results/safety_smollm --page docs/safety_smollm.md --pictures figures/safety_smollm

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

$(INSTALLED): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps galore-torch apollo-torch  # bitsandbytes needs CUDA
	touch $@

clean:
	rm -rf $(VENV)
