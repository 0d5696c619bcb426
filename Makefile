# make demo    set up, then train on generated data, evaluate and draw the results
# make unit    set up, then the quick tests alone
# make test    set up, then all tests
# make lint    formatting, lint rules, imports, types, spelling, wording
# make docs    the documents as a site, in site/
# make dist    wheel and source distribution, checked, in dist/

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
D2_COMMIT := 02b5c4e295e990042a714712c21dc79b731e8833
DEMO := output/demo

# What the lanes and the processes of the tests import is compiled once.
unexport PYTHONDONTWRITEBYTECODE
# Raised once for every process by what Detectron2 imports.
export PYTHONWARNINGS := ignore::FutureWarning:torch.jit._script

.PHONY: venv demo unit test lint docs dist

venv: $(VENV)/.ready

# Detectron2 is not on PyPI and is compiled while it is installed, against the torch that is there.
$(VENV)/.ready: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip -c constraints.txt setuptools wheel ninja
	$(RUN) -m pip install --quiet -c constraints.txt torch torchvision
	$(RUN) -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev,wavelets,export,openvino,video,track]'
	$(RUN) -m pip install --quiet -c constraints.txt --no-deps trackers
	@$(RUN) -m pip install --quiet -c constraints.txt --no-build-isolation \
	    'git+https://github.com/facebookresearch/detectron2@$(D2_COMMIT)' > $(VENV)/detectron2.log 2>&1 \
	    && echo "Detectron2 is installed." \
	    || echo "Detectron2 could not be installed (see $(VENV)/detectron2.log): the built-in runtime is used."
	@touch $@

demo: venv
	$(RUN) -m yolor_d2.toy $(DEMO)/data
	$(RUN) tools/train_net.py --config-file configs/quick/toy_cpu.yaml \
	    --train $(DEMO)/data/instances_train.json $(DEMO)/data/train \
	    --val $(DEMO)/data/instances_val.json $(DEMO)/data/val --overwrite \
	    OUTPUT_DIR $(DEMO)/run
	$(RUN) tools/show_run.py $(DEMO)/run

unit: venv
	$(RUN) -m pytest -n 2 --dist worksteal -m "not slow and not heavy and not gpu"

# Where Detectron2 is installed, what depends on the runtime is tested with the built-in one too: the
# unit tests of that side, the commands and the trainer. That both runtimes train to the same bits is
# a test of the first lane.
CORE := $(addprefix --ignore tests/,layers networks ops checkpoint export fuzz test_docs.py)
test: venv
	$(RUN) -m pytest -n 2 --dist worksteal -m "not gpu"
	@if $(RUN) -c 'import detectron2' 2> /dev/null; then set -x; \
	    YOLOR_D2_RUNTIME=builtin $(RUN) -m pytest -n 2 --dist worksteal \
	        -m "not gpu and (not slow or both_runtimes)" $(CORE); \
	fi

lint: venv
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(VENV)/bin/lint-imports
	$(RUN) -m pyright --pythonpath $(RUN)
	$(VENV)/bin/codespell
	$(RUN) docs/check_words.py

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --clean

$(VENV)/.docs: $(VENV)/.ready
	$(RUN) -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[docs]'
	@touch $@

# In an environment of its own: building needs nothing of what the package needs.
DIST_VENV := .venv-dist
dist: $(DIST_VENV)/.ready
	rm -rf dist build
	$(DIST_VENV)/bin/python -m build
	$(DIST_VENV)/bin/python -m twine check --strict dist/*
	.ci/check_dist dist

$(DIST_VENV)/.ready: constraints.txt
	$(PYTHON) -m venv $(DIST_VENV)
	$(DIST_VENV)/bin/python -m pip install --quiet build twine
	@touch $@
