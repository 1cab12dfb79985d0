#!/usr/bin/env bash
# TensorBoard on the TPU VM, seen in a browser here, until Ctrl-C.
set -euo pipefail
. "$(dirname "$0")/cloud.sh"

usage() {
  cat << TEXT
usage: tensorboard.sh [--port 6006] [--dry-run] NAME LOGDIR
LOGDIR is the output of a run, or a folder above several: gs://BUCKET/runs. Then open http://localhost:PORT.
Only this machine can reach it: the port is carried over ssh.
$(settings)
TEXT
}

PORT=6006
while [ $# -gt 0 ]; do
  case $1 in
    --port) option PORT "$@"; shift ;;
    -*) shared_option "$1" ;;
    *) break ;;
  esac
  shift
done
check_count $# 2
check_name "$1"
check_port --port "$PORT"
[ $# = 2 ] || fail "got '$3' after LOGDIR, expected nothing"
[ -n "$DRY" ] || echo "http://localhost:$PORT until Ctrl-C" >&2
# -tt: TensorBoard ends with the connection.
HOW=become
on_worker "$1" 0 "exec ~/tfhf/.venv/bin/tensorboard --port $PORT --logdir $(quoted "$2")" \
  --ssh-flag=-tt "--ssh-flag=-L$PORT:localhost:$PORT"
