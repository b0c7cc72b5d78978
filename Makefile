# `make demo` is all a newcomer needs: it sets up .venv by itself. `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-core lint types fix docs notebooks bench lock clean

PY := .venv/bin/python
JOBS ?= 2
ARGS ?=
export UV_SYSTEM_CERTS ?= 1
# Compiled modules are kept: every test process imports them anew.
unexport PYTHONDONTWRITEBYTECODE
BENCHMARKS ?= $(filter-out __init__ common tables text_retrieval next_item movielens supervised_start trec_run diverse_lists,$(basename $(notdir $(sort $(wildcard benchmarks/scripts/*.py)))))

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo '  Variables: PYTHON=/path/to/python3  RANKPG_NO_UV=1  JOBS=2 (test processes)  ARGS="..." (passed on)'

setup: ## .venv with the locked versions; redone only when they change
	@sh tools/setup.sh

demo: setup ## train a small retriever and show what it learnt
	@$(PY) -m rankpg demo $(ARGS)

test: lint types ## lint, types, core tests and doctests
	$(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-core: setup ## tests of the core mathematics alone: half a minute
	$(PY) -m pytest -n $(JOBS) --dist worksteal tests/core $(ARGS)

lint: setup ## ruff, the layers of the package, the words of code and documentation
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/lint-imports --no-cache
	$(PY) tools/check_language.py

types: setup ## pyright
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 PYRIGHT_PYTHON_FORCE_VERSION= $(PY) -m pyright

fix: setup ## fix and format with ruff
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: setup ## the documentation site, in docs/_build/html; a warning is an error
	$(PY) -m sphinx -b html -q -W --keep-going docs docs/_build/html

notebooks: setup ## notebooks/*.ipynb from their sources, executed (ARGS="rag" for one of them)
	@$(PY) tools/notebooks.py $(ARGS)

bench: setup ## every script of benchmarks/scripts that needs no other data
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(PY) -m benchmarks.scripts.$$script $(ARGS); done

lock: setup ## requirements.lock with the newest versions
	"$$(RANKPG_NO_UV= sh tools/setup.sh --uv)" pip compile pyproject.toml --extra test --extra docs --upgrade --quiet \
	    --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
	    --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
	    --no-emit-package rankpg --output-file requirements.lock

clean: ## remove what make has made: environments, caches, build outputs; runs/ stays
	rm -rf .venv .venv-lowest .pytest_cache .ruff_cache .hypothesis build dist docs/_build *.egg-info
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
