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
if [ -z "$DRY" ]; then
  MAY_RUN=$1
  state=$(life_of "$1") || exit 1
  if [ "$state" = NONE ]; then
    forget "$1"
    echo "there is no $1 in $ZONE: nothing to delete"
    exit 0
  fi
fi
remove_tpu "$1" || exit 1
remark "nothing of $1 is left after that"
[ -n "$DRY" ] || echo "$1 in $ZONE is deleted"
