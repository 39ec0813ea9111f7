#!/usr/bin/env bash
# Checks the models exhaustively, then removes one rule at a time and expects a violation. See README.md.
#
#   docs/model/check.sh [--long]
#
# Needs spin and a C compiler. As root on Debian, it installs spin if it is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly MODELS=docs/model
readonly OUT=target/model
failed=0

main() {
  local long=
  case ${1:-} in
    '') ;;
    --long) long=yes ;;
    *) echo "usage: $0 [--long]" >&2 && exit 2 ;;
  esac
  tools
  rm -rf "$OUT"
  mkdir -p "$OUT"
  # The searches run side by side; their results are judged in order.
  phase=search
  all "$long"
  wait
  phase=judge
  all "$long"
  if [[ $failed -ne 0 ]]; then
    printf '\n%d checks failed; the output of each is in %s\n' "$failed" "$OUT"
    exit 1
  fi
}

all() {
  title '%-48s %12s %8s %8s\n' verified states seconds MB
  verify whole takeover -DUPLOADS=1
  verify part takeover -DUPLOADS=2 -DEPOCHS=2 -DLENGTH=1 -DNO_REPORTS
  if [[ -n $1 ]]; then
    verify part takeover -DUPLOADS=2 -DEPOCHS_2=2 -DLENGTH=1 -DNO_REPORTS
    verify whole log -DNUMBERS=4
  fi
  verify whole log
  verify whole lease
  title '\n%-48s %12s\n' 'with one rule removed' states
  broken takeover -DUPLOADS=1
  broken log -DNODES=2
  broken lease
}

# shellcheck disable=SC2059 # the format is an argument
title() {
  [[ $phase == search ]] || printf "$@"
}

tools() {
  if ! command -v cc >/dev/null; then
    echo 'a C compiler is missing (on Debian: apt-get install gcc libc6-dev)' >&2
    exit 2
  fi
  command -v spin >/dev/null && return
  if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo 'spin is missing (on Debian: apt-get install --no-install-recommends spin)' >&2
    exit 2
  fi
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends spin >/dev/null
}

# start NAME OPTIMIZATION MODEL FLAG…: begins a search when a core is free.
start() {
  while [[ $(jobs -rp | wc -l) -ge $(nproc) ]]; do wait -n || true; done
  search "$@" &
}

# search NAME OPTIMIZATION MODEL FLAG…: searches all states, or up to the first violation. States are compared in full
# (no bitstate hashing), and pan reports it if a search was not complete.
search() {
  local folder=$OUT/$1 optimization=$2 model=$3
  shift 3
  mkdir -p "$folder"
  cp "$MODELS/$model.pml" "$folder/"
  (
    cd "$folder"
    spin "$@" -a "$model.pml" >spin.log
    cc -w "$optimization" -DSAFETY -DCOLLAPSE -DMEMLIM=4000 -o pan pan.c
    # -E: a node that has nothing left to do is not an error.
    ./pan -E -m1000000 -w24 >pan.log
  ) || true
}

# Numbers in the output of pan.
states() { awk '/ states, stored/ { print $1; exit }' "$1"; }
seconds() { awk '/elapsed time/ { print $4; exit }' "$1"; }
megabytes() { awk '/total actual memory usage/ { printf "%.0f\n", $1; exit }' "$1"; }

# verify whole|part MODEL FLAG…: expects a complete search without a violation. `whole`: and that every statement was
# executed.
verify() {
  local extent=$1 model=$2 name log
  shift 2
  name=$(echo "$model $*" | tr -d '=' | tr ' ' '-')
  log=$OUT/$name/pan.log
  if [[ $phase == search ]]; then
    start "$name" -O2 "$model" "$@"
    return
  fi
  printf '%-48s %12s %8s %8s\n' "$model ${*//-D/}" "$(states "$log")" "$(seconds "$log")" "$(megabytes "$log")"
  if ! grep -q 'errors: 0$' "$log" || grep -qE 'not completed|too small|out of memory' "$log"; then
    wrong "$name: violated, or not searched completely"
  elif [[ $extent == whole ]] && grep -E 'pml:[0-9]+, state' "$log" | grep -qv -e '-end-'; then
    wrong "$name: a statement is never executed"
  fi
}

# broken MODEL FLAG…: for each rule of the model, expects a violation without it.
broken() {
  local model=$1 rule log
  shift
  while read -r rule; do
    log=$OUT/$rule/pan.log
    if [[ $phase == search ]]; then
      start "$rule" -O1 "$model" "$@" "-D$rule"
      continue
    fi
    printf '%-48s %12s\n' "$model $rule" "$(states "$log")"
    grep -q 'assertion violated' "$log" || wrong "$rule: no violation was found"
  done < <(grep -oE 'BREAK_[A-Z]+(_[A-Z]+)*' "$MODELS/$model.pml" | sort -u)
}

wrong() {
  printf '  FAILED: %s\n' "$1"
  failed=$((failed + 1))
}

main "$@"
