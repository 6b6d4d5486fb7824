#!/usr/bin/env bash
# Puts a built extension where a PostgreSQL server finds it, and the command synod beside that server's programs.
#
#   scripts/install-extension.sh PG_CONFIG SHARED_LIBRARY [COMMAND]
set -euo pipefail

config=$1
library=$2
here=$(cd "$(dirname "$0")/.." && pwd)
libs=$("$config" --pkglibdir)
share=$("$config" --sharedir)

for directory in "$libs" "$share/extension"; do
    if [[ ! -w $directory ]]; then
        echo "install-extension: $directory is not writable: run this as its owner (usually root)" >&2
        exit 1
    fi
done

# A running server has the old library mapped: replace the file, never write into it.
install -m 755 "$library" "$libs/.synod.so.new"
mv -f "$libs/.synod.so.new" "$libs/synod.so"
install -m 644 "$here/crates/extension/synod.control" "$here"/crates/extension/sql/synod--*.sql "$share/extension/"

if [[ -n ${3:-} ]]; then
    programs=$("$config" --bindir)
    install -m 755 "$3" "$programs/.synod.new"
    mv -f "$programs/.synod.new" "$programs/synod"
    # Debian keeps the servers' own programs out of everybody's PATH.
    if [[ -w /usr/local/bin && $programs == /usr/lib/postgresql/* ]]; then
        ln -sfn "$programs/synod" /usr/local/bin/synod
    fi
fi
