#!/usr/bin/env bash
# Copies an installed PostgreSQL into a tree of its own, so that a build of the extension can be installed and run
# without root's file system and without touching what other servers on this machine load. PostgreSQL finds its
# files relative to its own program, so a copy that keeps the relative paths works as it is.
#
#   scripts/postgres-tree.sh PG_CONFIG DIRECTORY     prints the path of the copy's pg_config
set -euo pipefail

source_config=$1
tree=$2

bin=$("$source_config" --bindir)
libs=$("$source_config" --pkglibdir)
share=$("$source_config" --sharedir)
stamp="$tree/.version"
version=$("$source_config" --version)
copy="$tree$bin/pg_config"

if [[ ! -e $stamp || $(<"$stamp") != "$version" ]]; then
    rm -rf "$tree"
    for directory in "$bin" "$libs" "$share"; do
        mkdir -p "$tree$directory"
        # -L: a symlinked program would find its way back to the original tree.
        cp -RL "$directory/." "$tree$directory/"
    done
    rm -rf "$tree$share/man" "$tree$libs"/{bitcode,pgxs}
    # Left-overs of an extension installed system-wide must not be mistaken for the one under test.
    rm -f "$tree$libs/synod.so" "$tree$share"/extension/synod*
    chmod -R a+rX "$tree"
    printf '%s\n' "$version" >"$stamp"
fi

[[ $("$copy" --pkglibdir) == "$tree$libs" ]] || {
    echo "postgres-tree: $copy does not find its own files: this PostgreSQL cannot be moved" >&2
    exit 1
}
echo "$copy"
