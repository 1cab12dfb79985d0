#!/usr/bin/env bash
# Start a tfhf command on a TPU VM; it goes on when the connection ends.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: run.sh [--dry-run] NAME RUN tfhf-arguments...
for example: run.sh my-tpu hindi train whisper --recipe hindi_small --strategy tpu output=gs://BUCKET/runs/hindi ...
RUN names the log (~/runs/RUN.log on each worker) and the command kept for resume.sh (~/runs/RUN.command).
Settings, from the environment: ZONE (europe-west4-a), PROJECT (gcloud's own).
TEXT
}

DRY=
[ "${1:-}" = "--dry-run" ] && { DRY=1; shift; }
if [ $# -lt 3 ] || [ "${1#-}" != "$1" ]; then usage >&2; exit 2; fi
NAME=$1; shift

RUN=$1; shift
case $RUN in *[!A-Za-z0-9._-]*) echo "run.sh: RUN is $RUN, expected letters, digits, . _ and -" >&2; exit 2;; esac
arguments=$(printf "%q " "$@")
line=$(printf "%q" "cd ~/tfhf && exec .venv/bin/tfhf $arguments")
remote="mkdir -p ~/runs; echo $line > ~/runs/$RUN.command;"
remote+=" nohup bash ~/runs/$RUN.command >> ~/runs/$RUN.log 2>&1 < /dev/null & echo started $RUN, process \$!"
command=(gcloud compute tpus tpu-vm ssh "$NAME" --zone "${ZONE:-europe-west4-a}" --worker all --command "$remote")
[ -n "${PROJECT:-}" ] && command+=(--project "$PROJECT")

if [ -n "$DRY" ]; then printf '%q ' "${command[@]}"; echo; exit 0; fi
exec "${command[@]}"
