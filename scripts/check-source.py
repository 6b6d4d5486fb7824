#!/usr/bin/env python3
"""House rules that the compiler does not check. Errors fail the run, warnings are only told."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNSAFE_TREES = ("crates/extension/src/pg/", "crates/libpq/src/")
FILE_LINES = 400
FUNCTION_LINES = 70
# Unfinished work belongs in the issue tracker. The words are put together here so that this file passes.
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b|\bto" r"do!|\bunimple" r"mented!|\bdb" r"g!")
UNSAFE = re.compile(r"\bunsafe\b(?!_)")
# Relative links, and what mdBook includes.
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)[^)]*\)|\{\{#include (\S+)\}\}")
STRING_OR_COMMENT = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/', re.S)


def tracked(*patterns: str) -> list[str]:
    listing = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns], cwd=ROOT, text=True
    )
    return [name for name in listing.splitlines() if (ROOT / name).is_file()]


def blank(match: re.Match) -> str:
    """Strings and comments out, line numbers kept."""
    return "\n" * match.group().count("\n")


def long_functions(code: str):
    """(line, name, length) of functions above the aim. Goes by rustfmt's layout: a function closes at its own indent."""
    lines = code.splitlines()
    for number, line in enumerate(lines):
        head = re.match(r"^(\s*)(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe |extern \S* ?)*fn (\w+)", line)
        if not head:
            continue
        for end in range(number, len(lines)):
            if lines[end] == head.group(1) + "}":
                if end - number + 1 > FUNCTION_LINES:
                    yield number + 1, head.group(2), end - number + 1
                break
            if end > number and not lines[end].startswith(head.group(1)) and lines[end].strip():
                break


def main() -> int:
    errors, warnings = [], []
    for name in tracked("*.rs", "*.py", "*.sh", "*.sql", "*.toml", "Makefile"):
        text = (ROOT / name).read_text()
        for number, line in enumerate(text.splitlines(), 1):
            if UNFINISHED.search(line):
                errors.append(f"{name}:{number}: unfinished: {line.strip()}")

    for name in tracked("*.rs"):
        text = (ROOT / name).read_text()
        if not text.startswith("//!"):
            errors.append(f"{name}:1: a file opens with //! and says what it is for")
        code = STRING_OR_COMMENT.sub(blank, text)
        if not name.startswith(UNSAFE_TREES):
            for number, line in enumerate(code.splitlines(), 1):
                if UNSAFE.search(line) and "#!" not in line:
                    errors.append(f"{name}:{number}: unsafe outside {' and '.join(UNSAFE_TREES)}")
        length = text.count("\n")
        if length > FILE_LINES:
            warnings.append(f"{name}: {length} lines (aim: {FILE_LINES})")
        for number, function, lines in long_functions(code):
            warnings.append(f"{name}:{number}: fn {function} has {lines} lines (aim: {FUNCTION_LINES})")

    for name in tracked("*.md"):
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            for target in map("".join, LINK.findall(line)):
                if not (ROOT / name).parent.joinpath(target).exists():
                    errors.append(f"{name}:{number}: nothing at {target}")

    for line in warnings:
        print(f"warning: {line}")
    for line in errors:
        print(f"error: {line}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
