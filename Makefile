# make demo   from an empty machine to a model's answer
# make test   the tests, in the same environment
# make check  format, lint, types, architecture
.PHONY: demo test check format full clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUESTION ?= What is the capital of France?

demo: $(VENV)/.demo
	$(BIN)/puna run "$(QUESTION)"

test: $(VENV)/.test
	$(BIN)/python -m pytest

full: $(VENV)/.test
	$(BIN)/python -m pytest -m "not soak"

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("puna needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
