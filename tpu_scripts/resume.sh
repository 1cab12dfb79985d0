#!/usr/bin/env bash
# Take a run to its end on TPUs that Google may take away: ask again, install again, go on, within hours and money.
set -euo pipefail
. "$(dirname "$0")/cloud.sh"

usage() {
  cat << TEXT
usage: resume.sh --hours H --money M --price P [--type v3-8] [--on-demand] [--version IMAGE] [--ref REF] [--keep]
                 [--take-over] [--replace-stopped] [--dry-run] NAME RUN REPOSITORY tfhf-arguments...
for example: resume.sh --hours 48 --price PRICE --money 100 my-tpu hindi REPOSITORY train whisper --strategy tpu ...
Creates the spot TPU NAME where there is none (create.sh), installs tfhf from REPOSITORY (setup.sh), starts RUN on
worker 0 (run.sh) and watches it. A TPU that is taken away is deleted and asked for again; a run that left with status
75 (SIGTERM, saved) or without a word is started again, and goes on from its newest checkpoint in the bucket.
  --hours H   at most H hours since the beginning, the time in the queue included
  --price P   what this TPU costs an hour, from Google's price list for its type, zone and tier
  --money M   at most M, in the same currency, for the hours in which there was a TPU
  --ref REF   branch, tag or commit: a tag or commit keeps the code the same after a preemption; default HEAD
  --take-over use the TPU NAME that is there, which this script did not create; it is deleted in the end as its own is
  --replace-stopped  delete a TPU that somebody stopped, and ask for another; of its own accord it leaves such a one
  --keep      do not delete the TPU when the run has finished or failed; a cap does all the same
Before a cap is passed the run is told to save and the TPU is deleted; the same command with a larger cap goes on, and
counts what was spent (\$TFHF_TPUS/NAME@ZONE@PROJECT@RUN.bill, in ~/.tfhf/tpus). Should this script be killed, the run
goes on and the same command finds it. Exit status: 0 finished, 1 the run or the cloud failed, 2 wrong usage, 75 a cap.
STOP_SECONDS, from the environment ($STOP_SECONDS), is how long before a cap it stops: time to save and to delete.
$(settings)
TEXT
}

STOP_SECONDS=${STOP_SECONDS:-300}
HOURS='' MONEY='' PRICE='' TYPE=v3-8 SPOT=1 RUNTIME='' REF=HEAD KEEP='' TAKE_OVER='' REPLACE=''
while [ $# -gt 0 ]; do
  case $1 in
    --hours) option HOURS "$@"; shift ;;
    --money) option MONEY "$@"; shift ;;
    --price) option PRICE "$@"; shift ;;
    --type) option TYPE "$@"; shift ;;
    --version) option RUNTIME "$@"; shift ;;
    --ref) option REF "$@"; shift ;;
    --on-demand) SPOT='' ;;
    --keep) KEEP=1 ;;
    --take-over) TAKE_OVER=1 ;;
    --replace-stopped) REPLACE=1 ;;
    -*) shared_option "$1" ;;
    *) break ;;
  esac
  shift
done
check_count $# 4
check_name "$1"
check_run "$2"
NAME=$1 RUN=$2 REPOSITORY=$3
shift 3
check_number --hours "$HOURS"
check_number --money "$MONEY"
check_number --price "$PRICE"
generation=$(generation_of "$TYPE")
TYPE=$(accelerator_of "$TYPE") RUNTIME=${RUNTIME:-$(runtime_of "$generation")}
BY="resume.sh $RUN"   # as it stands in the list; so a TPU of ours is known again
BILL=                 # lines "begun T", and "asked T", "up T" and "down T" in the life of each TPU

