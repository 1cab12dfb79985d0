#!/usr/bin/env bash
# Start a tfhf command on a TPU VM; it goes on when the connection ends.
set -euo pipefail
. "$(dirname "$0")/cloud.sh"

usage() {
  cat << TEXT
usage: run.sh [--worker 0] [--dry-run] NAME RUN tfhf-arguments...
for example: run.sh my-tpu hindi train whisper --recipe hindi_small --strategy tpu --output gs://BUCKET/runs/hindi ...
RUN names the files on the VM: ~/runs/RUN.log, RUN.command, RUN.status (the exit status). Without tfhf-arguments it
starts the command of RUN.command once more, and a training goes on from its newest checkpoint.
  --worker W  a host of a pod, or all: for commands such as doctor. One process, on worker 0, drives the TPU of a pod
              (--strategy tpu:NAME); train, evaluate, predict and export on all of them would be so many separate runs
              over the same files, and are refused. See docs/tpu_vm.md.
$(settings)
TEXT
}

WORKER=0
while [ $# -gt 0 ]; do
  case $1 in
    --worker) option WORKER "$@"; shift ;;
    -*) shared_option "$1" ;;
    *) break ;;
  esac
  shift
done
check_count $# 2
check_name "$1"
check_run "$2"
check_worker "$WORKER"
case $WORKER-${3:-train} in
  all-train | all-evaluate | all-predict | all-export)
    fail "--worker all with '${3:-the command of before}': one process drives a TPU; expected --worker 0" ;;
esac
begin
if [ $# = 2 ]; then
  about_run "$1" "$WORKER" again "$2"
else
  about_run "$1" "$WORKER" start "${@:2}"
fi
