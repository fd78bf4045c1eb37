# make demo     from a fresh clone to a model's answer
# make install  puna as a command in every terminal: a link in ~/.local/bin
# make serve    the small model behind an HTTP API, on this machine only
# make gpu      PyTorch and Triton, for NVIDIA GPUs; the doctor tries the card
# make test     the tests, in the same environment
# make clients  the tests of the server with large clients, such as LangChain
# make browser  the tests of the web page, in headless Chromium
# make check    format, lint, types, architecture
# make help     these lines
.PHONY: help demo serve install uninstall gpu test full clients browser pictures chromium check format model bench-env clean
SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
# The first Python that is new enough; another one with: make PYTHON=/path/to/python demo
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(SUITABLE)' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m scripts.pip_install -c constraints.txt
PIP := $(BIN)/python $(INSTALL)
PARALLEL ?= -n auto --maxprocesses 4 --dist worksteal
QUESTION ?= What is the capital of Peru?

# The first rule: make alone makes the demo.
demo: $(VENV)/.demo
	$(BIN)/puna run "$(QUESTION)"
	@echo
	@echo "puna is installed in this folder. To type its name, in each new terminal:"
	@echo "  source $(BIN)/activate     (or once, for all terminals: make install)"
	@echo "What to type next:"
	@$(BIN)/puna models --next

serve: $(VENV)/.demo
	$(BIN)/puna serve

help:
	@sed -n 's/^# \(make [a-z]* .*\)/\1/p' Makefile

BINDIR ?= $(HOME)/.local/bin
LINK := $(BINDIR)/puna
PUNA := $(CURDIR)/$(BIN)/puna

install: $(VENV)/.demo
	@if [ -e "$(LINK)" ] && [ "$$(readlink "$(LINK)")" != "$(PUNA)" ]; then \
		echo "This file exists and is not this puna:"; echo "  $(LINK)"; \
		echo "Remove it, or choose another folder: make install BINDIR=FOLDER"; exit 1; fi
	@mkdir -p "$(BINDIR)" && ln -sfn "$(PUNA)" "$(LINK)"
	@echo "puna is now a command, by this link (make uninstall removes it):"
	@echo "  $(LINK)"
	@case ":$$PATH:" in *":$(BINDIR):"*) ;; *) \
		echo "Its folder is not in your PATH. Log in again, or type in this terminal:"; \
		echo "  export PATH=\"$(BINDIR):\$$PATH\"";; esac

uninstall:
	@if [ "$$(readlink "$(LINK)")" = "$(PUNA)" ]; then rm "$(LINK)"; echo "removed $(LINK)"; else \
		echo "This file is not this puna, or does not exist:"; echo "  $(LINK)"; fi

# Gigabytes: CUDA's libraries come with PyTorch.
gpu: $(VENV)/.demo
	@echo "installing PyTorch and Triton ..."
	@$(PIP) -e '.[gpu]'
	$(BIN)/puna doctor --device cuda

# Two or more tests at a time; one alone is `.venv/bin/python -m pytest tests/test_plan.py`.
test: $(VENV)/.test model
	$(BIN)/python -m pytest $(PARALLEL)

full: $(VENV)/.test model
	$(BIN)/python -m pytest $(PARALLEL) -m "not soak"

# 2.5 GB of packages in about five minutes, then two minutes. Some of these clients leave sockets to the garbage collector.
CLIENT_TESTS := -m pytest -W ignore::pytest.PytestUnraisableExceptionWarning
clients: .venv-clients/.done .venv-instructor/.done .venv-lm-eval/.done .node-clients/.done
	.venv-clients/bin/python $(CLIENT_TESTS) tests/clients
	.venv-instructor/bin/python $(CLIENT_TESTS) tests/clients/test_instructor.py
	.venv-lm-eval/bin/python $(CLIENT_TESTS) tests/clients/test_lm_eval.py

# Chromium comes from the system. axe-core checks the page for people who use a screen reader or the keyboard; its licence and size
# keep it out of the repository.
AXE := .venv-browser/package/axe.min.js
browser: $(AXE)
	.venv-browser/bin/python -m pytest -m full tests/server/test_page_in_browser.py tests/server/test_page_documents_of_programs.py \
		tests/server/test_page_glassbox_in_browser.py tests/glassbox/report/test_report_in_browser.py

# The pictures in docs/: of the page, and of a trace of the default model
pictures: $(AXE) model
	.venv-browser/bin/python -m scripts.page_pictures
	.venv-browser/bin/python -m scripts.glassbox_pictures
	.venv-browser/bin/python -m scripts.report_pictures

$(AXE): .venv-browser/.done
	@cd .venv-browser && npm pack --silent axe-core@4.14.1 >/dev/null && tar -xmzf axe-core-4.14.1.tgz package/axe.min.js \
		|| echo "make: npm did not fetch axe-core; its tests are skipped"

.venv-browser/.done: | chromium
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
		{ echo "make: there is no chromium. On Debian: sudo apt install chromium"; exit 1; }

.venv-%/.done: tests/clients/%.txt pyproject.toml
	$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python -m scripts.pip_install -c $< -e '.[serve,$*]'
	@touch $@

# The official clients for Node.js: the test skips them where there is no npm.
.node-clients/.done: tests/clients/npm/package.json
	@mkdir -p .node-clients && cp $< .node-clients/
	@if command -v npm >/dev/null; then \
		cd .node-clients && npm install --ignore-scripts --no-package-lock --no-audit --no-fund && touch .done; \
		else echo "make: npm is not here; going on without the clients for Node.js"; fi

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
	@$(BIN)/python -m tests.real_files || echo "make: going on without these files; tests that need them are skipped"

$(BIN)/python:
	@$(or $(PYTHON),false) -c '$(SUITABLE)' || { echo "puna needs Python 3.11 or newer$(if $(PYTHON),; $(PYTHON) is not). Try:"; \
		echo "  make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment. On Debian or Ubuntu:"; echo "  sudo apt install python3-venv"; exit 1; }

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing puna into $(VENV) ..."
	@$(PIP) -e '.[serve]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "installing the test tools ..."
	@$(PIP) -e '.[test]'
	@touch $@

# A second environment, with llama.cpp built for this CPU (about 10 minutes): see benchmarks/README.md
bench-env: $(BIN)/python
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python $(INSTALL) -e '.[bench]'

clean:
	rm -rf $(VENV) .venv-bench .venv-browser .venv-clients .venv-instructor .venv-lm-eval .node-clients build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
