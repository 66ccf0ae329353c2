PYTHON ?= python3
VENV := .venv
PYTHONS := 3.11 3.12 3.13 3.14
BIN := $(VENV)/bin
# Half as many again as there are cores: a test waits half of its time for processes. Each worker
# has an embedded database of its own.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) '*' 3 / 2)
AS_ROOT = $(if $(filter 0,$(shell id -u)),,sudo)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
UV_COMPILE := $(VENV)/uv/bin/uv pip compile --quiet --universal --generate-hashes --no-header \
	--python-version 3.11 --prerelease if-necessary-or-explicit --upgrade pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help run demo install test test-pythons test-engines test-mongo check lint test-faults test-deploy test-client test-e2e test-containers bench format lock clean

help:
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# $(call debian,PROGRAMS,PACKAGES): installs the packages, unless all of the programs are there.
define debian
PATH="$$PATH:/usr/sbin"; for program in $(1); do command -v $$program >/dev/null || { \
	echo "Installing from Debian: $(2)" >&2; $(AS_ROOT) apt-get update -qq && \
	$(AS_ROOT) apt-get install -qq -y --no-install-recommends $(2) >&2 || exit 1; break; }; done
endef

##@ To use it

run: $(VENV)/.run  ## Serve on port 3001 with an embedded database in ./data
	@exec $(BIN)/python -m stream_service --embedded

demo: $(VENV)/.run demo/node_modules  ## See it with a film, a login and a gateway, on http://127.0.0.1:8080: needs Node 20
	@$(call debian,nginx ffmpeg,nginx-light ffmpeg)
	@exec $(BIN)/python -m demo

install: $(VENV)/.serve$(if $(TRACING),-tracing)  ## Install what a deployment needs, to serve on MONGO_URL; TRACING=1 adds OpenTelemetry

##@ To change it

test: $(VENV)/.dev  ## Prove it: the tests, on an embedded database or on MONGO_URL
	$(if $(COVERAGE),$(BIN)/coverage erase)
	$(BIN)/$(if $(COVERAGE),coverage run,python) -m pytest --numprocesses $(WORKERS) --dist worksteal
	$(if $(COVERAGE),$(BIN)/coverage combine --quiet)
	$(if $(COVERAGE),$(BIN)/coverage report --fail-under 95)

check: lint  ## Format, lint, types, and the tests with a floor under their coverage
	@$(MAKE) --no-print-directory test COVERAGE=1

lint: $(VENV)/.dev  ## Format, lint and types, checked alone
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(VENV)/.dev  ## Format the code and mend what the linter can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.dev  ## Measure it beside a bare handler and a peer; QUICK=1 takes two minutes
	@$(call debian,wrk redis-server,wrk redis-server)
	@$(BIN)/python -m bench $(if $(QUICK),--quick)
	@$(BIN)/python -m bench.price $(if $(QUICK),--streams 2000 --seconds 1 --rounds 1)

lock: | $(VENV)/bin  ## Look for newer dependencies and lock them in requirements/
	$(BIN)/python -m venv $(VENV)/uv
	$(VENV)/uv/bin/pip install --quiet --disable-pip-version-check uv
	$(UV_COMPILE) --output-file requirements/serve.txt
	$(UV_COMPILE) --extra embedded --constraint requirements/serve.txt \
		--output-file requirements/run.txt
	$(UV_COMPILE) --extra embedded --extra tracing --group dev \
		--constraint requirements/run.txt --output-file requirements/dev.txt
	$(UV_COMPILE) --extra tracing --constraint requirements/dev.txt \
		--output-file requirements/serve-tracing.txt

clean:  ## Remove what make made, except ./data
	rm -rf $(VENV) .demo .pythons $(NODE_MODULES) .coverage* .e2e .hypothesis .mypy_cache \
		.pytest_cache .ruff_cache

##@ What CI runs besides

test-faults: $(VENV)/.dev  ## Break the store, the service and its clients, under load: some six minutes
	$(BIN)/python -m pytest --capture=no --quiet tests/faults

