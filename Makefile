# Everything installs into .venv in this folder; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GENERATED := build/generated
GOOGLEAPIS := build/googleapis
PROTOS := $(shell find protos -name '*.proto' | sort)
SERVICE_CONFIGS := $(wildcard protos/darkroom/gateway/v1/service_config*.json)
IMAGE_BUILDER ?= docker
IMAGE_PREFIX ?= darkroom
IMAGE_TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

export PATH := $(abspath $(BIN)):$(PATH)
# One environment for whoever runs it, without a user's own packages.
export PYTHONNOUSERSITE := 1
# Without bytecode, each process of the tests and of the services compiles everything again.
unexport PYTHONDONTWRITEBYTECODE

# Of `make test-changed` and `make differential`: since which commit. Of the first also: how long to run.
SINCE ?= origin/main
MINUTES ?= 15

.DEFAULT_GOAL := help
.PHONY: help demo up test test-slow test-changed prometheus browser nginx pictures translations lint format protos bench dashboards reference images manifests cluster cluster-secrets cluster-tools chaos fuzz mutants differential migration new-adapter lock baseline clean

help:  ## Show what there is.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(GENERATED)/.made  ## Send one request through each adapter on embedded defaults, save the images, stop.
	@$(BIN)/python -m sandbox demo

up: $(GENERATED)/.made  ## Run the whole stack on this machine until Ctrl-C.
	@$(BIN)/python -m sandbox up

test: $(VENV)/.development $(GENERATED)/.made  ## Run the tests; they start what they need by themselves.
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: $(VENV)/.development $(GENERATED)/.made  ## Run the suites that take longer (tests/suites.toml): all, or make test-slow SUITES="chaos fuzzer"
	@$(BIN)/python -m tests.suites $(SUITES) -s $(ARGS)

test-changed: $(VENV)/.development $(GENERATED)/.made  ## Run those of them that the changes since SINCE can break, as far as MINUTES permit.
	@$(BIN)/python -m tests.suites --since $(SINCE) --minutes $(MINUTES) $(ARGS)

cluster: $(VENV)/.development $(GENERATED)/.made  ## Run the manifests of deploy/k8s as a cluster of processes, and probe, kill and roll them (Linux, as root).
	@DARKROOM_CLUSTER=1 unshare --net --mount --pid --fork --kill-child --mount-proc \
		sh -c 'ip link set lo up && exec $(BIN)/python -m pytest tests/cluster -n 0 -s $(ARGS)'

cluster-tools:  ## Install what `make cluster` needs (Debian, as root).
	@command -v dnsmasq >/dev/null && command -v nft >/dev/null && command -v pgbouncer >/dev/null && command -v ip >/dev/null || \
		{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
		dnsmasq-base nftables pgbouncer iproute2 >/dev/null; }
	@command -v kubectl >/dev/null || \
		{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends kubernetes-client >/dev/null; }

prometheus:  ## Install Prometheus and Alertmanager, which some tests need (Debian, as root); without them they are skipped.
	@command -v promtool >/dev/null && command -v prometheus-alertmanager >/dev/null || \
		{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
		prometheus prometheus-alertmanager >/dev/null; }

browser:  ## Install Chromium with Chinese type, which the console's tests need (Debian, as root); without it they are skipped.
	@command -v chromium >/dev/null && ls /usr/share/fonts/opentype/noto/NotoSansCJK* >/dev/null 2>&1 || \
		{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
		chromium fonts-noto-cjk >/dev/null; }

nginx:  ## Install nginx, which tests of downloads through a proxy need (Debian, as root); without it they are skipped.
	@command -v nginx >/dev/null || \
		{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
		nginx-light >/dev/null; }

pictures: $(VENV)/.development $(GENERATED)/.made  ## Take pictures of all pages of the console into docs/pictures/console.
	@$(BIN)/python -m pytest tests/browser/pictures.py -n 0 -s --durations 0 --timeout 900

translations: $(GENERATED)/.made  ## Look for what the console says, and tell what lacks a translation.
	@$(BIN)/python -m sandbox translations

lint: $(VENV)/.development $(VENV)/checkov/.made $(VENV)/kubernetes/.made $(GENERATED)/.made  ## Check style, types, dependency rules, protos and manifests.
	$(BIN)/ruff check .
	$(BIN)/ruff check --preview --select PLC2701 tests
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf build --output build/protos.binpb
	$(BIN)/buf breaking build/protos.binpb --against protos/baseline.binpb
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/python -m deploy.k8s check

