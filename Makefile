# Every target does all of its own set-up: it needs python3.10 or newer, make and a package registry, nothing else.
#   make quickstart   the whole road with Whisper on real speech      make test     the quick suite (what CI runs)
#   make nightly      the long proofs                                 make bench    side by side with the peers
#   make preflight    all recipes, compiled for TPUs, without one     make clean    remove .venv, and the runs
#   make setup        only the environment, .venv
#   make nightly-releases   the quick suite and the quickstart on every tested release of TensorFlow
#   make nightly-newest     the quick suite on the newest of everything that setup.py allows: what moved, and what fails
#   make constraints        after a green `make test`: constraints.txt anew from its environment
# TENSORFLOW=2.21.* tries another release; REFERENCE=no leaves torch and transformers out (their tests are skipped).
# JOBS=2: how many processes share the files of the quick suite; each takes up to 6 GB.
# CONSTRAINTS= installs the newest that setup.py's ranges allow in the place of the tested set.

PYTHON      ?= python3
RELEASES    := 2.20.0 2.21.0
TENSORFLOW  ?= $(firstword $(RELEASES))
CONSTRAINTS ?= constraints.txt
REFERENCE   ?= yes
PYTEST      ?=
JOBS        ?= 2
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
PIP  := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(addprefix --constraint ,$(CONSTRAINTS))
# The environment belongs to one setup.py, one tested set and one TensorFlow: a change of any installs again.
KEY  := $(shell (cat setup.py $(CONSTRAINTS); echo '$(TENSORFLOW)') | $(PYTHON) -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')
BASE := $(VENV)/.base-$(KEY)
TEST := $(VENV)/.test-$(KEY)
PEERS := $(VENV)/.reference-$(KEY)

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: setup setup-test test print-parts quickstart nightly nightly-releases nightly-newest bench preflight constraints clean
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
	@$(BIN)/python .ci/parts.py --jobs $(JOBS) $(PARTS) -- $(PYTEST)

print-parts:
	@echo $(PARTS)

nightly: setup-test
	@TFHF_NIGHTLY=1 $(BIN)/python -m pytest tests -q -p no:cacheprovider --durations=30 $(PYTEST)

# Each release in an environment of its own; all of them run, and then it fails if one did.
nightly-releases:
	@failed=; for release in $(RELEASES); do \
	  echo "== TensorFlow $$release"; \
	  $(MAKE) --no-print-directory test quickstart TENSORFLOW=$$release VENV=.venv-$$release || failed="$$failed $$release"; \
	done; \
	if [ -n "$$failed" ]; then echo "failed with TensorFlow:$$failed"; exit 1; fi

# setup.py's range bounds TensorFlow as everything else.
NEWEST := --no-print-directory CONSTRAINTS= TENSORFLOW='2.*' VENV=.venv-newest
nightly-newest:
	@rm -rf .venv-newest
	@$(MAKE) $(NEWEST) setup-test
	@.venv-newest/bin/python .ci/constraints.py moved
	@$(MAKE) $(NEWEST) test; status=$$?; .venv-newest/bin/python .ci/constraints.py moved; exit $$status

quickstart: setup
	@$(BIN)/python -m pipelines.quickstart

bench: setup-test
	@for claim in whisper ctc wav2vec2 data bpe gpt2 vision vision_classification serving; do $(BIN)/python -m benchmarks.$$claim || exit 1; done

preflight: setup
	@$(PIP) --editable '.[tf,hf,preflight]' 'tensorflow==$(TENSORFLOW)'
	@$(BIN)/python -m benchmarks.preflight

constraints: setup-test
	@$(BIN)/python .ci/constraints.py write text --releases $(RELEASES)

clean:
	rm -rf $(VENV) $(wildcard .venv-*) build dist runs *.egg-info .pytest_cache
