#!/usr/bin/env python3
"""Fails when a row of docs/failure-modes.md has no test, names one that does not exist, or is missing.

Each of the tables below has the columns `| # | … | Outcome | Tests |` and one row per number, in order. Tests stand in
backticks, in one of four forms:

  room: Suite.Name                        a GoogleTest of src/ROOM, or of tests/simulation for the room `simulation`
  tests/system/test_x.py: test_name       a system test
  tests/dialects/x.txt: name of a case    a case of a dialect
  tests/traces/x.trace                    a trace of the engine
"""
import pathlib
import re
import sys

PAGE = "docs/failure-modes.md"
TABLES = {"## The failures": 66, "## What a drop-in proxy keeps": 7}


def read_rows(page: str) -> dict[str, list[list[str]]]:
    """The rows of each table by the heading above it, as their cells."""
    rows: dict[str, list[list[str]]] = {}
    heading = ""
    for line in page.splitlines():
        if line.startswith("#"):
            heading = line
        elif re.match(r"\| *\d+ *\|", line):
            rows.setdefault(heading, []).append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return rows


class Tests:
    """What can be named, read from the sources once."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.by_room: dict[str, set[str]] = {}

    def of_room(self, room: str) -> set[str]:
        if room not in self.by_room:
            folder = self.root / ("tests/simulation" if room == "simulation" else f"src/{room}")
            found = set()
            for path in sorted(folder.rglob("*_test.cc")):
                found |= {f"{suite}.{name}" for suite, name in re.findall(r"^TEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\)", path.read_text(), re.M)}
            self.by_room[room] = found
        return self.by_room[room]

    def missing(self, name: str) -> str:
        """Why there is no such test; empty if there is."""
        path, _, inner = name.partition(": ")
        if re.fullmatch(r"tests/traces/\w+\.trace", name):
            return "" if (self.root / name).is_file() else "no such trace"
        if path.startswith("tests/") and inner:
            if not (self.root / path).is_file():
                return "no such file"
            text = (self.root / path).read_text()
            line = rf"^    def {re.escape(inner)}\(self" if path.endswith(".py") else rf"^== {re.escape(inner)}$"
            return "" if re.search(line, text, re.M) else f"{path} has no such test"
        if re.fullmatch(r"\w+: \w+\.\w+", name):
            return "" if inner in self.of_room(path) else f"the room {path} has no such test"
        return "expected `room: Suite.Name`, `tests/system/test_x.py: test_name`, `tests/dialects/x.txt: case` or `tests/traces/x.trace`"


def problems(root: pathlib.Path) -> list[str]:
    tables = read_rows((root / PAGE).read_text())
    tests = Tests(root)
    found = []
    for heading, count in TABLES.items():
        rows = tables.get(heading, [])
        numbers = [int(row[0]) for row in rows]
        found += [f"{PAGE}: {heading}: row {number} is missing" for number in range(1, count + 1) if number not in numbers]
        if not found and numbers != list(range(1, count + 1)):
            found.append(f"{PAGE}: {heading}: rows {numbers}, expected 1 to {count} in order")
        for row in rows:
            where = f"{PAGE}: {heading}: row {row[0]}"
            if len(row) != 4 or not all(row):
                found.append(f"{where}: {len(row)} cells, expected four with words in them")
                continue
            names = re.findall(r"`([^`]+)`", row[3])
            if not names:
                found.append(f"{where}: no test")
            for name in names:
                if why := tests.missing(name):
                    found.append(f"{where}: `{name}`: {why}")
    return found


if __name__ == "__main__":
    lines = problems(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
    print("\n".join(lines), file=sys.stderr, end="\n" if lines else "")
    sys.exit(1 if lines else 0)
