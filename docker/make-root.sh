#!/bin/sh
# Creates a root folder that contains only one program and the files that it needs to run.
#
#   docker/make-root.sh PROGRAM FOLDER
#
# The folder gets the program as /usr/local/bin/longshore, the shared libraries it links, the CA certificates of this
# machine, a user 10001, and an empty /data that this user owns. Run it as root, because it sets owners.
set -eu

[ $# -eq 2 ] || { echo "usage: $0 PROGRAM FOLDER" >&2; exit 2; }
program=$1
root=$2
user=10001
umask 022

[ -x "$program" ] || { echo "$0: $program is not an executable" >&2; exit 1; }
[ ! -e "$root" ] || [ -z "$(ls -A "$root")" ] || { echo "$0: $root is not empty" >&2; exit 1; }

mkdir -p "$root"
chmod 755 "$root"
install -D -m 755 "$program" "$root/usr/local/bin/longshore"

# ldd prints `name => /path (address)`, or `/path (address)` for the loader. Each library is copied to the path that ldd
# prints, with symbolic links resolved, because the loader looks libraries up by these paths. Resolving host names needs
# no other library: libc does it.
linked=$(ldd "$program")
case $linked in *'not found'*) printf '%s: a library is missing\n%s\n' "$0" "$linked" >&2; exit 1 ;; esac
libraries=$(echo "$linked" | sed -n -e 's/^.*=> \(\/[^ ]*\) .*/\1/p' -e 's/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p')
for library in $libraries; do
    install -D -m 755 "$(readlink -f "$library")" "$root$library"
done

install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo "longshore:x:$user:$user:longshore:/data:/nonexistent" > "$root/etc/passwd"
echo "longshore:x:$user:" > "$root/etc/group"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
install -d -m 750 -o "$user" -g "$user" "$root/data"
