# make demo: finds people with the released weights, then trains, scores and draws networks of its own at demo scale.
# make test: style, layers, types and tests. make coverage: the tests, and which lines they reach. make poster-test:
# the tests of loco_jax.reproduce with every row of the poster's tables, which takes some 30 minutes of CPU time.
# make clean removes the demo's results, make distclean the environment too.
# All of them make their own environment in .venv first, with the versions in requirements.txt. PYTHON=python3.12 names
# the interpreter.

PYTHON ?= python3
BIN := .venv/bin
DEMO ?= runs/demo
DEMO_VHA := --config=configs/vha2.py:variant=patch,scale=demo
# Enough steps to see the Code Predictor learn, but not for good poses: people keep the joints of the code.
DEMO_LOCO := --config=configs/loco2.py:variant=patch,trunk=compact,scale=demo --workdir=$(DEMO)/loco2 \
	--config.vha=$(DEMO)/vha2 --config.refiner= --config.steps=250 --config.eval_every=0 --config.test_frames=32
# On a machine with an NVIDIA driver, JAX comes with CUDA.
EXTRAS := $(shell nvidia-smi >/dev/null 2>&1 && echo "[cuda12]")
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt --editable

.PHONY: demo test poster-test coverage clean distclean

.venv/installed: pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "loco_jax needs Python 3.11 or later: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(INSTALL) '.$(EXTRAS)'
	@touch $@

# What tests need in addition, PyTorch among it; the demo does not.
.venv/tests: .venv/installed
	$(INSTALL) '.[test]'
	@touch $@

# The times are rough, for two idle cores. A folder of an older version should be removed first: make clean.
demo: .venv/installed
	@echo "1/8  Finds people in docs/pictures with the released weights: half a minute"
	$(BIN)/python -m loco_jax.predict docs/pictures --output=$(DEMO)/released
	@echo "2/8  Trains an autoencoder of heatmaps (VHA) on synthetic scenes: about 5 minutes"
	$(BIN)/python -m loco_jax.main $(DEMO_VHA) --workdir=$(DEMO)/vha2
	@echo "3/8  Scores the autoencoder on the test split, and draws frames: about 1 minute"
	$(BIN)/python -m loco_jax.main $(DEMO_VHA) --workdir=$(DEMO)/vha2 --mode=eval
	@echo "4/8  Trains a Code Predictor on pictures, with this autoencoder: about 6 minutes"
	$(BIN)/python -m loco_jax.main $(DEMO_LOCO)
	@echo "5/8  Scores the Code Predictor on the test split, and draws frames: about 1 minute"
	$(BIN)/python -m loco_jax.main $(DEMO_LOCO) --mode=eval
	@echo "6/8  Finds people in docs/pictures with this Code Predictor, which has hardly learned: half a minute"
	$(BIN)/python -m loco_jax.predict docs/pictures --weights=$(DEMO)/loco2 --output=$(DEMO)/own
	@echo "7/8  Writes and prepares a miniature of JTA, and trains the autoencoder on it for 40 more steps: about 1 minute"
	$(BIN)/python -m loco_jax.data.miniature --output=$(DEMO)/jta --train=4 --validation=1 --test=1 --overwrite
	$(BIN)/python -m loco_jax.data.jta --jta_dir=$(DEMO)/jta --data_dir=$(DEMO)/data --overwrite
	$(BIN)/python -m loco_jax.main $(DEMO_VHA) --workdir=$(DEMO)/vha2_on_jta --config.init=$(DEMO)/vha2 \
		--config.data.source=jta --config.data.dir=$(DEMO)/data --config.steps=40 --config.eval_every=0
	@echo "8/8  Compares the runs: a few seconds"
	$(BIN)/python -m loco_jax.report $(DEMO)/vha2 $(DEMO)/loco2 --output=$(DEMO)/report.html
	@echo "People found with the released weights: $(DEMO)/released; after this short training: $(DEMO)/own"
	@echo "Scores: $(DEMO)/vha2/eval/table.md, $(DEMO)/loco2/eval/table.md; both runs: $(DEMO)/report.html"

test: .venv/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest

# ALL_ROWS: see tests/reproduce/test_reproduce.py.
poster-test: .venv/tests
	ALL_ROWS=1 $(BIN)/python -m pytest -n 0 tests/reproduce tests/tasks/test_cells.py

coverage: .venv/tests
	$(BIN)/python -m pytest --cov=loco_jax --cov-report=term-missing:skip-covered

clean:
	rm -rf $(DEMO)

# The environment too.
distclean: clean
	rm -rf .venv
