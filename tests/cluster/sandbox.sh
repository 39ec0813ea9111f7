#!/usr/bin/env bash
# Runs a command in separate namespaces for network, mounts and processes: every port is free, and all processes, mounts
# and links that the command makes end with it, even if it is killed.
#
#   tests/cluster/sandbox.sh COMMAND…
#
# The command has a bridge, br0, with the address 10.77.0.1/24, and CLUSTER_SCRATCH, an empty folder in memory. Where
# namespaces cannot be made, nothing runs and the status is 77.
set -euo pipefail

if [[ -z ${CLUSTER_SCRATCH:-} ]]; then
  PATH=$PATH:/usr/sbin
  if [[ $(id -u) -ne 0 ]] || ! unshare --net --mount true 2>/dev/null; then
    echo 'skipped: network namespaces need root'
    exit 77
  fi
  for program in ip nft tc haproxy pgbouncer curl; do
    command -v "$program" >/dev/null || { echo "please install $program" >&2; exit 1; }
  done
  CLUSTER_SCRATCH=$(mktemp -d -t longshore-cluster-XXXXXX)
  export PATH CLUSTER_SCRATCH
  trap 'rmdir "$CLUSTER_SCRATCH"' EXIT
  unshare --net --mount --pid --fork --kill-child --mount-proc -- "$0" "$@" &
  child=$!
  # Itself it ignores the gentler signals.
  trap 'kill -KILL "$child" 2>/dev/null' INT TERM HUP
  # A trap interrupts the first wait; the second one gets the status.
  wait "$child" || wait "$child"
  exit
fi

# Names of network namespaces are files here, and visible to this command only.
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
mount -t tmpfs -o mode=0755 tmpfs "$CLUSTER_SCRATCH"
ip link set lo up
ip link add br0 type bridge
ip address add 10.77.0.1/24 dev br0
ip link set br0 up
"$@"
