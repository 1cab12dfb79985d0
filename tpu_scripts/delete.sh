#!/usr/bin/env bash
# Delete a TPU, and with it all that is not in the bucket: its queued resource, or its request, and its node.
set -euo pipefail
. "$(dirname "$0")/cloud.sh"

usage() {
  cat << TEXT
usage: delete.sh [--yes] [--dry-run] NAME
  --yes  do not ask
The TPUs that were asked for from this machine and not deleted are listed in \$TFHF_TPUS (~/.tfhf/tpus).
$(settings)
TEXT
}

YES=
while [ $# -gt 0 ]; do
  case $1 in
    --yes) YES=1 ;;
    -*) shared_option "$1" ;;
    *) break ;;
  esac
  shift
done
check_count $# 1
check_name "$1"
[ $# = 1 ] || fail "got '$2' after NAME, expected nothing"

if [ -z "$DRY$YES" ]; then
  [ -t 0 ] || fail "no terminal to ask on; expected --yes"
  read -r -p "Delete the TPU $1 in $ZONE and everything on it? [y/N] " answer
  case $answer in y | Y | yes) ;; *) fail "$1 was not deleted" ;; esac
fi
begin
know "$1"
where="$ZONE of project ${PROJECT:-unknown}"
if [ -z "$DRY" ]; then
  [ ! -e "$ENTRY" ] || MAY_RUN=$1
  others=$(others_of "$1")
  if ! state=$(life_of "$1"); then
    broken "whether there is a $1 in $where cannot be seen (above); nothing was deleted${others:+; asked for were:
$others}"
  fi
  if [ "$state" = NONE ]; then
    if project=$(old_entry "$1") && [ -n "$project" ]; then
      mv "$TFHF_TPUS/$1.txt" "$ENTRY"   # of the form before
    fi
    if [ -e "$ENTRY" ]; then
      forget "$1"
      echo "there is no $1 in $where any more; it is off the list"
    elif [ -n "$others" ]; then
      broken "there is no $1 in $where; nothing was deleted. Asked for, and maybe running, were:
$others"
    else
      echo "there is no $1 in $where: nothing to delete there"
    fi
    exit 0
  fi
  MAY_RUN=$1
fi
remove_tpu "$1" || exit 1
remark "nothing of $1 is left after that"
if [ -z "$DRY" ]; then
  ! old_entry "$1" > /dev/null || rm -f "$TFHF_TPUS/$1.txt"   # of the form before
  echo "$1 in $where is deleted"
fi