# From the bill: UP, seconds in which there was a TPU; LEFT, seconds that --hours leaves; TO_CAP, seconds until it is
# time to stop; CAP, the reason then.
account() {
  read -r UP LEFT TO_CAP CAP < <(awk -v now="$(now)" -v hours="$HOURS" -v money="$MONEY" -v price="$PRICE" \
    -v stop="$STOP_SECONDS" '
      $1 == "begun" { begun = $2 }
      $1 == "up" && !up { up = $2 }
      $1 == "down" && up { sum += $2 - up; up = 0 }
      END {
        sum += up ? now - up : 0
        left = hours * 3600 - (now - begun)
        paid = money / price * 3600 - sum
        if (left <= paid) printf "%d %d %d --hours %s\n", sum, left, left - stop, hours
        else printf "%d %d %d --money %s at %s an hour\n", sum, left, paid - stop, money, price
      }' "$BILL")
}

take_down() {
  local try
  DEADLINE=
  for try in 1 2 3; do
    if remove_tpu "$NAME"; then return; fi
    echo "$SELF: deleting $NAME failed, try $try of 3" >&2
    pause
  done
  broken "$NAME could not be deleted"
}

# end STATUS WORD ...: say why, delete the TPU, leave.
end() {
  echo "$RUN: ${*:2}"
  if [ -n "$KEEP" ]; then
    echo "$NAME is kept, and costs money until it is deleted: $(delete_command "$NAME")"
    MAY_RUN=
  elif [ -n "$MAY_RUN" ]; then
    take_down
  fi
  account
  awk -v up="$UP" -v price="$PRICE" -v line="$RUN: $NAME was there for $(in_minutes "$UP")" \
    'BEGIN { printf "%s, %.2f at %s an hour\n", line, price * up / 3600, price }'
  [ "$1" != 0 ] || rm -f "$BILL"
  rm -f "$BILL.answer"
  exit "$1"
}

end_at_cap() {
  local cap=$CAP
  DEADLINE=$(($(now) + 60))
  [ "${1:-}" != running ] || about_run "$NAME" 0 stop "$RUN" || :
  KEEP=''
  end 75 "stopped by $cap, counted in $BILL; the same command with more goes on from the newest checkpoint"
}

# is_ours LIFE: this script created the TPU that is there, or may use it.
is_ours() {
  [ "$1" = NONE ] || [ -n "$TAKE_OVER" ] || grep -q ', by resume\.sh' "$ENTRY" 2> /dev/null
}

# A TPU that is ACTIVE: the one that is there, the one that is being made, or a new one.
have_tpu() {
  local life status=0 refused=0
  while :; do
    account
    [ "$TO_CAP" -gt 0 ] || end_at_cap
    life=$(life_of "$NAME") || { pause; continue; }
    if ! is_ours "$life"; then
      MAY_RUN=
      broken "there is a $NAME in $ZONE ($life), which this script did not create; it is left as it is." \
        "Expected another NAME, or --take-over"
    fi
    case $life in
      ACTIVE) break ;;
      NONE)
        forget "$NAME"
        echo "asked $(now)" >> "$BILL"
        WAIT_SECONDS=$((LEFT - STOP_SECONDS))
        request_tpu "$NAME" || end 1 "no TPU could be asked for"
        ;;
      STOPPED)
        if [ -z "$REPLACE" ]; then
          KEEP=1
          end 1 "$NAME was stopped by somebody and is left as it is; start it, or give --replace-stopped"
        fi
        echo "$NAME: $life; deleted, to be asked for again"
        take_down
        continue
        ;;
      SUSPENDING | SUSPENDED | FAILED | DELETING)
        [ "$life" != FAILED ] || refused=$((refused + 1))
        [ "$refused" -lt 3 ] || end 1 "the request for a TPU failed $refused times (see above)"
        echo "$NAME: $life; deleted, to be asked for again"
        take_down
        continue
        ;;
    esac
    status=0
    WAIT_SECONDS=$((LEFT - STOP_SECONDS))
    await_tpu "$NAME" || status=$?
    account
    [ "$status" != 3 ] || end_at_cap
    [ "$status" = 0 ] || pause
  done
  echo "up $(now)" >> "$BILL"
}

# One watcher for a TPU: two would delete each other's, and pay for both. The lock is gone with this process, however it
# ends; its file says whose it is.
exclude_others() {
  local file=$TFHF_TPUS/$KEY.lock
  command -v flock > /dev/null || fail "flock is not installed; expected util-linux, or on a Mac: brew install flock"
  while :; do
    exec 9>> "$file"
    flock -w 5 9 || broken "$NAME in $ZONE is watched already, by $(cat "$file"); expected one watcher, or another NAME"
    [ ! "$file" -ef /dev/fd/9 ] || break   # otherwise its owner has just removed it
  done
  LOCK=$file
  echo "process $$ on $(hostname), for the run $RUN" > "$file"
}

# What these scripts wrote before they knew zones and projects apart: NAME.txt and NAME.RUN.bill.
take_up_old_files() {
  local old=$TFHF_TPUS/$NAME.$RUN.bill
  if [ ! -e "$old" ] || [ -e "$BILL" ]; then
    return
  fi
  if [ -e "$TFHF_TPUS/$NAME.txt" ]; then
    old_entry "$NAME" > /dev/null || return 0   # of another zone or project
    case $(tail -n 1 "$old") in
      asked* | up*) remember "$NAME" && rm -f "$TFHF_TPUS/$NAME.txt" ;;   # so it was resume.sh that created it
    esac
  fi
  echo "$RUN: goes on counting from $old"
  mv "$old" "$BILL"
}

