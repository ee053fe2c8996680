# `make demo` and `make test` need Python 3.11 or newer and nothing else: they set up .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-all lint types clean help

help:
	@echo "make demo      set up, then run the whole path on real data (results in encas-demo/)"
	@echo "make test      set up, then run the tests (under a minute)"
	@echo "make test-all  the slow tests too, and those on real networks where the data is there"
	@echo "make lint types   what CI checks"

demo: $(VENV)/demo
	$(BIN)/encas demo

test: $(VENV)/dev
	$(BIN)/pytest -n auto --dist loadfile -m "not slow and not real and not gpu"

test-all: $(VENV)/dev
	$(BIN)/pytest -m "not gpu"

lint: $(VENV)/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(VENV)/dev
	$(BIN)/mypy

# A stamp per set of extras: installing again only when the project's description has changed.
$(VENV)/demo $(VENV)/dev: $(VENV)/%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "encas needs Python 3.11 or newer; name one: make PYTHON=python3.12 $*"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[$*]"
	@touch $@

clean:
	rm -rf $(VENV) build dist encas.egg-info encas-demo
