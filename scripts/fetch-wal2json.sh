#!/usr/bin/env bash
# Puts wal2json, the output plugin of Debian's package, into a tree of PostgreSQL 15 that is not the system's, once.
#
#   scripts/fetch-wal2json.sh PG_CONFIG
#
# The benchmark and the tests compare with it; nothing is installed into the system.
set -euo pipefail

library=$("$1" --pkglibdir)
[[ -e $library/wal2json.so ]] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

download() {
    (cd "$work" && apt-get -qq -o Acquire::Retries=3 download postgresql-15-wal2json)
}

if ! { download || { apt-get -qq update && download; }; } >"$work/log" 2>&1; then
    tail -n 20 "$work/log" >&2
    echo 'fetch-wal2json: could not get postgresql-15-wal2json' >&2
    exit 1
fi
dpkg-deb -x "$work"/*.deb "$work/tree"
install -m 644 "$work/tree/usr/lib/postgresql/15/lib/wal2json.so" "$library/wal2json.so.new"
mv "$library/wal2json.so.new" "$library/wal2json.so"
