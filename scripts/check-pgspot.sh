#!/usr/bin/env bash
# Looks for privilege escalations through search paths in the extension's SQL scripts, with pgspot.
#
#   scripts/check-pgspot.sh DIRECTORY FILE...     installs pgspot into DIRECTORY at the first run
set -euo pipefail

tools=$1
shift
version=0.9.4

if ! "$tools/bin/pgspot" --version 2>/dev/null | grep -qF "$version"; then
    python3 -m venv --clear "$tools"
    if ! "$tools/bin/pip" install --quiet --disable-pip-version-check "pgspot==$version"; then
        echo "warning: pgspot cannot be installed here: the SQL scripts are not checked with it"
        exit 0
    fi
fi

for script in "$@"; do
    # The two things in a script that are not SQL, and the bodies that pgspot cannot read: their names are bound when the
    # script runs, as if under a fixed search path.
    if ! report=$(sed -e '/^\\echo/d' -e 's/MODULE_PATHNAME/synod/' "$script" |
        perl -0pe 's/(?:SET search_path = pg_catalog, pg_temp\s+)?BEGIN ATOMIC\n(.*?);\n\s*END;/SET search_path = pg_catalog, pg_temp AS \$b\$$1\$b\$;/sg' | "$tools/bin/pgspot" /dev/stdin 2>&1) ||
        ! grep -q 'Errors: 0 Warnings: 0 Unknown: 0' <<<"$report"; then
        echo "error: pgspot on $script:" >&2
        echo "$report" >&2
        exit 1
    fi
done
