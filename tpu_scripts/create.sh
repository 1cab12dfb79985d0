#!/usr/bin/env bash
# Ask for a TPU VM, or a pod of them, and wait until it is there.
set -euo pipefail
. "$(dirname "$0")/cloud.sh"

usage() {
  cat << TEXT
usage: create.sh [--type v3-8] [--spot] [--now] [--wait-hours 24] [--version IMAGE] [--dry-run] NAME [gcloud flags...]
Queues a request for a TPU (gcloud compute tpus queued-resources create) and waits until it is ACTIVE.
  --type T        v2-N, v3-N, v4-N, v5e-N or v6e-N; more than one host from v2-32, v3-32, v4-16, v5e-16 and v6e-16 on
  --spot          cheaper, and Google may take it away at any time: see resume.sh
  --now           no queue: create it at once or fail
  --wait-hours H  give up and delete the request after H hours; Google drops it then too
  --version IMAGE default: $(runtime_of v3); v5e $(runtime_of v5e); v6e $(runtime_of v6e)
What follows NAME goes to gcloud as it is, for example --internal-ips --service-account=A.
$(settings)
TEXT
}

TYPE=v3-8 SPOT='' NOW='' WAIT_HOURS=24 RUNTIME=''
while [ $# -gt 0 ]; do
  case $1 in
    --type) option TYPE "$@"; shift ;;
    --version) option RUNTIME "$@"; shift ;;
    --wait-hours) option WAIT_HOURS "$@"; shift ;;
    --spot) SPOT=1 ;;
    --now) NOW=1 ;;
    -*) shared_option "$1" ;;
    *) break ;;
  esac
  shift
done
check_count $# 1
check_name "$1"
check_number --wait-hours "$WAIT_HOURS"
generation=$(generation_of "$TYPE")
TYPE=$(accelerator_of "$TYPE") RUNTIME=${RUNTIME:-$(runtime_of "$generation")} WAIT_SECONDS=$(seconds_of "$WAIT_HOURS")
begin
know "$1"

request_tpu "$@" || exit 1
if [ -n "$DRY" ]; then
  [ -z "$NOW" ] || exit 0
  remark "then, every $POLL_SECONDS s for at most $WAIT_HOURS h, until it is ACTIVE:"
  in_cloud queued-resources describe "$1" --format "value(state.state)"
  exit 0
fi
status=0
await_tpu "$1" || status=$?
if [ "$status" = 3 ]; then
  echo "create.sh: $1 is not there after $WAIT_HOURS h; its request is deleted now" >&2
  remove_tpu "$1" || exit 1
fi
[ "$status" = 0 ] || exit 1
MAY_RUN=
echo "$1 is there ($TYPE, $ZONE), and costs money until it is deleted: $(delete_command "$1")"
