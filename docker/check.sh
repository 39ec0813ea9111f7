#!/usr/bin/env bash
# Tests the container recipe on a machine without a container engine. Run it as root: it uses chroot.
#
#   docker/check.sh [PROGRAM]      PROGRAM: a built longshore. If omitted, this builds a release.
#
# 1. make-root.sh creates the root folder. It must contain the program, its libraries and four small files, and nothing
#    else.
# 2. The server runs inside that folder as user 10001, with the environment of the image, on a free port:
#    - With that environment alone it exits, and its message names auth.token_file, auth.open and auth.hosts.
#    - With the variables of compose.yaml it serves this machine and no other host.
#    - With a token it serves requests that carry the token.
#    In the last two cases its own health check reports it ready, it accepts an upload, and it exits with 0 on SIGTERM.
# 3. compose.yaml is valid, with its commented token in use as well. `docker compose` checks it where that is installed,
#    else compose-go, the loader inside docker compose, built with Go; else Debian's docker-compose.
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
    [ "$found" = "$expected" ] || fail "the root does not contain exactly the expected files: $found"
    [ -z "$(find "$root" -type l)" ] || fail "the root contains symbolic links"
    [ "$(stat -c %u:%g "$root/data")" = 10001:10001 ] || fail "user 10001 does not own /data"
    local libraries
    libraries=$(cd "$root" && find . -name '*.so*' -printf '%f ')
    echo "root: $(du -sh --apparent-size "$root" | cut -f1), no shell; libraries: $libraries"
}

# Prints the variables that the Dockerfile sets, one NAME=VALUE on each line, with port 0 for a free port.
image_environment() {
    grep -oE 'LONGSHORE_[A-Z_]+=[^ \\]+' "$here/Dockerfile" | sed 's/^\(LONGSHORE_LISTEN=.*\):8080$/\1:0/'
}

# Prints the variables that compose.yaml adds.
compose_environment() {
    sed -nE 's/^ +(LONGSHORE_[A-Z_]+): "?([^"]*)"?$/\1=\2/p' "$here/compose.yaml"
}

# VARIABLE… -- ARGUMENT…: runs the program as the container does: inside the root, as its user, and with no other
# variables.
inside() {
    local variables=()
    while [ "$1" != -- ]; do
        variables+=("$1")
        shift
    done
    shift
    exec env -i "${variables[@]}" \
        "$(command -v chroot)" --userspec=10001:10001 "$root" /usr/local/bin/longshore "$@"
}

# VARIABLE…: starts the server with these variables and those of the image.
start_server() {
    mapfile -t environment < <(image_environment)
    [ "${environment[*]}" = 'LONGSHORE_LISTEN=0.0.0.0:0 LONGSHORE_DATA_DIR=/data' ] || fail "the image sets ${environment[*]}"
    environment+=("$@")
    inside "${environment[@]}" -- serve >"$work/out" 2>"$work/log" &
    server=$!
    for _ in $(seq 100); do
        port=$(sed -n 's|^listening on http://0.0.0.0:||p' "$work/out")
        [ -z "$port" ] || return 0
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.1
    done
    fail "the server did not print the address it listens on"
}

# Starts the image without settings for access; it must not start.
check_bare() {
    ! start_server || fail "the bare image starts, open to every client"
    local status=0
    wait "$server" || status=$?
    server=
    [ "$status" -eq 2 ] || fail "the bare image exited with $status"
    local words
    words=$(grep 'LONGSHORE_LISTEN' "$work/log") || fail "the message of the bare image does not name LONGSHORE_LISTEN"
    for way in auth.token_file 'auth.open = true' auth.hosts; do
        grep -qF "$way" <<<"$words" || fail "the message of the bare image does not name $way"
    done
    echo "bare image: exits with 2 and prints:$words"
    rm "$work/log"
}

check_health() {
    for _ in $(seq 50); do
        # 0.0.0.0 stands for all interfaces; the health check connects to loopback.
        if (inside "${environment[@]/0.0.0.0:0/0.0.0.0:$port}" -- health) >"$work/health" 2>&1; then
            echo "health: $(cat "$work/health") at port $port"
            return 0
        fi
        sleep 0.1
    done
    fail "the health check never succeeded: $(cat "$work/health")"
}

