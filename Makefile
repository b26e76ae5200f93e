# `make run` and `make test` are all that a newcomer needs; `make help` lists the rest.
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# PYTHON selects the Python (default: the newest supported one), and TORCH the build of torch (cpu is a small one). See
# scripts/make-environment.sh.
export PYTHON TORCH

.PHONY: help run test test-all unit cluster-test lint compile validate clean
help:            ## this list
	@sed -nE 's/^([a-z-]+):.*## */\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# The environment is installed again only when pyproject.toml changes.
$(READY): pyproject.toml
	@scripts/make-environment.sh $(VENV)
	@touch $@

RUN_ARGS := $(if $(DATA),--data '$(DATA)') $(if $(DATASET),--dataset '$(DATASET)') $(if $(BAD_ROWS),--bad-rows $(BAD_ROWS)) \
            $(if $(USERS),--users $(USERS)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(SEED),--seed $(SEED)) \
            $(if $(EXPLORE),--explore $(EXPLORE))

run: $(READY)    ## the whole loop; DATA=file DATASET=name for a real log, USERS= EPOCHS= SEED= BAD_ROWS= EXPLORE=0 to change it
	@$(BIN)/mtorl run $(RUN_ARGS)

# Run one process more than there are cores, because many tests wait for servers. All tests of a file run in the same process, so that
# their shared fixtures are created only once.
PYTEST = $(BIN)/pytest -n $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --maxprocesses 5 --dist loadfile --no-loadscope-reorder

test: $(READY)   ## the tests of every change, without what takes minutes or an engine
	$(PYTEST)

test-all: $(READY) ## all tests that need no cluster, and every example of a property
	$(PYTEST) --all

unit: $(READY)   ## the fast tests only
	$(PYTEST) -m "not integration"

# KUBECONFIG selects the cluster, which needs KServe 0.20 and the CRDs of the other operators. Tests whose requirements are missing are
# skipped, with a message. tests/README.md lists the requirements of the tests marked `node` and `kfp`.
# Each test has its own namespaces, so AT_ONCE=3 can run three test files at the same time, if the tests start no pods on a node.
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
