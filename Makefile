# make demo: set up, and a complete run on synthetic images
# make test: set up, and lint, types and tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# pip compiles what it installs on one core: this does it on all (some files are of newer Pythons)
INSTALL = $(BIN)/pip install -q --no-compile -e
COMPILE = @$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(BIN)/medept demo --out medept-demo

test: $(VENV)/.installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "medept needs Python 3.10 or newer; give one with make PYTHON=python3.x"; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "this Python cannot make virtual environments: apt install python3-venv"; exit 2; }

$(VENV)/.installed: $(BIN)/pip pyproject.toml
	@echo 'Setting up in $(VENV): a few minutes and about 7 GB the first time.'
	$(INSTALL) '.[app,bench,peft,tune]'
	$(COMPILE)
	@touch $@

$(VENV)/.installed-dev: $(BIN)/pip pyproject.toml
	@echo 'Setting up in $(VENV): a few minutes and about 7 GB the first time.'
	$(INSTALL) '.[dev]'
	$(COMPILE)
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) medept-demo
