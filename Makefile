# make demo   from an empty machine to a model's answer
# make test   the tests, in the same environment
# make check  format, lint, types, architecture
.PHONY: demo test full check format model bench-env clean
SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
# The first Python that is new enough; another one with: make PYTHON=/path/to/python demo
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(SUITABLE)' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PARALLEL ?= -n auto --maxprocesses 4 --dist worksteal
QUESTION ?= What is the capital of Peru?

demo: $(VENV)/.demo
	$(BIN)/puna run "$(QUESTION)"

# Two or more tests at a time; one alone is `.venv/bin/python -m pytest tests/test_plan.py`.
test: $(VENV)/.test model
	$(BIN)/python -m pytest $(PARALLEL)

full: $(VENV)/.test model
	$(BIN)/python -m pytest $(PARALLEL) -m "not soak"

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The tests with the real model and real tokenizers skip where these cannot be had; the others need no network.
model: $(VENV)/.demo
	@$(BIN)/python -m tests.real_files || echo "make: going on without these files; the tests that need them will be skipped"

$(BIN)/python:
	@$(or $(PYTHON),false) -c '$(SUITABLE)' || { echo "puna needs Python 3.11 or newer$(if $(PYTHON),; $(PYTHON) is not). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment. On Debian or Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing puna into $(VENV) ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "installing the test tools ..."
	@$(PIP) -e '.[test]'
	@touch $@

# A second environment, with llama.cpp built for this CPU (about 10 minutes): see benchmarks/README.md
bench-env: $(BIN)/python
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'

clean:
	rm -rf $(VENV) .venv-bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
