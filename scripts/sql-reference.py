#!/usr/bin/env python3
"""Writes the SQL reference from an extension's script: its objects and the comments on them.

    scripts/sql-reference.py SCRIPT > docs/src/sql-reference.md
    scripts/sql-reference.py --check SCRIPT docs/src/sql-reference.md
"""

import re
import sys
from pathlib import Path

import sqlscript


def sentence(text: str) -> str:
    text = text.strip()
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def internal(name: str) -> bool:
    return name.startswith("synod._") or name.startswith("synod.link(")


def signature(statement: str) -> tuple[str, str]:
    """Arguments as declared, and what is returned."""
    opening = statement.index("(")
    closing = sqlscript.matching(statement, opening)
    arguments = re.sub(r"\s+", " ", statement[opening + 1 : closing]).strip()
    returns = re.match(r"\s*RETURNS (.+?) (?:LANGUAGE|AS|STRICT|VOLATILE|STABLE|IMMUTABLE|SET|PARALLEL)\b", statement[closing + 1 :], re.I)
    return arguments, returns[1].strip() if returns else ""


def render(path: str) -> str:
    found = sqlscript.statements(Path(path).read_text())
    texts = sqlscript.comments(found)
    created = [item for item in sqlscript.objects(found) if not internal(item.name)]
    lines = [
        "# SQL reference",
        "",
        "Made from the comments in the extension's script (`make fix`); the same texts are shown by `\\df+ synod.*` and "
        "`\\dv+ synod.*` in psql.",
        "",
        "## Functions",
    ]
    for item in created:
        if item.kind in sqlscript.CALLABLE:
            arguments, returns = signature(item.statement)
            name = item.name.split("(")[0]
            arrow = f" → `{returns}`" if returns and returns != "void" else ""
            lines += ["", f"### `{name}({arguments})`{arrow}", "", sentence(texts.get((item.kind, item.name), item.name))]
    for kind, title in (("VIEW", "Views"), ("TABLE", "Tables"), ("TYPE", "Types")):
        of_kind = [item for item in created if item.kind == kind]
        if of_kind:
            lines += ["", f"## {title}"]
        for item in of_kind:
            lines += ["", f"### `{item.name}`", "", sentence(texts.get((kind, item.name), item.name))]
            columns = [
                (name.rsplit(".", 1)[1], text)
                for (of, name), text in texts.items()
                if of == "COLUMN" and name.rsplit(".", 1)[0] == item.name
            ]
            if columns:
                lines += ["", "| column | |", "|---|---|"]
                lines += [f"| `{name}` | {sentence(text).replace('|', chr(92) + '|')} |" for name, text in columns]
    return "\n".join(lines) + "\n"


def main() -> int:
    if sys.argv[1] == "--check":
        _, _, script, page = sys.argv
        if render(script) != Path(page).read_text():
            print(f"error: {page} is not what {script} says: run `make fix`", file=sys.stderr)
            return 1
        return 0
    sys.stdout.write(render(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
