#!/usr/bin/env bash
# Create a TPU VM.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: create.sh [--dry-run] NAME
Creates a TPU VM. Settings, from the environment: ZONE (europe-west4-a), TYPE (v3-8), VERSION (tpu-ubuntu2204-base),
PROJECT (gcloud's own), SPOT=1 for a preemptible one.
TEXT
}

DRY=
[ "${1:-}" = "--dry-run" ] && { DRY=1; shift; }
if [ $# -ne 1 ] || [ "${1#-}" != "$1" ]; then usage >&2; exit 2; fi

command=(gcloud compute tpus tpu-vm create "$1" --zone "${ZONE:-europe-west4-a}"
  --accelerator-type "${TYPE:-v3-8}" --version "${VERSION:-tpu-ubuntu2204-base}")
[ -n "${PROJECT:-}" ] && command+=(--project "$PROJECT")
[ "${SPOT:-}" = 1 ] && command+=(--spot)

if [ -n "$DRY" ]; then printf '%q ' "${command[@]}"; echo; exit 0; fi
exec "${command[@]}"
