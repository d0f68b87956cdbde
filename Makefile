# make demo   create the environment, install, run the quickstart recipe, say what happened
# make test   create the environment, install what tests need, run the suite
# make explore  the suite's properties on WINNOW_EXAMPLES (2,000) new cases each, for hours; the suite draws the same few
# make check  lint and types
# make cluster-test  fetch Flink and Prism into CLUSTER (.cluster), run the suite's part that needs them
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

CLUSTER ?= .cluster
comma := ,

.PHONY: demo test explore cluster-test check clean
.DELETE_ON_ERROR:

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv

# uv takes one minute or two where pip takes eight. Where uv cannot be had, or finds no packages (it does not read
# pip's settings), pip does it. Modules are compiled here on all cores, as pip does on one: where
# PYTHONDONTWRITEBYTECODE is set, every process of the tests would compile them again.
define install
$(BIN)/python -m pip install --quiet uv && \
	$(BIN)/uv pip install --quiet --compile-bytecode $(if $(PIP_INDEX_URL),--default-index $(PIP_INDEX_URL)) --python $(BIN)/python --editable $(1) || \
	$(BIN)/python -m pip install --quiet --editable $(1)
endef

.venv/installed: $(BIN)/python pyproject.toml
	@echo "Installing winnow and its dependencies (torch is large; a few minutes the first time)"
	$(call install,.)
	@touch $@

.venv/installed-test: $(BIN)/python pyproject.toml
	$(call install,'.[cloud-test]')
	@touch .venv/installed $@

.venv/installed-lint: $(BIN)/python pyproject.toml
	$(call install,'.[cloud-test$(comma)lint]')
	@touch .venv/installed .venv/installed-test $@

demo: .venv/installed
	rm -rf quickstart/out
	$(BIN)/winnow run quickstart/recipe.yaml --output quickstart/out
	@$(BIN)/python quickstart/found.py quickstart/out

test: .venv/installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile

explore: .venv/installed-test
	$(BIN)/python -m pytest -n auto -m hypothesis --hypothesis-profile=explore tests

# Java 11 or 17, Maven and Go are needed; a missing engine is an error here, not a reason to skip.
cluster-test: .venv/installed-test
	$(BIN)/python -m tests.cluster.fetch $(CLUSTER)
	WINNOW_CLUSTER=$(CLUSTER) $(BIN)/python -m pytest tests/cluster

check: .venv/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv quickstart/out build *.egg-info
