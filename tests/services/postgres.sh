#!/usr/bin/env bash
# Starts a PostgreSQL server of its own on a free loopback port, runs a command with its address in TEST_POSTGRES_URL,
# and stops the server. Without a command it runs the suite of the state in PostgreSQL.
#
#   tests/services/postgres.sh [COMMAND…]
#
#   PGBIN=DIR     programs of another version; by default /usr/lib/postgresql/*/bin, the newest
#   PG_POOLER=1   puts PgBouncer in transaction mode in front of the server: TEST_POSTGRES_URL leads through it, and
#                 TEST_POSTGRES_DIRECT_URL to the server
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
  [[ ! -f $PLACE/pgbouncer.pid ]] || kill -INT "$(cat "$PLACE/pgbouncer.pid")" 2>/dev/null || true
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
free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Few server connections, so that sessions share them.
start_pooler() {
  local pooler_port
  pooler_port=$(free_port)
  cat >"$PLACE/pgbouncer.ini" <<EOF
[databases]
* = host=127.0.0.1 port=$port user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pooler_port
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 8
max_client_conn = 2000
server_idle_timeout = 5
logfile = $PLACE/pgbouncer.log
pidfile = $PLACE/pgbouncer.pid
EOF
  as_owner env PATH="$PATH:/usr/sbin" pgbouncer -q -d "$PLACE/pgbouncer.ini"
  export TEST_POSTGRES_DIRECT_URL=$TEST_POSTGRES_URL
  export TEST_POSTGRES_URL=postgres://postgres@127.0.0.1:$pooler_port/postgres
  for _ in $(seq 100); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$pooler_port") 2>/dev/null; then return; fi
    sleep 0.1
  done
  cat "$PLACE/pgbouncer.log" >&2
  exit 1
}

port=$(free_port)
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
# A certificate for localhost, and who has signed it. Some builds of PostgreSQL have no TLS.
if command -v openssl >/dev/null && [[ -n $(as_owner "$BIN/postgres" -D "$PLACE/data" -C ssl_library) ]]; then
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
# Some tests start servers of their own, below this folder.
export TEST_POSTGRES_BIN=$BIN TEST_POSTGRES_PLACE=$PLACE
[[ -z ${PG_POOLER:-} ]] || start_pooler
cd - >/dev/null
if [[ $# -eq 0 ]]; then
  set -- cargo test --locked --package longshore-state-postgres --features postgres-tests --test postgres
fi
# In the background, so that a signal is handled at once.
"$@" &
child=$!
wait "$child"
