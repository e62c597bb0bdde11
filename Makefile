# Every target does its own set-up from a bare Python 3.11; nothing outside this folder is changed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
QDR := $(BIN)/qdr-edge
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# The demo's signing key stays inside the repository, apart from the user's own keys.
demo: export QDR_EDGE_HOME := $(CURDIR)/runs/keys

.PHONY: help native demo test test-full check bench format clean
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

$(VENV)/.use: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qdr-edge needs Python 3.11 or newer, found " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[train,export,openvino,bench]'
	touch $@

$(VENV)/.peers: $(VENV)/.use
	$(PIP) --editable '.[peers]'
	touch $@

# The C library, for target `native`; without cmake or a compiler only that target is missing.
LIBQDR := qdr_edge/runtime/lib/libqdr.so
native: $(LIBQDR) ## Build libqdr where Python finds it
$(LIBQDR): $(shell find export/firmware -name '*.[ch]' -o -name CMakeLists.txt)
	if command -v cmake >/dev/null && command -v cc >/dev/null; then \
	  mkdir -p build && cmake -S export/firmware -B build/libqdr -DBUILD_SHARED_LIBS=ON -DBUILD_TESTING=OFF >build/libqdr.log && \
	  cmake --build build/libqdr >>build/libqdr.log && mkdir -p $(@D) && cp -L build/libqdr/libqdr.so $@; \
	else echo "libqdr is not built: install cmake and a C compiler for target native"; fi

$(VENV)/.dev: $(VENV)/.use
	$(PIP) --editable '.[dev]'
	touch $@

demo: $(VENV)/.use native ## Make synthetic eyes, train, export, prove and measure: under 12 minutes
	$(QDR) data synth $(DEMO)/data --patients 300 --seed 1 --size 256
	$(QDR) train demo --data $(DEMO)/data/synthetic.csv --out $(DEMO)/run $$(test ! -f $(DEMO)/run/run.json || echo --resume)
	$(QDR) export $(DEMO)/run $(addprefix --target ,ort-x86 openvino native tensorrt-10 tensorrt-11)
	$(QDR) bench $(DEMO)/run/export/*.qdr --out $(DEMO)/report
	$(QDR) run $(DEMO)/run/export/demo-fundus.qdr $$(find $(DEMO)/data/fundus -name '*.jpg' | sort | tail -n 6)
	@echo "Bundles: $(DEMO)/run/export/*.qdr   Report: $(DEMO)/report/report.html"
	@echo "To use them in this shell: . $(VENV)/bin/activate; export QDR_EDGE_HOME=$$QDR_EDGE_HOME"

test: $(VENV)/.dev native ## The test suite: under 8 minutes on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not full"

test-full: $(VENV)/.dev native ## Everything, also what is too long for every change
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.dev ## Formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.peers native ## Our targets beside what else one could pick: under 8 minutes
	$(BIN)/python benchmarks/peers.py

format: $(VENV)/.dev ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what the other targets made
	rm -rf $(VENV) runs build qdr_edge/runtime/lib .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
