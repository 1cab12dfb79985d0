#!/usr/bin/env bash
# Sourced by the scripts beside it: options, quoting, gcloud, and the life of a TPU from its request to its deletion.
#
# A TPU costs money until it is deleted. So each is written down in $TFHF_TPUS (~/.tfhf/tpus) before it is asked for and
# until it is gone, and a script that ends in between, whatever ended it, says what may be running and how to delete it.
# A name is one TPU in one zone of one project: so the files there are NAME@ZONE@PROJECT.txt.
set -euo pipefail

SELF=${0##*/}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ZONE=${ZONE:-europe-west4-a}
POLL_SECONDS=${POLL_SECONDS:-30}
TFHF_TPUS=${TFHF_TPUS:-$HOME/.tfhf/tpus}
UNANSWERED=3   # so many polls in a row without an answer count as "gone"; gcloud itself tries ssh ten times
DRY=           # --dry-run
KEY=           # name@zone@project of the TPU that `know` was given
ENTRY=         # its file
LOCK=          # a file to remove when the script ends
MAY_RUN=       # the TPU that is named when the script ends
CHILD=         # the command in progress
DEADLINE=      # seconds since 1970 at which `perform` ends its command
HOW=perform    # how gcloud is called: perform, or become

# The end of every usage text.
settings() {
  echo "Settings, from the environment: ZONE ($ZONE), PROJECT (gcloud's own), POLL_SECONDS ($POLL_SECONDS)."
  echo "--dry-run prints the commands, quoted for a shell, and runs none."
}

# Wrong usage, and whatever else the caller can mend: one line, status 2.
fail() {
  echo "$SELF: $*" >&2
  exit 2
}

# Something went wrong out there: one line, status 1.
broken() {
  echo "$SELF: $*" >&2
  exit 1
}

# option VARIABLE "$@" with $1 an option: its value into VARIABLE.
option() {
  [ $# -ge 3 ] || fail "$2: got nothing, expected a value; see $SELF --help"
  printf -v "$1" '%s' "$3"
}

# The options of every script; any other word that begins with - is refused.
shared_option() {
  case $1 in
    --dry-run) DRY=1 ;;
    --help | -h) usage; exit 0 ;;
    *) fail "unknown option $1; see $SELF --help" ;;
  esac
}

# check_count GOT LEAST: enough words were given.
check_count() {
  [ "$1" -ge "$2" ] && return
  usage >&2
  exit 2
}

# Google's rule for the names of TPUs.
check_name() {
  [[ $1 =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
    fail "NAME: got '$1', expected lower-case letters, digits and -, beginning with a letter, at most 63"
}

# A run's name is part of file names on the TPU VM.
check_run() {
  [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] ||
    fail "RUN: got '$1', expected letters, digits, . _ and -, beginning with a letter or digit"
}

check_number() {
  [[ $2 =~ ^[0-9]*\.?[0-9]*$ && $2 =~ [1-9] ]] || fail "$1: got '$2', expected a number above 0"
}

check_port() {
  [[ $2 =~ ^[1-9][0-9]{0,4}$ && $2 -le 65535 ]] || fail "$1: got '$2', expected 1 to 65535"
}

# check_worker VALUE: a worker's number, or all.
check_worker() {
  [[ $1 =~ ^([0-9]{1,4}|all)$ ]] || fail "--worker: got '$1', expected a number from 0 or all"
}

# Google's name of an accelerator, v3-8 or v5litepod-8, from that name or the short v5e-8.
accelerator_of() {
  case $1 in
    v5e-*) echo "v5litepod-${1#v5e-}" ;;
    *) echo "$1" ;;
  esac
}

# The generation whose constraints file an accelerator needs.
generation_of() {
  if [[ $(accelerator_of "$1") =~ ^(v2|v3|v4|v5litepod|v6e)-[0-9]+$ ]]; then
    echo "${BASH_REMATCH[1]/#v5litepod/v5e}"
  else
    fail "TPU type: got '$1', expected v2-N, v3-N, v4-N, v5e-N (v5litepod-N) or v6e-N"
  fi
}

# Google's base image for a generation: an operating system without TensorFlow, which setup.sh installs.
runtime_of() {
  case $1 in
    v5e) echo v2-alpha-tpuv5-lite ;;
    v6e) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

# The words on one line, as any POSIX shell reads them back.
quoted() {
  local word out='' quote="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) out+=" '${word//\'/$quote}'" ;;
      *) out+=" $word" ;;
    esac
  done
  printf '%s\n' "${out# }"
}