format: $(VENV)/.development $(GENERATED)/.made  ## Bring code and protos into the common style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write protos

protos: $(GENERATED)/.made  ## Generate the Python code of the protos into build/.

bench: $(VENV)/.bench $(VENV)/litellm/.made $(VENV)/sharp/.made $(VENV)/gbstats/.made $(GENERATED)/.made  ## Compare with peers in one run: make bench BENCH=gateway ARGS="--seconds 3"
	@for bench in $(or $(BENCH),poller gateway monitor batches imaging experiments console churn replicas); do $(BIN)/python -m bench.$$bench $(ARGS) || exit 1; done

dashboards: $(VENV)/.development  ## Write Grafana's dashboards from deploy/grafana/boards.py.
	@$(BIN)/python -m deploy.grafana

reference: $(GENERATED)/.made  ## Write the tables of settings, metrics, catalog keys, error codes and simulated faults into docs/.
	@$(BIN)/python -m sandbox reference

images: $(GENERATED)/.made  ## Build an image for each service with Docker, or with what IMAGE_BUILDER names (podman, buildah).
	@for service in gateway dispatcher poller monitor experiments; do \
		$(IMAGE_BUILDER) build --file deploy/Dockerfile --target $$service --tag $(IMAGE_PREFIX)/$$service:$(IMAGE_TAG) \
			--build-arg VERSION=$(IMAGE_TAG) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
			$(IMAGE_ARGS) . || exit 1; done

manifests: $(VENV)/.sandbox  ## Write what deploy/k8s needs a copy of: the catalog, alert rules, Prometheus' rules.
	@$(BIN)/python -m deploy.k8s copies

cluster-secrets: $(VENV)/.sandbox  ## Write random secrets for deploy/k8s/overlays/dev, where there are none.
	@$(BIN)/python -m deploy.k8s secrets

fuzz: $(VENV)/.development $(GENERATED)/.made  ## Send a stack what breaks grammars, and judge each answer: make fuzz ARGS="--seed 7 --cases 20000"
	@GRPC_VERBOSITY=NONE $(BIN)/python -m tests.fuzz $(ARGS)

chaos: $(GENERATED)/.made  ## Break the running stack on purpose, and count what it cost: make chaos ARGS="--seed 7"
	@GRPC_VERBOSITY=ERROR $(BIN)/python -m chaos $(ARGS)

mutants: $(VENV)/.development $(GENERATED)/.made  ## Put small faults into the source and see which tests find them: make mutants ARGS="run claims-1 money --until slow"
	@$(BIN)/python -m tests.mutants $(or $(ARGS),run)

differential: $(VENV)/.development $(GENERATED)/.made  ## Compare what the product does with a commit before: make differential SINCE=HEAD~1 ARGS="errors fairness"
	@GRPC_VERBOSITY=NONE $(BIN)/python -m tests.differential since $(SINCE) $(ARGS)

migration: $(VENV)/.development $(GENERATED)/.made  ## Write a migration for what changed in the schema's tables: make migration NAME=what_changes
	@$(BIN)/python -m sandbox migration "$(NAME)"
	@$(BIN)/ruff format --quiet libs/common/database/migrations
	@$(BIN)/ruff check --quiet --fix libs/common/database/migrations

new-adapter: $(GENERATED)/.made  ## Write the skeleton of an adapter with its tests: make new-adapter NAME=example
	@$(BIN)/python -m sandbox new-adapter "$(NAME)"

lock:  ## Renew the pinned requirements (needs uv).
	uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		pyproject.toml --constraint requirements/sandbox.txt --output-file requirements/services.txt
	uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--extra client --extra sandbox pyproject.toml --output-file requirements/sandbox.txt
	uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--extra client --extra sandbox --extra development pyproject.toml --output-file requirements/development.txt
	uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--extra client --extra sandbox --extra bench pyproject.toml --output-file requirements/bench.txt
	uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		requirements/litellm.in --output-file requirements/litellm.txt
	uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		requirements/gbstats.in --output-file requirements/gbstats.txt
	uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		requirements/checkov.in --output-file requirements/checkov.txt

baseline: $(VENV)/.development $(GENERATED)/.made  ## Take today's protos as what later ones must not break: at a release.
	$(BIN)/buf build --output protos/baseline.binpb

