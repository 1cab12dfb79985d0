#!/usr/bin/env bash
# On a TPU VM: a run and its files, ~/runs/RUN.{command,log,pid,status}. ../run.sh and ../resume.sh call it.
# usage: worker/run.sh start RUN tfhf-arguments... | again RUN | status RUN | stop RUN | log RUN LINES
# status answers with one line: none, "running PID", "exited STATUS", or lost (it is not there, and left no status).
set -euo pipefail
. "$(dirname "$0")/../cloud.sh"

STOP_SECONDS=${STOP_SECONDS:-30}   # tfhf/preemption.py is gone 18 s after a signal
what=$1 run=$2
check_run "$run"
mkdir -p ~/runs
cd ~/runs

status_of_run() {
  local pid
  pid=$(cat "$run.pid" 2> /dev/null || :)
  if [ ! -e "$run.command" ]; then
    echo none
  elif [ -e "$run.status" ]; then
    echo "exited $(cat "$run.status")"
  elif [ -n "$pid" ] && grep -qse tfhf -e "$run.command" "/proc/$pid/cmdline"; then   # a later process may have it
    echo "running $pid"
  else
    echo lost
  fi
}

# From here on it belongs to no terminal. The trap is a handler and not "ignore", which the run would inherit: the
# shell around the run outlives a SIGTERM to all, and writes down how the run ended.
launch() {
  rm -f "$run.status" "$run.pid"
  echo "== $(date -u +%Y-%m-%dT%H:%M:%SZ) $(hostname): $(cat "$run.command")" >> "$run.log"
  # shellcheck disable=SC2016
  nohup setsid bash -c 'trap : TERM
    status=0; bash -c "echo \$\$ > $1.pid; exec bash $1.command" || status=$?
    echo "== exit status $status"; echo "$status" > "$1.status.new"; mv "$1.status.new" "$1.status"
  ' tfhf-run "$run" >> "$run.log" 2>&1 < /dev/null &
  for _ in {1..50}; do
    [ -s "$run.pid" ] && break
    sleep 0.1
  done
  echo "$run: $(status_of_run), log $(hostname):~/runs/$run.log"
}

state=$(status_of_run)
case $what-$state in
  status-*) echo "$state" ;;
  log-*) tail -n "$3" "$run.log" ;;
  start-running* | again-running*) broken "$run is $state already; expected another name, or kill it first" ;;
  again-none) broken "no run $run on $(hostname); expected one that run.sh started there" ;;
  start-*)
    library=
    # A TPU with a name is a pod's: the servers on its workers hold the chips, and this process must not. Nor must what
    # prepares batches.
    for word in "${@:3}" "${3:-} ${4:-}"; do
      case $word in tpu:?* | *strategy=tpu:?* | 'data serve') library='env TPU_LOAD_LIBRARY=0 ' ;; esac
    done
    echo "cd ~/tfhf && exec $library.venv/bin/tfhf $(quoted "${@:3}")" > "$run.command"
    launch ;;
  again-*) launch ;;
  stop-running*)
    kill -TERM "${state#running }" || :
    for ((tenths = 0; tenths < 10 * STOP_SECONDS; tenths++)); do
      [ -e "$run.status" ] && break
      sleep 0.1
    done
    status_of_run ;;
  stop-*) echo "$state" ;;
  *) fail "got '$what', expected start, again, status, stop or log" ;;
esac
