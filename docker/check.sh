#!/usr/bin/env bash
# Proves the container recipe on a machine without a container engine. Run it as root: it uses chroot.
#
#   docker/check.sh [PROGRAM]      PROGRAM: a built longshore; left out, a release build is made
#
# 1. make-root.sh makes the root folder; it must hold the program, its libraries and four small files, nothing else.
# 2. The server runs inside that folder as user 10001, is found ready by its own health check, takes an upload, and
#    ends with 0 on SIGTERM.
# 3. compose.yaml is valid, also with its commented token in use. Checked by `docker compose` where that is installed,
#    else by compose-go, the loader docker compose is made of, run with Go; else by Debian's docker-compose.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
compose_go=github.com/compose-spec/compose-go/v2/cmd@v2.16.2
work=$(mktemp -d)
root=$work/root
server=

clean_up() {
    [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

fail() {
    echo "docker/check.sh: $*" >&2
    [ ! -s "$work/log" ] || sed 's/^/  server: /' "$work/log" >&2
    exit 1
}

build_program() {
    (cd "$here/.." && cargo build --release --locked --bin longshore >&2)
    echo "${CARGO_TARGET_DIR:-$here/../target}/release/longshore"
}

check_root() {
    "$here/make-root.sh" "$program" "$root"
    local found expected
    expected="./etc/group ./etc/nsswitch.conf ./etc/passwd ./etc/ssl/certs/ca-certificates.crt ./usr/local/bin/longshore"
    found=$(cd "$root" && find . -type f -not -name '*.so*' | sort | xargs)
    [ "$found" = "$expected" ] || fail "the root holds more or less than it should: $found"
    [ -z "$(find "$root" -type l)" ] || fail "the root holds links"
    [ "$(stat -c %u:%g "$root/data")" = 10001:10001 ] || fail "/data does not belong to user 10001"
    local libraries
    libraries=$(cd "$root" && find . -name '*.so*' -printf '%f ')
    echo "root: $(du -sh --apparent-size "$root" | cut -f1), no shell; libraries: $libraries"
}

# Runs the program as the container would: inside the root, as its user, with nothing else in the environment.
# LISTEN ARGUMENT...
inside() {
    local listen=$1
    shift
    exec env -i LONGSHORE_LISTEN="$listen" LONGSHORE_DATA_DIR=/data \
        "$(command -v chroot)" --userspec=10001:10001 "$root" /usr/local/bin/longshore "$@"
}

start_server() {
    inside 127.0.0.1:0 serve >"$work/out" 2>"$work/log" &
    server=$!
    for _ in $(seq 100); do
        address=$(sed -n 's|^listening on http://||p' "$work/out")
        [ -z "$address" ] || return 0
        kill -0 "$server" 2>/dev/null || fail "the server did not start"
        sleep 0.1
    done
    fail "the server did not say where it listens"
}

check_health() {
    for _ in $(seq 50); do
        # As in the image: an address for all interfaces, which the health check reaches by loopback.
        if (inside "0.0.0.0:${address##*:}" health) >"$work/health" 2>&1; then
            echo "health: $(cat "$work/health") at $address"
            return 0
        fi
        sleep 0.1
    done
    fail "never healthy: $(cat "$work/health")"
}

check_upload() {
    local answer
    answer=$(curl --silent --show-error --max-time 10 --dump-header - --output /dev/null --request POST \
        --header 'Tus-Resumable: 1.0.0' --header 'Upload-Length: 5' \
        --header 'Content-Type: application/offset+octet-stream' --data-binary hello "http://$address/files" | tr -d '\r')
    grep -q '^HTTP/1.1 201' <<<"$answer" || fail "no upload: $answer"
    grep -qi '^upload-offset: 5$' <<<"$answer" || fail "not all was taken: $answer"
    local theirs
    theirs=$(find "$root/data" -type f -size +0 -user 10001 | wc -l)
    [ "$theirs" -gt 0 ] || fail "nothing was written to /data"
    echo "upload: 201, 5 bytes kept in /data"
}

check_stop() {
    local status=0
    kill -TERM "$server"
    wait "$server" || status=$?
    server=
    [ "$status" -eq 0 ] || fail "the server ended with $status on SIGTERM"
    (inside "$address" health) >"$work/health" 2>&1 && fail "healthy without a server"
    echo "stop: 0 on SIGTERM, then $(cat "$work/health")"
    rm "$work/log"
}

# FILE in a folder that stands for docker/
compose_accepts() {
    case $checker in
        'docker compose') docker compose -f "$1" config -q ;;
        compose-go) (cd "$(dirname "$1")" && "$work/bin/cmd" "$1" >/dev/null) ;;
        docker-compose) docker-compose -f "$1" config -q ;;
    esac
}

choose_checker() {
    if docker compose version >/dev/null 2>&1; then
        checker='docker compose'
    elif command -v go >/dev/null; then
        checker=compose-go
        GOBIN=$work/bin go install "$compose_go" 2>"$work/go" || fail "could not build compose-go: $(cat "$work/go")"
    elif command -v docker-compose >/dev/null; then
        checker=docker-compose
    else
        fail "nothing here checks compose.yaml; install Go, or docker-compose"
    fi
}

check_compose() {
    choose_checker
    compose_accepts "$here/compose.yaml" || fail "compose.yaml is not valid"
    mkdir "$work/docker"
    echo 0123456789abcdef >"$work/docker/token"
    # Commented settings begin with # and a letter or two spaces; comments for people with # and one space.
    sed -E '/^services:/,$ s/^( *)#(  +|[a-z])/\1\2/' "$here/compose.yaml" >"$work/docker/compose.yaml"
    grep -q '^ *LONGSHORE_AUTH_TOKEN_FILE:' "$work/docker/compose.yaml" || fail "compose.yaml shows no token"
    compose_accepts "$work/docker/compose.yaml" || fail "compose.yaml is not valid with its token in use"
    sed 's/cap_drop/cap_dorp/' "$here/compose.yaml" >"$work/docker/compose.yaml"
    ! compose_accepts "$work/docker/compose.yaml" 2>/dev/null || fail "$checker does not see a mistake"
    echo "compose.yaml: valid, says $checker"
}

[ "$(id -u)" -eq 0 ] || fail "run it as root"
program=${1:-$(build_program)}
check_root
start_server
check_health
check_upload
check_stop
check_compose
echo ok
