# Each target makes its environment itself, so that on a bare machine with Python 3.11 or newer one command is enough.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
COURSE := --constraint constraints.txt --editable ".[book,test]"

.PHONY: help book test lab clean publish-url

help:
	@echo "make book         build the book with every chapter executed: _build/html/index.html"
	@echo "make test         run all tests"
	@echo "make lab          open the chapters in JupyterLab"
	@echo "make clean        remove what was built (the environment stays)"
	@echo "make publish-url URL=https://github.com/OWNER/REPOSITORY    write the course's address into the chapters"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@# uv unpacks with all cores, several times as fast as pip. Where only pip is told of a registry, pip does it.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv \
	&& $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode $(COURSE) \
	|| $(BIN)/python -m pip install --quiet $(COURSE)
	touch $@

book: $(STAMP)
	$(BIN)/python tools/build_book.py

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

lab: $(STAMP)
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

publish-url: $(STAMP)
	$(if $(filter undefined,$(origin URL)),$(error say which: make publish-url URL=https://github.com/OWNER/REPOSITORY))
	$(BIN)/python tools/publish_url.py "$(URL)"

clean:
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
