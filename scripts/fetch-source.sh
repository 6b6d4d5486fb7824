#!/usr/bin/env bash
# Fetches a Debian source package and unpacks it, or one directory of it, once.
#
#   scripts/fetch-source.sh SUITE PACKAGE DIRECTORY [MEMBER]     prints DIRECTORY, into which the package's top level goes
#
# Tests that run other projects' own tests get them here, so that none of their files is in this tree.
set -euo pipefail

suite=$1
package=$2
tree=$3
member=${4:-}

fetch() {
    local apt=(apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$work/lists")
    local only=()
    [[ -z $member ]] || only=(--wildcards "*/$member")
    # Called as a condition, where -e does not hold: hence the chain.
    cd "$work" &&
        "${apt[@]}" update &&
        "${apt[@]}" source --download-only "$package" &&
        tar -xf "${package}"_*.orig.tar.* -C "$tree" --strip-components 1 "${only[@]}"
}

if [[ ! -e $tree/.complete-source ]]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    rm -rf "$tree"
    mkdir -p "$tree" "$work/lists/partial"
    tree=$(realpath "$tree")
    # The mirror that this machine already uses, asked for the suite's sources; the system's lists stay as they are.
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -n 1)
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
    if ! fetch >"$work/log" 2>&1; then
        tail -n 30 "$work/log" >&2
        echo "fetch-source: could not get $package of $suite" >&2
        exit 1
    fi
    chmod -R a+rX "$tree"
    touch "$tree/.complete-source"
fi
echo "$tree"