test-deploy: $(VENV)/.dev tests/deploy/node_modules  ## Deploy by pm2, reload under load: needs Node 20
	@$(call debian,git ssh sshd nginx ffmpeg mpv cvlc rsyslogd,git openssh-client openssh-server nginx ffmpeg mpv vlc-bin vlc-plugin-base rsyslog rsyslog-relp)
	$(BIN)/python -m pytest --capture=no --exitfirst tests/deploy

test-client: client/node_modules  ## Prove the player client's rules and types: needs Node 20
	npm test --prefix client --silent

test-e2e: $(VENV)/.dev test-client tests/e2e/node_modules demo/node_modules  ## Prove the pages, the client and real players in Chromium: needs Node 20
	@$(call debian,chromium nginx ffmpeg,chromium nginx-light ffmpeg)
	$(BIN)/python -m pytest tests/e2e

test-containers: $(VENV)/.dev  ## Build the image without an engine and run it; check compose, manifests, alerts: needs root
	@$(call debian,buildah debootstrap promtool,buildah debootstrap prometheus)
	$(BIN)/python -m pytest --capture=no tests/containers

# What pyenv has is found though none of it may be in PATH.
test-pythons:  ## Run the tests on each Python from 3.11 on that this machine has
	@tested=; missing=; for version in $(PYTHONS); do \
		found=; \
		for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
			"$$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' \
				$$version 2>/dev/null && { found=$$python; break; }; \
		done; \
		if test -z "$$found"; then missing="$$missing $$version"; continue; fi; \
		echo "== $$("$$found" --version): $$found"; \
		$(MAKE) --no-print-directory test VENV=.pythons/$$version PYTHON="$$found" || exit 1; \
		tested="$$tested $$version"; \
	done; \
	echo "== passed on Python$${tested:- none}; not on this machine:$${missing:- none}"

test-engines: $(VENV)/.dev  ## Run the tests of the store, races and processes on every database server that is here
	$(BIN)/python -m tests.engines

MONGO_VERSIONS ?= 6 7 8
test-mongo: $(VENV)/.dev  ## Prove it on MongoDB itself, in containers: failovers, shards; needs Docker
	@command -v docker >/dev/null || { echo "make test-mongo needs Docker, and there is no program docker." \
		"Nothing was run; to test a MongoDB that is there: MONGO_URL=... make test-engines" >&2; exit 1; }
	@said=$$(docker info 2>&1) || { echo "$$said" | tail -n 1 >&2; echo "make test-mongo needs Docker's engine," \
		"running, and this user allowed to use it. Nothing was run; to test a MongoDB that is there:" \
		"MONGO_URL=... make test-engines" >&2; exit 1; }
	MONGO_VERSIONS="$(MONGO_VERSIONS)" $(BIN)/python -m pytest --capture=no --quiet tests/mongo

NODE_MODULES := client/node_modules demo/node_modules tests/deploy/node_modules tests/e2e/node_modules
$(NODE_MODULES): %/node_modules: %/package-lock.json
	@command -v npm >/dev/null || { echo "$* needs Node 20 or newer, with npm" >&2; exit 1; }
	npm ci --prefix $* --no-audit --no-fund
	@touch $@

$(VENV)/bin:
	@command -v $(PYTHON) >/dev/null || { echo \
		"There is no program $(PYTHON): PYTHON=... names a Python of 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
		"stream-service needs Python 3.11 or newer, and $$($(PYTHON) --version 2>&1) is not:" \
		"PYTHON=... names another" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# One environment for all: what is installed later adds to what is there.
$(VENV)/.serve-tracing: | $(VENV)/.serve
$(VENV)/.serve $(VENV)/.serve-tracing $(VENV)/.run $(VENV)/.dev: $(VENV)/.%: requirements/%.txt \
		| $(VENV)/bin
	@echo "Installing $< into $(VENV), once; takes a minute" >&2
	@$(PIP_INSTALL) --requirement $<
	@touch $@
