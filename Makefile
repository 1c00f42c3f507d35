# The house's few commands. `make demo` and `make test` work on a fresh machine: they install what they need.
.DEFAULT_GOAL := help
.PHONY: help install demo test cluster check bench lock docs clean services

PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

# Trust what the machine trusts, as pip does: a mirror's certificate may be signed by its owner.
export UV_SYSTEM_CERTS ?= 1

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

.uv/bin/uv:
	@$(PY) -m venv .uv && .uv/bin/pip install --quiet 'uv>=0.9'

$(VENV)/.installed: requirements.lock pyproject.toml | $(if $(filter .uv/bin/uv,$(UV)),.uv/bin/uv)
	@echo "installing the locked packages into $(VENV)"
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PY) $(VENV)
	@$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

install: $(VENV)/.installed  ## a virtual environment with the locked packages

demo: install  ## the whole loop on this machine: real models, a rollback and a promotion
	@$(BIN)/understudy demo

test: install cluster services  ## all tests, on real services
	$(BIN)/python -m pytest -n 3 --dist loadgroup

services: install  ## PostgreSQL, Redis and Kafka, whose programs the tests start for themselves
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || $(call debian,postgresql)
	@command -v redis-server >/dev/null || $(call debian,redis-server)
	@command -v cc >/dev/null || $(call debian,gcc libc6-dev)
	@command -v faketime >/dev/null || $(call debian,faketime)
	@command -v java >/dev/null || $(call debian,default-jre-headless)
	@command -v mvn >/dev/null || $(call debian,maven)
	@$(BIN)/python -m tests.stores.kafka

APT := $(SUDO) apt-get -qq --yes --no-install-recommends install
debian = { echo "installing the Debian package $(1)"; \
  $(APT) $(1) >/dev/null || { $(SUDO) apt-get -qq update && $(APT) $(1) >/dev/null; }; }

cluster: install  ## the programs of a Kubernetes control plane, for tests; built once per machine
	@$(BIN)/python -m tests.cluster.build

check: install  ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## speed, as ratios measured side by side, and the quality of decisions
	$(BIN)/python -m tests.bench

LOCKED := --quiet --universal --generate-hashes --no-emit-index-url --no-annotate

lock: $(if $(filter .uv/bin/uv,$(UV)),.uv/bin/uv)  ## renew requirements.lock and those of the image
	$(UV) pip compile $(LOCKED) --all-extras --group dev pyproject.toml -o requirements.lock
	$(UV) pip compile $(LOCKED) --python-version 3.11 --extra cluster -c requirements.lock pyproject.toml -o docker/serve.lock
	echo 'hatchling>=1.27' | $(UV) pip compile $(LOCKED) --python-version 3.11 - -o docker/build.lock

docs: install  ## regenerate the pages that are made from code
	$(BIN)/python -m docs.generate

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