# STATUS HEADER…: creates an upload of 5 bytes. The response must have this status.
create() {
    local expected=$1 headers=()
    shift
    for header in "$@"; do headers+=(--header "$header"); done
    answer=$(curl --silent --show-error --max-time 10 --dump-header - --output /dev/null --request POST "${headers[@]}" \
        --header 'Tus-Resumable: 1.0.0' --header 'Upload-Length: 5' --header 'Content-Type: application/offset+octet-stream' \
        --data-binary hello "http://127.0.0.1:$port/files" | tr -d '\r')
    grep -q "^HTTP/1.1 $expected" <<<"$answer" || fail "not $expected with ${*:-nothing}: $answer"
}

# HEADER…: uploads 5 bytes with these header fields.
check_upload() {
    create 201 "$@"
    grep -qi '^upload-offset: 5$' <<<"$answer" || fail "the server did not accept all bytes: $answer"
    local theirs
    theirs=$(find "$root/data" -type f -size +0 -user 10001 | wc -l)
    [ "$theirs" -gt 0 ] || fail "the server wrote nothing to /data"
    echo "upload: 201, 5 bytes stored in /data"
}

# Runs the server as compose.yaml does: without a token, for the host names of this machine only.
check_compose_environment() {
    mapfile -t added < <(compose_environment)
    printf '%s\n' "${added[@]}" | grep -qx 'LONGSHORE_AUTH_OPEN=true' || fail "compose.yaml does not set LONGSHORE_AUTH_OPEN"
    start_server "${added[@]}" || fail "the server does not start with the variables of compose.yaml"
    check_health
    check_upload
    check_upload 'Host: localhost:8080'
    create 421 'Host: uploads.example.com'
    create 403 'Origin: https://evil.example'
    check_stop
}

# Runs the server with a token and no other setting for access.
check_token() {
    local token=0123456789abcdef
    echo "$token" >"$root/token"
    chmod 644 "$root/token"
    start_server LONGSHORE_AUTH_TOKEN_FILE=/token || fail "the server does not start with a token"
    check_health
    create 401
    check_upload "Authorization: Bearer $token" 'Host: uploads.example.com'
    check_stop
}

check_stop() {
    local status=0
    kill -TERM "$server"
    wait "$server" || status=$?
    server=
    [ "$status" -eq 0 ] || fail "the server exited with $status on SIGTERM"
    (inside "${environment[@]/0.0.0.0:0/0.0.0.0:$port}" -- health) >"$work/health" 2>&1 && fail "the health check succeeds without a server"
    echo "stop: exits with 0 on SIGTERM; the health check then prints: $(cat "$work/health")"
    rm "$work/log"
}

# FILE: reports whether the checker accepts this compose file. Its folder acts as docker/.
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
        GOBIN=$work/bin go install "$compose_go" 2>"$work/go" || fail "cannot build compose-go: $(cat "$work/go")"
    elif command -v docker-compose >/dev/null; then
        checker=docker-compose
    else
        fail "no checker for compose.yaml is installed; install Go or docker-compose"
    fi
}

check_compose() {
    choose_checker
    compose_accepts "$here/compose.yaml" || fail "compose.yaml is not valid"
    mkdir "$work/docker"
    echo 0123456789abcdef >"$work/docker/token"
    # A commented-out setting begins with # and a letter or two spaces, an explanation with # and one space.
    sed -E '/^services:/,$ s/^( *)#(  +|[a-z])/\1\2/' "$here/compose.yaml" >"$work/docker/compose.yaml"
    grep -q '^ *LONGSHORE_AUTH_TOKEN_FILE:' "$work/docker/compose.yaml" || fail "compose.yaml has no commented token"
    compose_accepts "$work/docker/compose.yaml" || fail "compose.yaml is not valid with its commented token in use"
    sed 's/cap_drop/cap_dorp/' "$here/compose.yaml" >"$work/docker/compose.yaml"
    ! compose_accepts "$work/docker/compose.yaml" 2>/dev/null || fail "$checker accepts an invalid compose.yaml"
    echo "compose.yaml: valid according to $checker"
}

[ "$(id -u)" -eq 0 ] || fail "run it as root"
program=${1:-$(build_program)}
check_root
check_bare
check_compose_environment
check_token
check_compose
echo ok