# Run a command, or print it. In the background, since bash answers a signal only between two commands; what is run in
# the background does not hear Ctrl-C, so `leave` ends it.
perform() {
  if [ -n "$DRY" ]; then
    quoted "$@"
    return
  fi
  local status=0 watch=
  "$@" < /dev/null 9>&- &   # 9: resume.sh's lock, which is the script's alone
  CHILD=$!
  if [ -n "$DEADLINE" ]; then
    # Without the script (kill -0) the number may be another command's by now. A process of its own, not a subshell,
    # which would keep the caller's output open.
    # shellcheck disable=SC2016
    bash -c 'while kill -0 "$1" && [ "$(date +%s)" -lt "$2" ]; do sleep "$3"; done
      kill -0 "$1" && kill "$4"' watch $$ "$DEADLINE" "$POLL_SECONDS" "$CHILD" > /dev/null 2>&1 < /dev/null 9>&- &
    watch=$!
  fi
  wait "$CHILD" || status=$?
  CHILD=
  [ -z "$watch" ] || kill "$watch" 2> /dev/null || :
  return "$status"
}

# Become a command that talks to the user until it is interrupted, or print it.
become() {
  if [ -n "$DRY" ]; then
    quoted "$@"
    exit 0
  fi
  exec "$@"
}

# A line about the commands that --dry-run prints; a comment, so that the whole stays a shell script.
remark() { [ -z "$DRY" ] || echo "# $*"; }

pause() { DEADLINE='' perform sleep "$POLL_SECONDS"; }

now() { date +%s; }

in_minutes() { echo "$(($1 / 60)) min"; }

# seconds_of HOURS
seconds_of() { awk -v hours="$1" 'BEGIN { printf "%d\n", hours * 3600 }'; }

# in_cloud GROUP VERB NAME ...: gcloud compute tpus GROUP VERB NAME, in our zone and project.
in_cloud() {
  "$HOW" gcloud compute tpus "$1" "$2" "$3" --zone "$ZONE" ${PROJECT:+--project "$PROJECT"} --quiet "${@:4}"
}

# on_worker NAME WORKER COMMAND [FLAG ...]: run a shell command line on one worker or on all.
on_worker() {
  in_cloud tpu-vm ssh "$1" --worker "$2" --ssh-flag=-oConnectTimeout=20 --ssh-flag=-oServerAliveInterval=15 \
    "${@:4}" --command "$3"
}

# asked_cloud GROUP VERB ...: what gcloud answers, errors included, in our zone and project.
asked_cloud() {
  gcloud compute tpus "$@" --zone "$ZONE" ${PROJECT:+--project "$PROJECT"} --quiet 2>&1 9>&-
}

# state_of GROUP NAME: the state that Google gives, or NONE; fails where gcloud fails. A mistake in the project is "not
# found" as well: only an answer that names the TPU, or a list without it, says that there is none.
state_of() {
  local answer names field=state
  [ "$1" = tpu-vm ] || field=state.state
  if answer=$(asked_cloud "$1" describe "$2" --format "value($field)"); then
    echo "${answer##*$'\n'}"   # a warning may stand before it
    return
  fi
  case $answer in
    *NOT_FOUND*/"$2"\'*) echo NONE; return ;;
    *NOT_FOUND*)
      if names=$(asked_cloud "$1" list --format "value(name)") && ! grep -qE "(^|/)$2\$" <<< "$names"; then
        echo NONE
        return
      fi
      ;;
  esac
  echo "$answer" >&2
  return 1
}

# life_of NAME: where a TPU is in its life, in the words of a queued resource, though it was made without one; and
# STOPPED. A node that was taken away counts even if its queued resource does not know yet.
life_of() {
  local queued node
  queued=$(state_of queued-resources "$1") || return 1
  case $queued in
    ACTIVE | NONE | SUSPENDING | SUSPENDED) node=$(state_of tpu-vm "$1") || return 1 ;;
    *) echo "$queued"; return ;;
  esac
  case $queued-$node in
    *-STOPPED | *-STOPPING) echo STOPPED ;;   # Google takes away; only people stop
    SUSPEND*) echo "$queued" ;;
    *-READY) echo ACTIVE ;;
    NONE-NONE) echo NONE ;;
    *-NONE | *-PREEMPTED | *-TERMINATED | *-HIDDEN | *-UNHIDING) echo SUSPENDED ;;
    *) echo PROVISIONING ;;
  esac
}

