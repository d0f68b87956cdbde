# make demo   create the environment, install, run the quickstart recipe, say what happened
# make test   create the environment, install what tests need, run the suite
# make check  lint and types
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: demo test check clean
.DELETE_ON_ERROR:

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: $(BIN)/python pyproject.toml
	@echo "Installing winnow and its dependencies (torch is large; a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

.venv/installed-lint: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@

demo: .venv/installed
	rm -rf quickstart/out
	$(BIN)/winnow run quickstart/recipe.yaml --output quickstart/out
	@$(BIN)/python quickstart/found.py quickstart/out

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv quickstart/out build *.egg-info
