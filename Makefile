# `make demo` plays the main job, `make test` passes the tests; both set everything up first. `make help` lists the rest.
VENV ?= .venv
BIN := $(VENV)/bin
ONLY ?=
CORE := attest channel capsule broker ledger
PYTEST := $(BIN)/pytest -n 2 --dist loadfile
export VENV
NPM := PATH="$(abspath $(BIN)):$$PATH" MITAI_PYTHON="$(abspath $(BIN))/python" npm --prefix web

.PHONY: help demo demo-train test web web-test web-check e2e verdicts coverage slow check lint types imports docs bench fuzz clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

$(VENV)/.run: pyproject.toml constraints.txt scripts/setup
	@scripts/setup serve,openai && touch $@

$(VENV)/.train: pyproject.toml constraints.txt scripts/setup
	@scripts/setup train,openai && touch $@ $(VENV)/.run

$(VENV)/.dev: pyproject.toml constraints.txt scripts/setup $(wildcard native/*.t* native/*/*.[chp]*)
	@scripts/setup train,postgres,bench,dev && touch $@ $(VENV)/.run $(VENV)/.train

web/node_modules/.ready: web/package-lock.json scripts/setup-web | $(VENV)/.dev
	@scripts/setup-web && touch $@

demo: $(VENV)/.run ## the whole story in simulation: seal, deploy, verify, chat, prove, and attacks refused
	@$(BIN)/mitai demo

demo-train: $(VENV)/.train ## three owners, one model: train, serve, export with everybody's consent, prove, revoke
	@$(BIN)/mitai demo-train

test: $(VENV)/.dev web-test ## the default tests (under 15 minutes), two files at a time
	$(PYTEST)

web: web/node_modules/.ready ## build the page for browsers into src/mitai/web/page
	@$(NPM) run --silent build

web-test: web/node_modules/.ready ## the tests of web/ (npm test)
	@$(NPM) test --silent

web-check: web/node_modules/.ready ## the page that is kept is what its sources build, byte for byte
	@$(NPM) run --silent check

verdicts: web/node_modules/.ready ## the verifiers in Python and TypeScript give the same verdict on every entry of a table
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python scripts/verdicts.py --check

e2e: web/node_modules/.ready ## the page in a real browser, against a platform in simulation
	@scripts/setup-browser && $(NPM) run --silent e2e

coverage: $(VENV)/.dev ## branches of the security core that its own tests take: above 95 %
	MITAI_CHANNEL=python $(PYTEST) -q $(addprefix tests/unit/,$(CORE)) tests/property tests/vectors tests/interop \
	    $(addprefix --cov=mitai.,$(CORE)) --cov-branch --cov-fail-under 95 --cov-report term:skip-covered

slow: $(VENV)/.dev ## the long tests, two files at a time
	$(PYTEST) -m slow --timeout 1800

lint: $(VENV)/.dev ## format and lint, changing nothing
	$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy

imports: $(VENV)/.dev ## the direction of imports
	$(BIN)/lint-imports

docs: $(VENV)/.dev ## generated pages are up to date
	$(BIN)/python scripts/docs.py --check

check: lint types imports docs web-check test ## all quality gates

$(VENV)/.channel: $(wildcard native/channel/*.*) $(wildcard src/mitai/channel/*.py) | $(VENV)/.dev
	@PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -q --force-reinstall --no-deps ./native/channel && touch $@

bench: $(VENV)/.dev $(VENV)/.channel ## benchmarks: JSON lines on stdout; ONLY=channel for one group
	@$(BIN)/python -m benchmarks $(ONLY)

fuzz: $(VENV)/.dev ## every fuzz target for SECONDS (default 60)
	@$(BIN)/pip install -q -c constraints.txt "atheris>=3" && $(BIN)/python scripts/fuzz.py $(or $(SECONDS),60)

clean: ## forget the environment and all outputs
	rm -rf $(VENV) web/node_modules build native/build native/channel/build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/out