# know NAME: which TPU that is, of which project: PROJECT, KEY and ENTRY. Where gcloud names no project, the list may.
know() {
  local answer files
  if [ -z "${PROJECT:-}" ] && [ -z "$DRY" ]; then
    answer=$(gcloud config get-value project 2> /dev/null 9>&-) || answer=
    PROJECT=${answer##*$'\n'}
    [ "$PROJECT" != '(unset)' ] || PROJECT=
    files=("$TFHF_TPUS/$1@${ZONE//[^A-Za-z0-9._-]/_}@"*.txt)
    if [ -z "$PROJECT" ] && [ "${#files[@]}" = 1 ] && [ -e "${files[0]}" ]; then
      PROJECT=$(sed -n '1 s/.*, project \([^,]*\),.*/\1/p' "${files[0]}")
      [ "$PROJECT" != unknown ] || PROJECT=
    fi
  fi
  KEY=$(key_of "$1" "$ZONE" "${PROJECT:-}")
  ENTRY=$TFHF_TPUS/$KEY.txt
}

# key_of NAME ZONE PROJECT: a file's name.
key_of() {
  local zone=${2:-unknown} project=${3:-unknown}
  echo "$1@${zone//[^A-Za-z0-9._-]/_}@${project//[^A-Za-z0-9._-]/_}"
}

# The command that deletes the TPU, for a terminal anywhere.
delete_command() {
  echo "ZONE=$(quoted "$ZONE") ${PROJECT:+PROJECT=$(quoted "$PROJECT") }$(quoted "$HERE/delete.sh") --yes $1"
}

# Write down a TPU before it is asked for: what survives even SIGKILL.
remember() {
  MAY_RUN=$1
  mkdir -p "$TFHF_TPUS"
  {
    echo "asked for: $1, ${TYPE:-unknown type}, $ZONE, project ${PROJECT:-unknown}, $(date -u +%Y-%m-%dT%H:%M:%SZ)," \
      "by ${BY:-$SELF}"
    echo "delete:    $(delete_command "$1")"
  } > "$ENTRY"
}

# It is gone: the list forgets it, and resume.sh's bills count it no longer.
forget() {
  local bill
  rm -f "$ENTRY"
  for bill in "$TFHF_TPUS/$KEY"@*.bill; do
    [ ! -e "$bill" ] || echo "down $(now)" >> "$bill"
  done
  MAY_RUN=
}

# The entry NAME.txt that these scripts wrote before they knew zones and projects apart, if it is of this zone and
# may be of this project; its project follows, "" where it was gcloud's own of that day.
old_entry() {
  local file=$TFHF_TPUS/$1.txt zone project
  [ -e "$file" ] || return 1
  IFS=, read -r _ _ zone project _ < "$file" || return 1
  project=${project# project }
  [ "$project" != "of gcloud" ] || project=
  if [ "$zone" = " $ZONE" ] && { [ -z "$project" ] || [ "$project" = "${PROJECT:-}" ]; }; then
    echo "$project"
  else
    return 1
  fi
}

# others_of NAME: the entries of that name but our own, a line each.
others_of() {
  local file
  for file in "$TFHF_TPUS/$1@"*.txt "$TFHF_TPUS/$1.txt"; do
    [ ! -e "$file" ] || [ "$file" = "$ENTRY" ] || echo "  $file: $(head -n 1 "$file")"
  done
}

# What ends the script: nothing is left behind without its name.
leave() {
  local status=$?
  trap '' INT TERM HUP
  [ -z "$CHILD" ] || kill "$CHILD" 2> /dev/null || :
  [ -z "$LOCK" ] || rm -f "$LOCK"
  [ -z "$KEY" ] || rm -f "$TFHF_TPUS/$KEY.said"
  if [ -n "$MAY_RUN" ]; then
    echo "$SELF: $MAY_RUN in $ZONE may be running, and costs money until it is deleted:" >&2
    echo "  $(delete_command "$MAY_RUN")" >&2
  fi
  exit "$status"
}

begin() {
  [ -n "$DRY" ] || command -v gcloud > /dev/null ||
    fail "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"
  trap leave EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# create_tpu NAME [FLAG ...]: the request alone.
create_tpu() {
  local words=(--accelerator-type "$TYPE")
  [ -z "$SPOT" ] || words+=(--spot)
  if [ -n "${NOW:-}" ]; then
    in_cloud tpu-vm create "$1" "${words[@]}" --version "$RUNTIME" "${@:2}"
  else
    # Should nobody be there any more, the request ends by itself.
    in_cloud queued-resources create "$1" --node-id "$1" "${words[@]}" --runtime-version "$RUNTIME" \
      --valid-until-duration "${WAIT_SECONDS}s" "${@:2}"
  fi
}

# request_tpu NAME [FLAG ...]: ask for TYPE with the image RUNTIME; SPOT, NOW, and WAIT_SECONDS from the caller.
request_tpu() {
  local status=0 known='' answer
  if [ -n "$DRY" ]; then
    create_tpu "$@"
    return
  fi
  [ ! -e "$ENTRY" ] || known=1
  if [ -n "$known" ]; then MAY_RUN=$1; else remember "$1"; fi
  create_tpu "$@" 2> "$TFHF_TPUS/$KEY.said" || status=$?
  answer=$(cat "$TFHF_TPUS/$KEY.said")
  rm -f "$TFHF_TPUS/$KEY.said"
  [ -z "$answer" ] || echo "$answer" >&2
  [ "$status" != 0 ] || return 0
  case $answer in
    *ALREADY_EXISTS*)
      echo "$SELF: $1 is in $ZONE already; it was not created now, and is left as it is" >&2
      [ -n "$known" ] || { rm -f "$ENTRY"; MAY_RUN=; }
      return 1
      ;;
  esac
  status=$(life_of "$1") || status=UNKNOWN
  if [ "$status" = NONE ]; then
    forget "$1"
    echo "$SELF: $1 was not created (see above); nothing is left of it" >&2
  else
    echo "$SELF: creating $1 failed (see above); its state is $status" >&2
  fi
  return 1
}

# await_tpu NAME: until it is ACTIVE. Status 1: it will not be; 3: not within WAIT_SECONDS.
await_tpu() {
  local state='' before='' began told silent=0 waited
  began=$(now) told=$began
  while :; do
    if state=$(life_of "$1"); then silent=0; else silent=$((silent + 1)); fi
    waited=$(($(now) - began))
    if [ "$silent" -ge "$UNANSWERED" ]; then
      echo "$SELF: gcloud gave no answer about $1, $silent times in a row" >&2
      return 1
    elif [ "$silent" = 0 ]; then
      if [ "$state" != "$before" ] || [ $(($(now) - told)) -ge 600 ]; then
        echo "$1: $state after $(in_minutes "$waited") of at most $(in_minutes "$WAIT_SECONDS")"
        before=$state told=$(now)
      fi
      case $state in
        ACTIVE) return 0 ;;
        FAILED)
          in_cloud queued-resources describe "$1" --format "yaml(state)" >&2 || :   # has the reason
          return 1
          ;;
        SUSPENDING | SUSPENDED | STOPPED | DELETING | NONE) return 1 ;;
      esac
    fi
    [ "$waited" -lt "$WAIT_SECONDS" ] || return 3
    pause
  done
}

