#!/usr/bin/env bash
# Follow the log of a run.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: logs.sh [--dry-run] NAME RUN [WORKER]
Settings, from the environment: ZONE (europe-west4-a), PROJECT (gcloud's own), LINES (50).
TEXT
}

DRY=
[ "${1:-}" = "--dry-run" ] && { DRY=1; shift; }
if [ $# -lt 2 ] || [ "${1#-}" != "$1" ]; then usage >&2; exit 2; fi
NAME=$1; shift

RUN=$1
case $RUN in *[!A-Za-z0-9._-]*) echo "logs.sh: RUN is $RUN, expected letters, digits, . _ and -" >&2; exit 2;; esac
command=(gcloud compute tpus tpu-vm ssh "$NAME" --zone "${ZONE:-europe-west4-a}" --worker "${2:-0}"
  --command "tail -n ${LINES:-50} -F ~/runs/$RUN.log")
[ -n "${PROJECT:-}" ] && command+=(--project "$PROJECT")

if [ -n "$DRY" ]; then printf '%q ' "${command[@]}"; echo; exit 0; fi
exec "${command[@]}"
