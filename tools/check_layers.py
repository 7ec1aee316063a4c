#!/usr/bin/env python3
"""Fails when an #include in src/ follows an arrow that ARCHITECTURE.md does not draw.

The table of ARCHITECTURE.md is the only input: `| floor | `room/` | may include | holds |`. A room may include
itself, base, the rooms listed, and what those may include. Every room on disk must be in the table and the other way
round. Boost.Beast may be included by http/*.cc only.
"""
import pathlib
import re
import sys


def read_table(page: str) -> dict[str, set[str]]:
    rooms = {}
    for name, allowed in re.findall(r"^\| \d \| `(\w+)/` \| ([^|]*) \|", page, re.M):
        rooms[name] = set(allowed.split()) - {"–", "-"}
    return rooms


def closure(rooms: dict[str, set[str]], room: str) -> set[str]:
    reached, todo = {room, "base"}, [room]
    while todo:
        for target in rooms.get(todo.pop(), ()):
            if target not in reached:
                reached.add(target)
                todo.append(target)
    return reached


def violations(root: pathlib.Path) -> list[str]:
    rooms = read_table((root / "ARCHITECTURE.md").read_text())
    found = []
    on_disk = {p.name for p in (root / "src").iterdir() if p.is_dir() and any(p.rglob("*.h"))}
    for room in sorted(on_disk - rooms.keys()):
        found.append(f"src/{room}: this room is not in the table of ARCHITECTURE.md")
    for room in sorted(rooms.keys() - on_disk):
        found.append(f"ARCHITECTURE.md: room `{room}/` is not in src/")
    for room in sorted(on_disk & rooms.keys()):
        allowed = closure(rooms, room)
        for path in sorted((root / "src" / room).rglob("*")):
            if path.suffix not in (".h", ".cc"):
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                where = f"{path.relative_to(root)}:{number}"
                if match := re.match(r'\s*#include "(\w+)/', line):
                    if match[1] not in allowed:
                        found.append(f"{where}: {room} may not include {match[1]}")
                elif re.match(r"\s*#include <boost/beast", line) and (room != "http" or path.suffix == ".h"):
                    found.append(f"{where}: only http/*.cc may include Boost.Beast")
    return found


if __name__ == "__main__":
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    problems = violations(root)
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    sys.exit(1 if problems else 0)
