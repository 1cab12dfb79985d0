#!/usr/bin/env bash
# Install tfhf on every worker of a TPU.
set -euo pipefail
. "$(dirname "$0")/cloud.sh"

usage() {
  cat << TEXT
usage: setup.sh [--ref REF] [--type TYPE] [--dry-run] NAME REPOSITORY
Clones REPOSITORY, a URL that the TPU VM can read, to ~/tfhf on every worker and installs it into ~/tfhf/.venv with the
versions of tpu_scripts/constraints/GENERATION.txt: tensorflow-tpu on v2 to v4; JAX, with TensorFlow for the data, on
v5e and v6e. Run again it brings what is there up to date.
  --ref REF    branch, tag or commit; default: the repository's own HEAD
  --type TYPE  default: what the VM says it is
A pod is reached on all hosts at once; ssh needs its key in the agent for that: ssh-add ~/.ssh/google_compute_engine
$(settings)
TEXT
}

REF=HEAD TYPE=
while [ $# -gt 0 ]; do
  case $1 in
    --ref) option REF "$@"; shift ;;
    --type) option TYPE "$@"; shift ;;
    -*) shared_option "$1" ;;
    *) break ;;
  esac
  shift
done
check_count $# 2
check_name "$1"
[ $# = 2 ] || fail "got '$3' after REPOSITORY, expected nothing"
[ -z "$TYPE" ] || generation_of "$TYPE" > /dev/null
begin
setup_workers "$1" "$2" "$REF" ${TYPE:+"$TYPE"}
