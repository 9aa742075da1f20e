# `make train` and `make test` are all the set-up there is: each makes .venv, installs what is missing, and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# `make quick` is what one runs after every edit.
.PHONY: train quick test crash-test extras-test torch-test report-test native-check ipu-check fuzz lint format clean

train: $(STAMP)
	$(BIN)/python -m bess_jax train $(ARGS)

quick: $(STAMP)
	$(BIN)/python -m pytest --quick $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)
	$(BIN)/python -m pytest -m optimized $(ARGS)

fuzz: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -W ignore -m fuzz.run $(ARGS)

# Some sixty `kill -9` of runs that go on: about five minutes.
crash-test: $(STAMP)
	timeout 1800 $(BIN)/python -m pytest -n0 -s -m slow tests/run/test_crash.py

# The package as users install it, with each extra alone, in new environments: needs the network, ten minutes.
extras-test: $(STAMP)
	$(BIN)/python tests/extras/check.py $(ARGS)

# Files of PyTorch, and tables of the real PyKEEN; installs both: needs the network.
torch-test: $(STAMP)
	$(BIN)/python -m pip install -qq 'pykeen>=1.11' 'torch>=2.6'
	$(BIN)/python -m pytest -n0 -m torch $(ARGS)

# Pages of reports in Chromium, which has to be there with its driver; installs selenium: needs the network.
report-test: $(STAMP)
	$(BIN)/python -m pip install -qq selenium
	PYTHONPATH=tests $(BIN)/python tests/report/browser.py $(or $(ARGS),build/report)

# The native body's suite, with g++'s sanitizers of addresses and of what is undefined: the first fault ends it.
native-check: $(STAMP)
	CXX="g++ -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined" ASAN_OPTIONS=detect_leaks=0 \
	BESS_JAX_NATIVE_CACHE=build/native-check \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	$(BIN)/python -m pytest -n0 -s tests/kernels/test_bodies.py -k native $(ARGS)

# The core under JAX 0.3.16, of which the IPU's JAX is a fork, on this machine's CPU: docs/ipu.md. Needs Python 3.8 (PY38=...)
# and gcc; the first time, the network. PROGRAMS=PATTERN: those whose names match.
ipu-check:
	bash tests/ipu/setup.sh build/ipu/env
	build/ipu/env/bin/python tests/ipu/run.py --all --only '$(PROGRAMS)'
	JAX_PLATFORMS=cpu PYTHONPATH=. build/ipu/env/bin/python -W ignore tests/ipu/exchange.py
	JAX_PLATFORMS=cpu PYTHONPATH=.:tests build/ipu/env/bin/python -m pytest -q -n auto --dist worksteal -c tests/ipu/older.ini --rootdir=. $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vermin --quiet bess_jax

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bess_jax needs Python >= 3.11; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq --editable '.[dev]'
	touch $@