clean:  ## Remove the environment, generated code and all data of the sandbox.
	rm -rf $(VENV) build .darkroom .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit("Darkroom needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.sandbox: requirements/sandbox.txt pyproject.toml | $(VENV)/.made
	@echo "Installing what the sandbox needs into $(VENV) (half a minute with a fast network) …"
	@$(PIP) install --require-hashes --requirement requirements/sandbox.txt
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.development: requirements/development.txt $(VENV)/.sandbox
	@echo "Installing what tests and lint need into $(VENV) …"
	@$(PIP) install --require-hashes --requirement requirements/development.txt
	@touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.sandbox
	@echo "Installing the peers into $(VENV) …"
	@$(PIP) install --require-hashes --requirement requirements/bench.txt
	@touch $@

# Its pins and ours do not go together.
$(VENV)/litellm/.made: requirements/litellm.txt | $(VENV)/.made
	@echo "Installing LiteLLM into $(VENV)/litellm …"
	@$(PYTHON) -m venv $(VENV)/litellm
	@$(VENV)/litellm/bin/python -m pip --quiet --disable-pip-version-check --no-input install --require-hashes \
		--requirement requirements/litellm.txt
	@touch $@

# Its pins are older than ours, and older than Python 3.12: there, what is said of it is left out.
$(VENV)/gbstats/.made: requirements/gbstats.txt | $(VENV)/.made
	@mkdir -p $(VENV)/gbstats
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
		echo "Installing GrowthBook's engine into $(VENV)/gbstats …"; $(PYTHON) -m venv $(VENV)/gbstats && \
		$(VENV)/gbstats/bin/python -m pip --quiet --disable-pip-version-check --no-input install --require-hashes \
		--requirement requirements/gbstats.txt; fi
	@touch $@

# Its pins and ours do not go together.
$(VENV)/checkov/.made: requirements/checkov.txt | $(VENV)/.made
	@echo "Installing checkov into $(VENV)/checkov …"
	@$(PYTHON) -m venv $(VENV)/checkov
	@$(VENV)/checkov/bin/python -m pip --quiet --disable-pip-version-check --no-input install --no-compile --require-hashes \
		--requirement requirements/checkov.txt
	@touch $@

# Where there is no Node.js, custom resources are not held against their schemas.
$(VENV)/kubernetes/.made: requirements/kubernetes/package.json requirements/kubernetes/package-lock.json requirements/kubernetes/check.mjs | $(VENV)/.made
	@mkdir -p $(VENV)/kubernetes
	@cp requirements/kubernetes/* $(VENV)/kubernetes/
	@if command -v npm >/dev/null; then npm --prefix $(VENV)/kubernetes ci --no-audit --no-fund --silent; fi
	@touch $@

# Where there is no Node.js, what is said of sharp is left out.
$(VENV)/sharp/.made: requirements/sharp/package.json requirements/sharp/package-lock.json | $(VENV)/.made
	@mkdir -p $(VENV)/sharp
	@cp requirements/sharp/package.json requirements/sharp/package-lock.json $(VENV)/sharp/
	@if command -v npm >/dev/null; then echo "Installing sharp into $(VENV)/sharp …"; \
		npm --prefix $(VENV)/sharp ci --no-audit --no-fund --silent; else rm $(VENV)/sharp/package.json; fi
	@touch $@

$(GENERATED)/.made: $(PROTOS) $(SERVICE_CONFIGS) $(VENV)/.sandbox
	@rm -rf $(GENERATED) $(GOOGLEAPIS)
	@mkdir -p $(GENERATED)/darkroom $(GOOGLEAPIS)/google/api
	@cd $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/google/api && \
		cp annotations.proto field_behavior.proto http.proto $(abspath $(GOOGLEAPIS))/google/api/
	@$(BIN)/python -m grpc_tools.protoc -I protos -I $(GOOGLEAPIS) --python_out=$(GENERATED) --grpc_python_out=$(GENERATED) \
		--descriptor_set_out=$(GENERATED)/darkroom/contracts.binpb --include_imports --include_source_info \
		--mypy_out=quiet:$(GENERATED) --mypy_grpc_out=quiet,only_async:$(GENERATED) $(PROTOS)
	@find $(GENERATED)/darkroom -type d -exec touch {}/__init__.py \;
	@cp $(SERVICE_CONFIGS) $(GENERATED)/darkroom/gateway/v1/
	@touch $@
