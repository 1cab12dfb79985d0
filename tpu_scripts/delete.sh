#!/usr/bin/env bash
# Delete a TPU VM, and with it all that is not in the bucket.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: delete.sh [--dry-run] NAME
Settings, from the environment: ZONE (europe-west4-a), PROJECT (gcloud's own), YES=1 to not be asked.
TEXT
}

DRY=
[ "${1:-}" = "--dry-run" ] && { DRY=1; shift; }
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then usage >&2; exit 2; fi
NAME=$1; shift

command=(gcloud compute tpus tpu-vm delete "$NAME" --zone "${ZONE:-europe-west4-a}")
[ -n "${PROJECT:-}" ] && command+=(--project "$PROJECT")
[ "${YES:-}" = 1 ] && command+=(--quiet)

if [ -n "$DRY" ]; then printf '%q ' "${command[@]}"; echo; exit 0; fi
exec "${command[@]}"
