# What works on a fresh machine with Python 3.11 or later, venv and make. No root.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
LOCK   := .ci/requirements.txt
LOCK_RUNTIME := .ci/runtime.txt
PEERS  := sandlock ipykernel eryx
COMPILE = $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.DEFAULT_GOAL := check
.PHONY: check demo test lint types fix bench real programs history service soak reference wheel lock locked audit clean

check: lint test                ## what a change must pass

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

locked:                         ## the environment of CI: exact versions, each by its hash, nothing built but ourselves
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $(LOCK)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(VENV)/.installed $(VENV)/.dev

lock: $(VENV)/.tools            ## remake the lock files: newest versions that pyproject.toml allows, for this python
	$(COMPILE) --upgrade --extra dev --output-file $(LOCK) pyproject.toml
	$(COMPILE) --upgrade --constraint $(LOCK) --output-file $(LOCK_RUNTIME) pyproject.toml

audit: $(VENV)/.tools           ## known holes in what is locked; asks a service on the network
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement $(LOCK)

$(VENV)/.tools: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[lock]'
	touch $@

demo: $(VENV)/.installed        ## run the answer in examples/: a block fails (exit code 1) and is undone
	@$(BIN)/rewindbox --store .demo vms rm demo >/dev/null 2>&1 || true
	$(BIN)/rewindbox --store .demo run examples/answer.md --vm demo --on-failure rollback --table || test $$? -eq 1
	@echo; echo "A live session: variables go back with the files (examples/session.py)"
	@$(BIN)/python examples/session.py

test: $(VENV)/.dev              ## every test, as whoever calls it, by several workers side by side
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.bench: $(VENV)/.dev
	for peer in $(PEERS); do \
		$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[bench-$$peer]" \
			|| echo "$$peer cannot be had here"; \
	done
	touch $@

bench: $(VENV)/.bench           ## ratios to a bare interpreter, beside bubblewrap, sandlock, ipykernel and eryx
	$(BIN)/python -m bench $(ARGS)

real: $(VENV)/.dev              ## real answers end to end; REWINDBOX_TEST_DATA says where they are
	$(BIN)/python -m bench.real $(ARGS)

programs: $(VENV)/.dev          ## programs with known outcomes, inside and outside; REWINDBOX_TEST_DATA says where they are
	$(BIN)/python -m bench.programs $(ARGS)

history: $(VENV)/.dev           ## how long a history of a million executions takes to answer; 3 GB in the temporary folder
	$(BIN)/python -m bench.history $(ARGS)

service: $(VENV)/.dev           ## a hundred clients of the service at once, and whether anything was lost
	$(BIN)/python -m bench.service $(ARGS)

soak: $(VENV)/.dev              ## the large counts in full
	REWINDBOX_SOAK=1 REWINDBOX_FULL=1 $(BIN)/python -m pytest -o faulthandler_timeout=7200 $(ARGS)

reference: $(VENV)/.dev         ## the part of docs/http-api.md that is made from OpenAPI
	$(BIN)/python -m rewindbox.server.reference docs/http-api.md

wheel: $(VENV)/.dev             ## build it, install it in an empty environment, run an answer
	bash tests/wheel.sh $(BIN)/python

clean:
	rm -rf $(VENV) .demo dist build
