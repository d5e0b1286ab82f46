# make demo: train, score and draw at demo scale, from nothing, in at most 15 minutes on two cores.
# make test: style and tests. make clean removes the demo's results, make distclean the environment too.
# Both make their own environment in .venv first, of the versions in requirements.txt; PYTHON=python3.12 picks the
# interpreter.

PYTHON ?= python3
BIN := .venv/bin
DEMO ?= runs/demo
DEMO_CONFIG := configs/vha2.py:variant=patch,scale=demo
# The Code Predictor on top of the demo's own autoencoder: enough steps to see it learn, not to be good.
# Its readout of poses has hardly begun, so people stay as the code has them.
DEMO_LOCO := --config=configs/loco2.py:variant=patch,trunk=compact,scale=demo --workdir=$(DEMO)/loco2 \
	--config.vha=$(DEMO)/vha2 --config.refiner= --config.steps=250 --config.eval_every=0 --config.test_frames=32
# On a machine with an NVIDIA driver, JAX comes with CUDA.
EXTRAS := $(shell nvidia-smi >/dev/null 2>&1 && echo "[cuda12]")
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt --editable

.PHONY: demo test clean distclean

.venv/installed: pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "loco_jax needs Python 3.11 or later: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(INSTALL) '.$(EXTRAS)'
	@touch $@

# What tests need besides, PyTorch among it; the demo does without.
.venv/tests: .venv/installed
	$(INSTALL) '.[test]'
	@touch $@

# First a miniature of JTA on disk, through the builder and Grain into a few steps of training; then the demo proper.
demo: .venv/installed
	$(BIN)/python -m loco_jax.data.miniature --output=$(DEMO)/jta --train=4 --validation=1 --test=1 --overwrite
	$(BIN)/python -m loco_jax.data.jta --jta_dir=$(DEMO)/jta --data_dir=$(DEMO)/data --overwrite
	$(BIN)/python -m loco_jax.main --config=$(DEMO_CONFIG) --workdir=$(DEMO)/vha2_on_jta \
		--config.data.source=jta --config.data.dir=$(DEMO)/data --config.steps=40 --config.eval_every=0
	$(BIN)/python -m loco_jax.main --config=$(DEMO_CONFIG) --workdir=$(DEMO)/vha2
	$(BIN)/python -m loco_jax.main --config=$(DEMO_CONFIG) --workdir=$(DEMO)/vha2 --mode=eval
	$(BIN)/python -m loco_jax.main $(DEMO_LOCO)
	$(BIN)/python -m loco_jax.main $(DEMO_LOCO) --mode=eval
	$(BIN)/python -m loco_jax.data.miniature --output=$(DEMO)/pictures --train=1 --validation=1 --test=1 \
		--num_frames=10 --frames --overwrite
	$(BIN)/python -m loco_jax.predict $(DEMO)/pictures/frames/test/seq_256 --weights=$(DEMO)/loco2 --output=$(DEMO)/people
	@echo "Tables: $(DEMO)/vha2/eval/table.md, $(DEMO)/loco2/eval/table.md. People found, as pictures and 3D pages: $(DEMO)/people"
	@echo "After so short a training, expect little of them."

test: .venv/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

clean:
	rm -rf $(DEMO)

# The environment too.
distclean: clean
	rm -rf .venv
