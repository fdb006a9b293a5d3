# Everything here works on a fresh machine with Python 3.11 or newer: no root, no other step.
#
#   make demo                  the whole path on a small corpus, then a page to search it; Ctrl-C ends it
#   make demo ONCE=1           the same, and exits where it would begin to serve
#   make test                  style, types and every test
#   make docs                  the documentation, into site/, without a network
#   make env TORCH_INDEX=URL   choose the build of PyTorch: the address of its CPU or of one of its CUDA wheel indexes
#
# pip reads its usual settings (PIP_INDEX_URL, PIP_FIND_LINKS, a proxy) from the environment.

VENV        ?= .venv
DEMO_DIR    ?= demo
ONCE        ?=
TORCH_INDEX ?=
ARGS        ?=

BIN   := $(VENV)/bin
STAMP := $(VENV)/.stamp
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: help demo test docs lint format env clean distclean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,3\}//p' Makefile | sed -n '3,7p'

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Crystalign needs Python 3.11 or newer with its venv module; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev]'
	@touch $@

env: $(STAMP)

demo: $(STAMP)
	$(BIN)/crystalign demo --folder $(DEMO_DIR) $(if $(ONCE),--once) $(ARGS)

test: lint
	$(BIN)/python -m pytest $(ARGS)

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(DEMO_DIR) site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find platform jobs serve tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
