"""docs/limits.md names the bounds that the sources have: each row's number is its constant's."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}


def written(cell: str) -> int:
    """The first number of a cell: "16 MiB", "1,024 (`--max-waiting`)"."""
    number, unit = re.match(r"([\d,]+)(?: (KiB|MiB))?", cell).groups()
    return int(number.replace(",", "")) * UNITS.get(unit, 1)


def defined(source: str, name: str) -> int | None:
    """The value of a constant or of a member's default: products and shifts of numbers and other constants."""
    source = re.sub(r"size_t\{(\d+)\}", r"\1", source)
    found = re.search(rf"\b{name}\s*(?:=|{{)\s*([^;}}]+)", source)
    if not found:
        return None
    text = found[1].replace("'", "")
    text = re.sub(r"\b(\d+)U?L?L?\b", r"\1", text)
    text = re.sub(r"\bk\w+", lambda other: str(defined(source, other[0])), text)
    if not re.fullmatch(r"[\d\s*+<()]+", text):
        return None
    return eval(" ".join(text.split()))  # digits and operators alone


def problems(document: str) -> list[str]:
    found = []
    rows = re.findall(r"^\| ([^|]+) \| (\d[^|]*) \|[^|]*\| `([^`]+)` `(\w+)` \|$", document, re.M)
    lines = [line for line in document.splitlines() if line.startswith("| ") and not line.startswith("| What")]
    if len(rows) != len(lines):
        found.append(f"{len(lines)} rows, {len(rows)} of them readable: expected | what | number | beyond | `file` `constant` |")
    for what, cell, path, name in rows:
        file = ROOT / path
        value = defined(file.read_text(), name) if file.is_file() else None
        if value is None:
            found.append(f"{what}: {path} has no {name}")
        elif value != written(cell):
            found.append(f"{what}: {written(cell)}, {path} {name} is {value}")
    return found


if __name__ == "__main__":
    wrong = problems((ROOT / "docs" / "limits.md").read_text())
    for line in wrong:
        print(f"docs/limits.md: {line}")
    sys.exit(bool(wrong))
