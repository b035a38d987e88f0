# Every target makes its own environment first; nothing else needs to be typed.
VENV  ?= .venv
PY     = $(VENV)/bin/python
JOBS  ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
TESTS ?= tests
CASES ?= 1
MARKS ?= not long and not slow

.PHONY: demo test test-all test-peers check format bench lock clean

demo: $(VENV)/.ready        ## a weight's whole life on MNIST, beside the published figures
	$(PY) -m experiments.compression.deep_compression

test: $(VENV)/.ready        ## a case of every test, with a pairwise cover of the big product
	$(PY) -m pytest $(TESTS) -n $(JOBS) --dist worksteal -m "$(MARKS)" --cases $(CASES) --durations 150 --durations-min 2

test-all: $(VENV)/.ready    ## the full product and the long ones, in resumable shards
	$(PY) -m tests.all

test-peers: .venv-peers/.ready  ## our files in the ecosystem's own readers, theirs in ours
	WLAB_PEERS=1 .venv-peers/bin/python -m pytest tests/peers

check: $(VENV)/.ready       ## format, lint, types, layering, sizes
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(PY)
	$(PY) -m pytest tests/test_layout.py

format: $(VENV)/.ready
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(VENV)/.ready       ## ratios against the plain baseline and against the peer
	$(PY) -m experiments.bench.run

lock: $(VENV)/.ready        ## writes down this environment's versions
	.ci/lock $(PY)

clean:
	rm -rf .venv .venv-other .venv-peers runs

$(VENV)/.ready: pyproject.toml
	.ci/install $(VENV) $(PYTHON)

# Python 3.11, for which torch has a CPU build everywhere.
.venv-peers/.ready: pyproject.toml
	.ci/install .venv-peers "$$(.ci/newest-python 3.11)" dev,peers
