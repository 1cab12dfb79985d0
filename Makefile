# Every target does all of its own set-up: it needs python3.10 or newer, make and a package registry, nothing else.
#   make quickstart   the whole road with Whisper on real speech      make test     the quick suite (what CI runs)
#   make nightly      the long proofs                                 make bench    side by side with the peers
#   make preflight    all recipes, compiled for TPUs, without one     make clean    remove .venv, and the runs
#   make setup        only the environment, .venv
# TENSORFLOW=2.21.* tries another release; REFERENCE=no leaves torch and transformers out (their tests are skipped).
# JOBS=2: how many processes share the files of the quick suite; each takes up to 6 GB.

PYTHON     ?= python3
TENSORFLOW ?= 2.20.*
REFERENCE  ?= yes
PYTEST     ?=
JOBS       ?= 2
# What XLA compiled stays in memory until its process ends: the suite is run in parts, each in fresh processes.
FOLDERS := $(patsubst %/,%,$(filter-out tests/__pycache__/,$(sort $(wildcard tests/*/))))
MODELS  := tests/models tests/layers tests/losses tests/peft
EMPTY   :=
COMMA   := ,
PARTS   := $(subst $(EMPTY) $(EMPTY),$(COMMA),$(filter-out $(MODELS) tests/fixtures,$(FOLDERS))) \
           $(subst $(EMPTY) $(EMPTY),$(COMMA),$(MODELS)) \
           $(subst $(EMPTY) $(EMPTY),$(COMMA),$(sort $(wildcard tests/test_[a-r]*.py))) \
           $(subst $(EMPTY) $(EMPTY),$(COMMA),$(sort $(wildcard tests/test_[s-z]*.py)))

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# The environment belongs to one setup.py and one TensorFlow: a change of either installs again.
KEY  := $(shell (cat setup.py; echo '$(TENSORFLOW)') | $(PYTHON) -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')
BASE := $(VENV)/.base-$(KEY)
TEST := $(VENV)/.test-$(KEY)
PEERS := $(VENV)/.reference-$(KEY)

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: setup setup-test test quickstart nightly bench preflight clean
.DELETE_ON_ERROR:

setup: $(BASE)

$(BASE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "tfhf needs Python 3.10 or newer, this is " + sys.version)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing tfhf and TensorFlow $(TENSORFLOW) into $(VENV) (some minutes the first time) ..."
	@$(PIP) --editable '.[tf,hf]' 'tensorflow==$(TENSORFLOW)'
	@rm -f $(VENV)/.base-* && touch $@

$(TEST): $(BASE)
	@$(PIP) --editable '.[tf,hf,test]' 'tensorflow==$(TENSORFLOW)'
	@rm -f $(VENV)/.test-* && touch $@

# torch and transformers are what the tests compare with. Where they cannot be had the suite still passes, with skips.
setup-test: $(TEST)
	@if [ '$(REFERENCE)' = yes ] && [ ! -e $(PEERS) ]; then \
	  echo "Installing torch and transformers, the references of the parity tests ..."; \
	  if $(PIP) --editable '.[tf,hf,test,reference]' 'tensorflow==$(TENSORFLOW)'; then \
	    rm -f $(VENV)/.reference-* && touch $(PEERS); \
	  else echo "NOTE: the references could not be installed (see above); the tests that need them are skipped."; fi; \
	  $(PIP) --editable '.[tf,hf,test,preflight]' 'tensorflow==$(TENSORFLOW)' \
	  || echo "NOTE: the TPU's compiler could not be installed (see above); the tests that need it are skipped."; \
	fi

test: setup-test
	@for part in $(PARTS); do \
	  echo "== $$part"; \
	  $(BIN)/python -m pytest $$(echo $$part | tr , ' ') -q -p no:cacheprovider -n $(JOBS) --dist loadfile --durations=8 $(PYTEST) \
	  || exit 1; \
	done

nightly: setup-test
	@TFHF_NIGHTLY=1 $(BIN)/python -m pytest tests -q -p no:cacheprovider --durations=30 $(PYTEST)

quickstart: setup
	@$(BIN)/python -m pipelines.quickstart

bench: setup-test
	@for claim in whisper ctc wav2vec2 data bpe gpt2 vision vision_classification serving; do $(BIN)/python -m benchmarks.$$claim || exit 1; done

preflight: setup
	@$(PIP) --editable '.[tf,hf,preflight]' 'tensorflow==$(TENSORFLOW)'
	@$(BIN)/python -m benchmarks.preflight

clean:
	rm -rf $(VENV) build dist runs *.egg-info .pytest_cache
