#!/usr/bin/env bash
# Install tfhf on every worker of a TPU VM.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: setup.sh [--dry-run] NAME REPOSITORY
Clones REPOSITORY into ~/tfhf on every worker and installs the TPU build of TensorFlow, never beside the ordinary one.
Settings, from the environment: ZONE (europe-west4-a), PROJECT (gcloud's own), PYTHON (python3).
TEXT
}

DRY=
[ "${1:-}" = "--dry-run" ] && { DRY=1; shift; }
if [ $# -lt 2 ] || [ "${1#-}" != "$1" ]; then usage >&2; exit 2; fi
NAME=$1; shift

# Single quotes in the remote text: its variables are those of the TPU VM.
repository=$(printf "%q" "$1")
remote="set -e; [ -d ~/tfhf ] || git clone --quiet $repository ~/tfhf; cd ~/tfhf; git pull --quiet --ff-only;"
remote+=" [ -d .venv ] || ${PYTHON:-python3} -m venv .venv; .venv/bin/pip install --quiet -e '.[tpu]';"
remote+=" .venv/bin/python -c 'import tensorflow as tf; print(\"TensorFlow\", tf.__version__)'"
command=(gcloud compute tpus tpu-vm ssh "$NAME" --zone "${ZONE:-europe-west4-a}" --worker all --command "$remote")
[ -n "${PROJECT:-}" ] && command+=(--project "$PROJECT")

if [ -n "$DRY" ]; then printf '%q ' "${command[@]}"; echo; exit 0; fi
exec "${command[@]}"
