#!/usr/bin/env bash
# Installs what building and testing need on Debian 12 or a relative of it. Does nothing, quickly, when all is there.
#
#   scripts/install-deps.sh            install what is missing (root)
#   scripts/install-deps.sh --check    only say what is missing; exit 1 if anything is
set -euo pipefail

packages=(
    postgresql-15 postgresql-server-dev-15 # the server, its headers, pg_config, pgbench
    libpq-dev                              # links between nodes
    clang libclang-dev pkg-config gcc make # bindings to the server's headers
    python3 python3-pip python3-venv       # the checks of `make verify`, the PostgreSQL 18 of `make PG=18`
    iproute2 util-linux                    # networks that can be cut, servers under another user
    nats-server redis-server               # what the change stream is sent to in tests
)

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed ]] || missing+=("$package")
done

if ((${#missing[@]} == 0)); then
    exit 0
fi
if [[ ${1:-} == --check ]]; then
    echo "missing packages: ${missing[*]}" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "install-deps: this is not a Debian system; install the equivalents of: ${missing[*]}" >&2
    exit 1
fi
if ((EUID != 0)); then
    echo "install-deps: these packages are missing: ${missing[*]}" >&2
    echo "install-deps: run this once as root: $(realpath "$0")" >&2
    exit 1
fi

echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
apt=(apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Acquire::Retries=3)
if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "install-deps: apt-get failed" >&2
    exit 1
fi
rm -f "$log"
