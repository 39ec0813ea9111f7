#!/usr/bin/env bash
# Proves the container recipe on a machine without a container engine. Run it as root: it uses chroot.
#
#   docker/check.sh [PROGRAM]      PROGRAM: a built longshore; left out, a release build is made
#
# 1. make-root.sh makes the root folder; it must hold the program, its libraries and four small files, nothing else.
# 2. The server runs inside that folder as user 10001 with the environment of the image, on a free port. Alone it ends, and
#    says what it wants: a token, or to be told that it is open. With the variables of compose.yaml it is open to this
#    machine and to no other host; with a token it is open to those who have it. Each time it is found ready by its own
#    health check, takes an upload, and ends with 0 on SIGTERM.
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

# The variables that the Dockerfile sets, as NAME=VALUE, one a line. The port becomes a free one.
image_environment() {
    grep -oE 'LONGSHORE_[A-Z_]+=[^ \\]+' "$here/Dockerfile" | sed 's/^\(LONGSHORE_LISTEN=.*\):8080$/\1:0/'
}

# Those that compose.yaml adds.
compose_environment() {
    sed -nE 's/^ +(LONGSHORE_[A-Z_]+): "?([^"]*)"?$/\1=\2/p' "$here/compose.yaml"
}

# Runs the program as the container would: inside the root, as its user, with nothing else in the environment.
# VARIABLE… -- ARGUMENT…
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

# VARIABLE…: starts the server with these besides those of the image.
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
    fail "the server did not say where it listens"
}

# The image as it is, with nothing said about who may use it.
check_bare() {
    ! start_server || fail "the bare image starts, and everyone who reaches it may use it"
    local status=0
    wait "$server" || status=$?
    server=
    [ "$status" -eq 2 ] || fail "the bare image ended with $status"
    local words
    words=$(grep 'LONGSHORE_LISTEN' "$work/log") || fail "it does not say what it wants"
    for way in auth.token_file 'auth.open = true' auth.hosts; do
        grep -qF "$way" <<<"$words" || fail "it does not name $way"
    done
    echo "bare image: ends with 2 and says:$words"
    rm "$work/log"
}

check_health() {
    for _ in $(seq 50); do
        # An address for all interfaces, which the health check reaches by loopback.
        if (inside "${environment[@]/0.0.0.0:0/0.0.0.0:$port}" -- health) >"$work/health" 2>&1; then
            echo "health: $(cat "$work/health") at port $port"
            return 0
        fi
        sleep 0.1
    done
    fail "never healthy: $(cat "$work/health")"
}

# STATUS HEADER…: creates an upload of 5 bytes, which must be answered so.
create() {
    local expected=$1 headers=()
    shift
    for header in "$@"; do headers+=(--header "$header"); done
    answer=$(curl --silent --show-error --max-time 10 --dump-header - --output /dev/null --request POST "${headers[@]}" \
        --header 'Tus-Resumable: 1.0.0' --header 'Upload-Length: 5' --header 'Content-Type: application/offset+octet-stream' \
        --data-binary hello "http://127.0.0.1:$port/files" | tr -d '\r')
    grep -q "^HTTP/1.1 $expected" <<<"$answer" || fail "not $expected with ${*:-nothing}: $answer"
}

# HEADER…: what an upload needs besides.
check_upload() {
    create 201 "$@"
    grep -qi '^upload-offset: 5$' <<<"$answer" || fail "not all was taken: $answer"
    local theirs
    theirs=$(find "$root/data" -type f -size +0 -user 10001 | wc -l)
    [ "$theirs" -gt 0 ] || fail "nothing was written to /data"
    echo "upload: 201, 5 bytes kept in /data"
}

# As compose.yaml runs it: open to whoever reaches it, under the names of this machine only.
check_compose_environment() {
    mapfile -t added < <(compose_environment)
    printf '%s\n' "${added[@]}" | grep -qx 'LONGSHORE_AUTH_OPEN=true' || fail "compose.yaml does not say that it is open"
    start_server "${added[@]}" || fail "it does not start as compose.yaml runs it"
    check_health
    check_upload
    check_upload 'Host: localhost:8080'
    create 421 'Host: uploads.example.com'
    create 403 'Origin: https://evil.example'
    check_stop
}

# With a token nothing else need be said.
check_token() {
    local token=0123456789abcdef
    echo "$token" >"$root/token"
    chmod 644 "$root/token"
    start_server LONGSHORE_AUTH_TOKEN_FILE=/token || fail "it does not start with a token"
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
    [ "$status" -eq 0 ] || fail "the server ended with $status on SIGTERM"
    (inside "${environment[@]/0.0.0.0:0/0.0.0.0:$port}" -- health) >"$work/health" 2>&1 && fail "healthy without a server"
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
check_bare
check_compose_environment
check_token
check_compose
echo ok
