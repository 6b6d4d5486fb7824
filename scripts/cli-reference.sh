#!/usr/bin/env bash
# Writes the reference of the command synod from its own --help.
#
#   scripts/cli-reference.sh COMMAND > docs/src/cli.md
set -euo pipefail

synod=$1

cat <<'HEAD'
# The command synod

Made from `synod --help`; `make fix` makes it anew. `make install` puts the command beside PostgreSQL's own programs.

```text
HEAD
"$synod" --help | sed 's/[[:space:]]*$//'
echo '```'
for command in status top doctor create join rejoin move leave compare repair stream; do
    printf '\n## synod %s\n\n```text\n' "$command"
    "$synod" "$command" --help | sed 's/[[:space:]]*$//'
    echo '```'
done
