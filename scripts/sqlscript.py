"""Reads an extension's SQL script: statements, the objects they create, the comments on them."""

import re
from dataclasses import dataclass

TOKEN = re.compile(
    r"(?P<skip>--[^\n]*|/\*.*?\*/)"
    r"|(?P<keep>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)"
    r"|(?P<end>;)",
    re.S,
)
TYPE_ALIASES = {
    "int": "integer", "int4": "integer", "int8": "bigint", "int2": "smallint", "bool": "boolean",
    "float8": "double precision", "float4": "real", "timestamptz": "timestamp with time zone",
    "varchar": "character varying", "decimal": "numeric",
}  # fmt: skip


@dataclass
class Statement:
    line: int
    text: str  # without comments, white space collapsed outside quotes


@dataclass
class Object:
    kind: str
    name: str  # with argument types for functions and procedures
    line: int
    statement: str


def statements(script: str) -> list[Statement]:
    """Splits at semicolons outside quotes, dollar quotes, comments and BEGIN ATOMIC bodies."""
    script = re.sub(r"^\\.*$", "", script, flags=re.M)
    found, start, parts, position = [], 0, [], 0

    def finish(end: int) -> None:
        nonlocal parts
        text = "".join(parts)
        if re.search(r"\bBEGIN\s+ATOMIC\b", text, re.I) and not re.search(r"\bEND\s*$", text, re.I):
            parts.append(";")
            return
        if text.strip():
            first = len(script[:start]) + len(script[start:]) - len(script[start:].lstrip())
            found.append(Statement(script.count("\n", 0, first) + 1, text.strip()))
        parts = []

    for token in TOKEN.finditer(script):
        parts.append(re.sub(r"\s+", " ", script[position : token.start()]))
        position = token.end()
        if token["keep"]:
            parts.append(token["keep"])
        elif token["end"]:
            finish(token.end())
            if not parts:
                start = token.end()
    parts.append(re.sub(r"\s+", " ", script[position:]))
    finish(len(script))
    return found


def matching(text: str, opening: int) -> int:
    """The index of the bracket that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"unbalanced brackets: {text[:80]}")


def split_arguments(text: str) -> list[str]:
    parts, depth, current = [], 0, ""
    for char in text:
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    return [part.strip() for part in [*parts, current] if part.strip()]


def argument_types(arguments: str) -> str:
    """Reduces an argument list to its input types, spelled one way, so that CREATE and COMMENT compare."""
    types = []
    for argument in split_arguments(arguments):
        argument = re.split(r"\s+DEFAULT\s+|\s*:?=\s*", argument, maxsplit=1, flags=re.I)[0]
        mode = re.match(r"(IN|OUT|INOUT|VARIADIC)\s+", argument, re.I)
        if mode:
            if mode[1].upper() == "OUT":
                continue
            argument = argument[mode.end() :]
        words = argument.split()
        # "name type" or just "type"; types of two words are known by their first.
        double = {"double", "timestamp", "time", "character", "bit"}
        if len(words) > 1 and words[0].lower() not in double:
            words = words[1:]
        spelled = " ".join(words).lower()
        types.append(TYPE_ALIASES.get(spelled, spelled.removeprefix("pg_catalog.")))
    return ", ".join(types)


NAME = r'(?:"[^"]+"|[\w.@]+)+'
CREATE = re.compile(
    r"CREATE (?:OR REPLACE )?(?:UNLOGGED |TEMP(?:ORARY)? |RECURSIVE |CONSTRAINT |UNIQUE |TRUSTED )*"
    r"(?P<kind>FUNCTION|PROCEDURE|AGGREGATE|VIEW|MATERIALIZED VIEW|TABLE|TYPE|DOMAIN|SEQUENCE|INDEX|TRIGGER|"
    r"EVENT TRIGGER|SCHEMA|COLLATION|OPERATOR|CAST|ACCESS METHOD) "
    rf"(?:CONCURRENTLY )?(?:IF NOT EXISTS )?(?P<name>{NAME})\s*(?P<rest>.*)",
    re.I | re.S,
)
COMMENT = re.compile(
    rf"COMMENT ON (?P<kind>[A-Z ]+?) (?P<name>{NAME})\s*(?P<rest>.*?)\s*\bIS (?P<text>'(?:[^']|'')*'|NULL)$", re.I | re.S
)
CALLABLE = {"FUNCTION", "PROCEDURE", "AGGREGATE"}


def objects(found: list[Statement]) -> list[Object]:
    created = []
    for statement in found:
        match = CREATE.match(statement.text)
        if not match:
            continue
        kind, name = match["kind"].upper(), match["name"]
        if kind in CALLABLE:
            signature = re.sub(r"'(?:[^']|'')*'", "''", statement.text)
            opening = signature.index("(", match.start("name"))
            inside = signature[opening + 1 : matching(signature, opening)]
            name = f"{name}({argument_types(inside)})"
        created.append(Object(kind, name, statement.line, statement.text))
    return created


def comments(found: list[Statement]) -> dict[tuple[str, str], str]:
    texts = {}
    for statement in found:
        match = COMMENT.match(statement.text)
        if not match:
            continue
        kind, name = match["kind"].upper(), match["name"]
        if kind in CALLABLE:
            name = f"{name}({argument_types(match['rest'].strip()[1:-1])})"
        texts[kind, name] = match["text"].strip("'").replace("''", "'")
    return texts
