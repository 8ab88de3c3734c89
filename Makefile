# Everything from a fresh checkout, with Python 3.11 or newer and make. `make demo`, `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt $(addprefix --find-links ,$(PIP_FIND_LINKS))
BROWSER := $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))

.PHONY: demo test lint bench wheel clean

demo: $(VENV)/installed
	$(BIN)/stealguard demo

test: $(VENV)/tests lint  ## the whole suite, with coverage; browser tests need Chromium
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-fail-under=90

lint: $(VENV)/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/tests
	$(BIN)/python -m benchmarks

wheel: $(VENV)/installed  ## build it, install it where nothing else is, and run a short demo there
	sh tests/wheel.sh

clean:
	rm -rf $(VENV) dist

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q uv

# Without npm on the machine, the package that brings it: the data's fetcher asks for one of the two.
$(VENV)/installed: $(BIN)/uv pyproject.toml constraints.txt
	$(INSTALL) --compile-bytecode -e '.$(if $(shell command -v npm),,[npm])'
	@touch $@

$(VENV)/tests: $(VENV)/installed
	$(INSTALL) --compile-bytecode -e '.[test]'
	@touch $@ $<
	$(if $(BROWSER),,@echo 'No Chromium found: the tests that open the report in a browser will be skipped.')