# remove_tpu NAME: the queued resource with its node, or the node that has none.
remove_tpu() {
  local state
  remark "the queued resource and its node; where there is none, as after create.sh --now, the node:"
  state=$([ -n "$DRY" ] || state_of queued-resources "$1") || return 1
  [ "$state" = NONE ] || in_cloud queued-resources delete "$1" --force || return 1
  state=$([ -n "$DRY" ] || state_of tpu-vm "$1") || return 1
  [ "$state" = NONE ] || in_cloud tpu-vm delete "$1" || return 1
  [ -z "$DRY" ] || return 0
  state=$(life_of "$1") || return 1
  if [ "$state" != NONE ]; then
    echo "$SELF: $1 was to be deleted, and is $state" >&2
    return 1
  fi
  forget "$1"
}

# setup_workers NAME REPOSITORY REF [TYPE]: the sources on every worker, and what they need.
setup_workers() {
  local repository ref
  repository=$(quoted "$2") ref=$(quoted "$3")
  on_worker "$1" all "set -e; git -C ~/tfhf rev-parse --quiet --verify HEAD > /dev/null 2>&1 ||
 { rm -rf ~/tfhf; git clone --quiet -- $repository ~/tfhf; }
cd ~/tfhf; git fetch --quiet -- $repository $ref; git checkout --quiet --detach FETCH_HEAD
exec bash tpu_scripts/worker/setup.sh $(quoted "${@:4}")"
}

# about_run NAME WORKER start|again|status|stop|log RUN ...: what worker/run.sh answers.
about_run() {
  # shellcheck disable=SC2088  # the ~ is that of the TPU VM
  on_worker "$1" "$2" "bash ~/tfhf/tpu_scripts/worker/run.sh $(quoted "${@:3}")"
}
