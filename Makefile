# `make run` and `make test` are all that a newcomer needs; `make help` lists the rest.
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Which Python (the newest supported one found) and which build of torch (TORCH=cpu is the small one): scripts/make-environment.sh.
export PYTHON TORCH

.PHONY: help run test test-all unit cluster-test lint compile validate clean
help:            ## this list
	@sed -nE 's/^([a-z-]+):.*## */\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# Installed again only when pyproject.toml changes.
$(READY): pyproject.toml
	@scripts/make-environment.sh $(VENV)
	@touch $@

RUN_ARGS := $(if $(DATA),--data '$(DATA)') $(if $(DATASET),--dataset '$(DATASET)') $(if $(BAD_ROWS),--bad-rows $(BAD_ROWS)) \
            $(if $(USERS),--users $(USERS)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(SEED),--seed $(SEED)) \
            $(if $(EXPLORE),--explore $(EXPLORE))

run: $(READY)    ## the whole loop; DATA=file DATASET=name for a real log, USERS= EPOCHS= SEED= BAD_ROWS= EXPLORE=0 to change it
	@$(BIN)/mtorl run $(RUN_ARGS)

# One process more than there are cores, since many tests wait for servers; each with whole files of tests, so that what a file's tests
# share is made once.
PYTEST = $(BIN)/pytest -n $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --maxprocesses 5 --dist loadfile --no-loadscope-reorder

test: $(READY)   ## the tests of every change, without what takes minutes or an engine
	$(PYTEST)

test-all: $(READY) ## all tests that need no cluster, and every example of a property
	$(PYTEST) --all

unit: $(READY)   ## the fast tests only
	$(PYTEST) -m "not integration"

# What it needs that is not there is skipped and said: KUBECONFIG names the cluster, with KServe 0.20 and the CRDs of the other
# operators; `node` and `kfp` in TESTS need what tests/README.md says.
# Each test has namespaces of its own: AT_ONCE=3 runs three files of them at the same time, where no node has to run what they start.
TESTS := cluster and not node and not kfp
AT_ONCE := 0
cluster-test: $(READY) ## tests on the cluster of KUBECONFIG, in namespaces of their own; TESTS=cluster for all of them
	@rm -f .pytest_cache/cluster.xml
	$(BIN)/pytest -n $(AT_ONCE) --dist loadfile -m '$(TESTS)' --junitxml .pytest_cache/cluster.xml tests/cluster; \
	  passed=$$?; $(BIN)/python scripts/write_conformance.py .pytest_cache/cluster.xml && exit $$passed

lint: $(READY)   ## ruff, mypy, and habits of prose
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/lint_prose.py

compile: $(READY) ## the pipelines' YAML under manifests/pipelines
	$(BIN)/mtorl pipeline compile

validate: $(READY) ## render and check the manifests
	scripts/validate-manifests.sh

clean:           ## remove the environment and all runs
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
