# Everything happens in .venv, from the exact versions of constraints.txt.
VENV := .venv
PYTHON ?= python3
STAMP := $(VENV)/.installed

.PHONY: setup demo test check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: setup
	$(VENV)/bin/fairweather demo -o demo

test: setup
	$(VENV)/bin/python -m pytest

check: setup
	scripts/check

clean:
	rm -rf $(VENV) demo
