#!/usr/bin/env bash
# Start a run again with the command it was begun with: it goes on from its newest whole checkpoint.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: resume.sh [--dry-run] NAME RUN
Settings, from the environment: ZONE (europe-west4-a), PROJECT (gcloud's own).
TEXT
}

DRY=
[ "${1:-}" = "--dry-run" ] && { DRY=1; shift; }
if [ $# -lt 2 ] || [ "${1#-}" != "$1" ]; then usage >&2; exit 2; fi
NAME=$1; shift

RUN=$1
case $RUN in *[!A-Za-z0-9._-]*) echo "resume.sh: RUN is $RUN, expected letters, digits, . _ and -" >&2; exit 2;; esac
remote="test -e ~/runs/$RUN.command || { echo no run $RUN on this worker >&2; exit 1; };"
remote+=" nohup bash ~/runs/$RUN.command >> ~/runs/$RUN.log 2>&1 < /dev/null & echo resumed $RUN, process \$!"
command=(gcloud compute tpus tpu-vm ssh "$NAME" --zone "${ZONE:-europe-west4-a}" --worker all --command "$remote")
[ -n "${PROJECT:-}" ] && command+=(--project "$PROJECT")

if [ -n "$DRY" ]; then printf '%q ' "${command[@]}"; echo; exit 0; fi
exec "${command[@]}"
