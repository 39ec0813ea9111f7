#!/usr/bin/env bash
# Starts a PostgreSQL server of its own on a free loopback port, runs a command with its address in TEST_POSTGRES_URL,
# and stops the server. Without a command it runs the suite of the state in PostgreSQL.
#
#   tests/services/postgres.sh [COMMAND…]
#
#   PGBIN=DIR     programs of another version; by default /usr/lib/postgresql/*/bin, the newest
#   PG_DURABLE=1  syncs every commit to the disk, as a real server does; without it the suite is quicker
set -euo pipefail
cd "$(dirname "$0")/../.."

bin() {
  local found
  found=${PGBIN:-$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)}
  [[ -x $found/initdb ]] || { echo "please install PostgreSQL (on Debian: apt-get install postgresql-15), or set PGBIN" >&2; exit 1; }
  printf '%s' "$found"
}

# The server refuses to run as root.
as_owner() {
  if [[ $(id -u) -eq 0 ]]; then runuser -u postgres -- "$@"; else "$@"; fi
}

stop() {
  as_owner "$BIN/pg_ctl" -D "$PLACE/data" -m immediate -w stop >/dev/null 2>&1 || true
  rm -rf "$PLACE"
}

BIN=$(bin)
readonly BIN
# Outside the clone, whose parent folders the owner of the server may not be allowed to enter.
PLACE=$(mktemp -d -t longshore-postgres-XXXXXX)
readonly PLACE
if [[ $(id -u) -eq 0 ]]; then chown postgres "$PLACE"; fi
trap stop EXIT
trap 'kill "${child:-}" 2>/dev/null || true; exit 143' TERM INT HUP
cd "$PLACE"
as_owner "$BIN/initdb" -D "$PLACE/data" -U postgres --auth=trust --no-locale -E UTF8 --no-sync >"$PLACE/initdb.log" 2>&1 || {
  cat "$PLACE/initdb.log" >&2
  exit 1
}
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
durable=off
[[ -z ${PG_DURABLE:-} ]] || durable=on
cat >>"$PLACE/data/postgresql.conf" <<EOF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$PLACE'
max_connections = 400
shared_buffers = 128MB
max_locks_per_transaction = 256
fsync = $durable
full_page_writes = $durable
max_wal_size = 2GB
# Tests find the plans of their statements by this.
log_line_prefix = '%d: '
EOF
# A certificate for localhost, and who has signed it.
if command -v openssl >/dev/null; then
  openssl req -x509 -newkey rsa:2048 -nodes -keyout "$PLACE/ca.key" -out "$PLACE/ca.pem" -days 2 -subj /CN=test 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -keyout "$PLACE/server.key" -out "$PLACE/server.csr" -subj /CN=localhost 2>/dev/null
  openssl x509 -req -in "$PLACE/server.csr" -CA "$PLACE/ca.pem" -CAkey "$PLACE/ca.key" -CAcreateserial -days 2 \
    -extfile <(printf 'subjectAltName=DNS:localhost') -out "$PLACE/server.pem" 2>/dev/null
  if [[ $(id -u) -eq 0 ]]; then chown postgres "$PLACE/server.key"; fi
  chmod 600 "$PLACE/server.key"
  cat >>"$PLACE/data/postgresql.conf" <<EOF
ssl = on
ssl_cert_file = '$PLACE/server.pem'
ssl_key_file = '$PLACE/server.key'
EOF
  export TEST_POSTGRES_CA=$PLACE/ca.pem
fi
as_owner "$BIN/pg_ctl" -D "$PLACE/data" -l "$PLACE/server.log" -w -t 30 start >/dev/null
export TEST_POSTGRES_URL=postgres://postgres@127.0.0.1:$port/postgres
export TEST_POSTGRES_LOG=$PLACE/server.log
cd - >/dev/null
if [[ $# -eq 0 ]]; then
  set -- cargo test --locked --package longshore-state-postgres --features postgres-tests --test postgres
fi
# In the background, so that a signal is handled at once.
"$@" &
child=$!
wait "$child"
