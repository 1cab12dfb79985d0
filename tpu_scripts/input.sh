#!/usr/bin/env bash
# Start an input server on every host of a TPU VM or pod: each host then reads for itself.
set -euo pipefail
. "$(dirname "$0")/cloud.sh"

usage() {
  cat << TEXT
usage: input.sh [--port 5050] [--dry-run] NAME
Starts \`tfhf data serve\` on every host of NAME, as the run "input" (logs.sh --worker 0 NAME input; run.sh --worker all
NAME input starts it again), and prints what the runs that read from it take: input_servers=HOST:PORT,...
Each listens on its host's internal address: PORT and the two behind it are open to whoever reaches that network. On
other machines start \`tfhf data serve --host ADDRESS\` by hand.
$(settings)
TEXT
}

PORT=5050
while [ $# -gt 0 ]; do
  case $1 in
    --port) option PORT "$@"; shift ;;
    -*) shared_option "$1" ;;
    *) break ;;
  esac
  shift
done
check_count $# 1
check_name "$1"
check_port --port "$PORT"
[ $# = 1 ] || fail "got '$2' after NAME, expected nothing"
begin
if [ -n "$DRY" ]; then
  in_cloud tpu-vm describe "$1" --format 'value(networkEndpoints[].ipAddress)'
  remark "then, for each worker and its address:"
  about_run "$1" 0 start input data serve --port "$PORT" --host ADDRESS
  exit
fi
found=$(in_cloud tpu-vm describe "$1" --format 'value(networkEndpoints[].ipAddress)')
[ -n "$found" ] || broken "$1: Google gives no addresses of its hosts"
servers='' worker=0
for address in ${found//[;,]/ }; do
  about_run "$1" "$worker" start input data serve --port "$PORT" --host "$address"
  servers+=,$address:$PORT worker=$((worker + 1))
done
echo "input_servers=${servers#,}"
