# make demo: set up and train the demonstration; make test: the tests; make check: all that CI runs
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
# by path, so that `import recur` also works from the folder that a clone named recur lies in
EDITABLE := --config-settings editable_mode=compat

.PHONY: demo test check format lint types docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/recur demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -W -q -b html docs docs/_build/html

# Linux's default torch wheels bring CUDA, several GB; RECUR_CUDA=1 asks for them. The CPU index is used for the torch
# line only, and not where pip already has an index or wheel folder of its own.
$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	index=; if [ -z "$(RECUR_CUDA)" ] && [ "$$(uname -s)" = Linux ] && \
	    ! $(BIN)/python -m pip config list | grep -E 'find-links|index-url' >/dev/null; \
	then index='--index-url https://download.pytorch.org/whl/cpu'; fi; \
	$(PIP) $$index torch
	touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	$(PIP) $(EDITABLE) -e '.[train]'
	touch $@

$(VENV)/installed-dev: $(VENV)/torch pyproject.toml
	$(PIP) $(EDITABLE) -e '.[dev]'
	touch $@ $(VENV)/installed

$(VENV)/installed-docs: $(VENV)/installed-dev
	$(PIP) $(EDITABLE) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build docs/_build
