#!/usr/bin/env bash
# Follow the log of a run until Ctrl-C; the run goes on.
set -euo pipefail
. "$(dirname "$0")/cloud.sh"

usage() {
  cat << TEXT
usage: logs.sh [--worker 0] [--lines 50] [--dry-run] NAME RUN
$(settings)
TEXT
}

WORKER=0 LINES_=50
while [ $# -gt 0 ]; do
  case $1 in
    --worker) option WORKER "$@"; shift ;;
    --lines) option LINES_ "$@"; shift ;;
    -*) shared_option "$1" ;;
    *) break ;;
  esac
  shift
done
check_count $# 2
check_name "$1"
check_run "$2"
check_worker "$WORKER"
check_number --lines "$LINES_"
[ $# = 2 ] || fail "got '$3' after RUN, expected nothing"
# -tt: tail ends with the connection.
HOW=become
on_worker "$1" "$WORKER" "exec tail -n ${LINES_%%.*} -F ~/runs/$2.log" --ssh-flag=-tt
