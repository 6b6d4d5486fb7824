#!/usr/bin/env python3
"""Rules for the extension's SQL scripts.

Every object has a COMMENT. Every name is qualified with the schema synod. SECURITY DEFINER only with a search path of
its own. Functions that change something are revoked from PUBLIC.

    scripts/check-sql.py FILE...
"""

import re
import sys
from pathlib import Path

import sqlscript

UNCOMMENTED = {"INDEX"}
SCHEMALESS = {"EVENT TRIGGER", "SCHEMA", "CAST", "ACCESS METHOD", "INDEX", "TRIGGER"}


def problems(path: str):
    script = Path(path).read_text()
    found = sqlscript.statements(script)
    texts = sqlscript.comments(found)
    created = sqlscript.objects(found)
    if not re.search(r"^\\echo .*\\quit$", script, re.M):
        yield 1, r"the script does not stop psql (\echo ... \quit)"
    for item in created:
        if item.kind not in UNCOMMENTED and not texts.get((item.kind, item.name)):
            yield item.line, f"{item.kind.lower()} {item.name} has no COMMENT"
        if item.kind not in SCHEMALESS and not item.name.startswith("synod."):
            yield item.line, f"{item.kind.lower()} {item.name} is not in the schema synod"
        if item.kind in sqlscript.CALLABLE:
            if re.search(r"\bSECURITY DEFINER\b", item.statement, re.I) and not re.search(
                r"\bSET search_path\b", item.statement, re.I
            ):
                yield item.line, f"{item.name}: SECURITY DEFINER without SET search_path"
            if re.search(r"\bLANGUAGE (plpgsql|sql)\b", item.statement, re.I) and not re.search(
                r"\bSET search_path\b|\bBEGIN ATOMIC\b", item.statement, re.I
            ):
                yield item.line, f"{item.name}: a body in SQL or PL/pgSQL without SET search_path or BEGIN ATOMIC"
        if re.match(r"CREATE OR REPLACE\b|CREATE [\w ]*IF NOT EXISTS\b", item.statement, re.I):
            yield item.line, f"{item.name}: a first CREATE must not take over an object that someone else made"
    known = {(item.kind, item.name) for item in created}
    for kind, name in texts:
        if kind not in {"COLUMN", "SCHEMA", "EXTENSION", "CONSTRAINT", "TRIGGER"} and (kind, name) not in known:
            yield 1, f"COMMENT ON {kind} {name}: no such object is created here"


def main() -> int:
    failed = False
    for path in sys.argv[1:]:
        if not Path(path).exists():
            continue
        for line, message in problems(path):
            print(f"error: {path}:{line}: {message}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
