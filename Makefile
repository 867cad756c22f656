# make demo    runs the main job on small traces that it makes itself
# make test    passes the tests
# Both do all the set-up they need, in .venv and build/. PYTHON=python3.12 chooses the Python.
# make test-bugs [BUGS="NAME ..."]   plants bugs in a copy of the source; the tests must notice each
# tests/gpu/run.sh OUT_DIR           on a machine with a GPU: all checks and benchmarks that need it
# scripts/stress.sh [SECONDS]        use of servers that are injured meanwhile, under sanitizers
# scripts/fuzz.sh [SECONDS]          any answer of a server, any envelope; needs Clang
# make bench BENCH=hash|table|cache|evict|copy|disk|store [JSON=file]   runs one benchmark beside its peers

PYTHON ?= python3
VENV := .venv
KVCORE := $(VENV)/bin/kvcore
SOURCES := $(shell find csrc third_party cmake -type f) CMakeLists.txt pyproject.toml scripts/setup.sh

.DELETE_ON_ERROR:
.PHONY: demo test lint test-cpp test-sanitizers test-bugs bench clean

demo: $(VENV)/.ready
	scripts/demo.sh $(KVCORE)

test: $(VENV)/.ready-test test-cpp
	$(VENV)/bin/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.ready-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test-cpp: $(VENV)/.ready-test
	scripts/test_cpp.sh debug

test-sanitizers: $(VENV)/.ready-test
	scripts/test_cpp.sh asan-ubsan
	scripts/test_cpp.sh tsan
	scripts/stress.sh 10

test-bugs: $(VENV)/.ready-test
	$(VENV)/bin/python tests/bugs/run.py $(BUGS)

bench: $(VENV)/.ready
	scripts/bench.sh "$(BENCH)" $(JSON)

$(VENV)/.ready: $(SOURCES)
	PYTHON="$(PYTHON)" scripts/setup.sh $(VENV)
	touch $@

$(VENV)/.ready-test: $(SOURCES)
	PYTHON="$(PYTHON)" scripts/setup.sh $(VENV) test
	touch $@ $(VENV)/.ready

clean:
	rm -rf $(VENV) build dist