# ANSWER: what worker 0 says of the run: none, running PID, exited STATUS, lost, or "" for no answer. Through a file,
# since a command substitution would keep a signal waiting as long as ssh does.
ask_run() {
  ANSWER=
  # shellcheck disable=SC2088
  on_worker "$NAME" 0 "test -e ~/tfhf/tpu_scripts/worker/run.sh || { echo none; exit; }
bash ~/tfhf/tpu_scripts/worker/run.sh status $RUN" --no-user-output-enabled > "$BILL.answer" || return 0
  ANSWER=$(tail -n 1 "$BILL.answer")
  case $ANSWER in none | running\ * | exited\ * | lost) ;; *) ANSWER= ;; esac
}

# Until the run or its TPU has ended: the last answer, or "gone".
watch_run() {
  local silent=0
  while :; do
    account
    [ "$TO_CAP" -gt 0 ] || end_at_cap running
    case $(life_of "$NAME" || echo ACTIVE) in
      ACTIVE) ;;
      *) ANSWER=gone; return ;;
    esac
    ask_run
    case $ANSWER in
      running*) silent=0 ;;
      '') silent=$((silent + 1)) ;;
      *) return ;;
    esac
    if [ "$silent" -ge "$UNANSWERED" ]; then
      echo "$NAME: no answer over ssh, $silent times in a row; taken for lost"
      take_down
      ANSWER=gone
      return
    fi
    pause
  done
}

if [ -n "$DRY" ]; then
  WAIT_SECONDS=$(seconds_of "$HOURS")
  remark "where there is no $NAME, now and after each preemption:"
  request_tpu "$NAME"
  remark "every $POLL_SECONDS s until it is ACTIVE:"
  in_cloud queued-resources describe "$NAME" --format "value(state.state)"
  remark "then:"
  setup_workers "$NAME" "$REPOSITORY" "$REF" "$TYPE"
  about_run "$NAME" 0 start "$RUN" "$@"
  remark "every $POLL_SECONDS s until it has ended:"
  about_run "$NAME" 0 status "$RUN"
  remark "before a cap is passed ($HOURS h, $MONEY at $PRICE an hour):"
  about_run "$NAME" 0 stop "$RUN"
  if [ -n "$KEEP" ]; then remark "$NAME is kept"; else remove_tpu "$NAME"; fi
  exit 0
fi

begin
know "$NAME"
BILL=$TFHF_TPUS/$KEY@$RUN.bill
mkdir -p "$TFHF_TPUS"
exclude_others
take_up_old_files
if [ -e "$BILL" ]; then
  # Killed while it waited for a TPU: one that came since then counts from when it was asked for.
  sed -n '$ s/^asked/up/p' "$BILL" > "$BILL.answer"
  cat "$BILL.answer" >> "$BILL"
else
  echo "begun $(now)" > "$BILL"
fi
! grep -q ', by resume\.sh' "$ENTRY" 2> /dev/null || MAY_RUN=$NAME
failures=0
while :; do
  DEADLINE=
  have_tpu
  remember "$NAME"
  account
  DEADLINE=$(($(now) + TO_CAP))   # no command may hang beyond it
  ask_run
  case $ANSWER in
    running*) echo "$RUN: $ANSWER on $NAME" ;;
    'exited 0') ;;
    *)
      if ! setup_workers "$NAME" "$REPOSITORY" "$REF" "$TYPE" || ! about_run "$NAME" 0 start "$RUN" "$@"; then
        failures=$((failures + 1))
        # A TPU that was taken away meanwhile is no fault of the set-up.
        [ "$(life_of "$NAME" || echo ACTIVE)" = ACTIVE ] || failures=0
        [ "$failures" -lt 3 ] || end 1 "could not be started, $failures times in a row (see above)"
        pause
        continue
      fi
      ;;
  esac
  failures=0
  watch_run
  case $ANSWER in
    'exited 0')
      about_run "$NAME" 0 log "$RUN" 5 || :
      end 0 "finished"
      ;;
    gone | lost | none | 'exited 75')
      echo "$RUN: $ANSWER; it goes on from its newest checkpoint"
      pause
      ;;
    *)
      about_run "$NAME" 0 log "$RUN" 50 || :
      end 1 "$ANSWER: it failed (the end of its log is above)"
      ;;
  esac
done
