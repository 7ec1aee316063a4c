#!/usr/bin/env python3
"""clang-format, the arrows of ARCHITECTURE.md, the numbers of docs/limits.md, the tests of docs/failure-modes.md, the rules for co_await,
whether every mutation still applies, and clang-tidy over every source of src/.

clang-tidy results are remembered in build/lint/ by the hash of the file, of every header of src/ and of the
configuration, so a second run only looks at what changed."""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def sources(*suffixes: str) -> list[pathlib.Path]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "src", "tests"], cwd=ROOT, text=True, capture_output=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if line.endswith(suffixes) and (ROOT / line).exists()]


def check_format() -> list[str]:
    files = [str(p) for p in sources(".h", ".cc")]
    run = subprocess.run(["clang-format-19", "--dry-run", "-Werror", *files], cwd=ROOT, text=True, capture_output=True)
    return [line for line in run.stderr.splitlines() if "error:" in line]


def check_layers() -> list[str]:
    run = subprocess.run([sys.executable, "tools/check_layers.py", "."], cwd=ROOT, text=True, capture_output=True)
    return run.stderr.splitlines()


def check_limits() -> list[str]:
    run = subprocess.run([sys.executable, "tools/check_limits.py"], cwd=ROOT, text=True, capture_output=True)
    return (run.stdout + run.stderr).splitlines()


def check_failure_modes() -> list[str]:
    run = subprocess.run([sys.executable, "tools/check_failure_modes.py", "."], cwd=ROOT, text=True, capture_output=True)
    return run.stderr.splitlines()


def check_awaits() -> list[str]:
    """One co_await per statement, not inside a condition or ?:, and no braces or lambda in the awaited call."""
    found = []
    for path in sources(".h", ".cc"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("//")[0]
            if "co_await" not in code:
                continue
            awaited = code[code.index("co_await"):]
            where = f"{path.relative_to(ROOT)}:{number}"
            if code.count("co_await") > 1:
                found.append(f"{where}: one co_await per statement")
            elif re.search(r"\b(if|switch|while)\s*\(.*co_await", code) or "?" in code.split('"')[0] and ":" in awaited and "::" not in awaited:
                found.append(f"{where}: name the awaited result, then branch on it")
            elif re.search(r"co_await[^;]*\{[^}]+\}[^;]*\)", awaited) or re.search(r"co_await[^;]*\[[&=\w]*\]\s*\(", awaited):
                found.append(f"{where}: no braces or lambda in an awaited call; name the argument")
    return found


def check_mutations() -> list[str]:
    """A mutation whose code has changed is changed with it, not found when they all run."""
    found = []
    for path in sorted((ROOT / "tests" / "mutations").glob("*.patch")):
        run = subprocess.run(["git", "apply", "--check", str(path)], cwd=ROOT, text=True, capture_output=True)
        if run.returncode != 0:
            found.append(f"{path.relative_to(ROOT)}: {run.stderr.strip().splitlines()[0]}")
    return found


def check_tidy(build: pathlib.Path) -> list[str]:
    commands = {entry["file"] for entry in json.loads((build / "compile_commands.json").read_text())}
    config = hashlib.sha256((ROOT / ".clang-tidy").read_bytes())
    for header in sorted(sources(".h")):
        config.update(header.read_bytes())
    memory = ROOT / "build" / "lint"
    memory.mkdir(parents=True, exist_ok=True)

    def one(path: pathlib.Path) -> list[str]:
        digest = config.copy()
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
        done = memory / digest.hexdigest()
        if done.exists():
            return []
        run = subprocess.run(["clang-tidy-19", "-p", str(build), "--quiet", str(path)], cwd=ROOT, text=True, capture_output=True)
        lines = [line for line in run.stdout.splitlines() if re.search(r"(warning|error):", line)]
        if run.returncode == 0:
            done.touch()
        elif not lines:
            lines = [f"{path.relative_to(ROOT)}: clang-tidy failed: {run.stderr.strip().splitlines()[-1:]}"]
        return lines

    todo = [p for p in sources(".cc") if str(p) in commands and not p.name.endswith(("_test.cc", "_fuzz.cc", "_bench.cc"))]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [line for lines in pool.map(one, todo) for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    args = parser.parse_args()
    failed = False
    for name, check in (("format", check_format), ("layers", check_layers), ("limits", check_limits),
                        ("failure modes", check_failure_modes), ("awaits", check_awaits), ("mutations", check_mutations), ("tidy", lambda: check_tidy(args.build))):
        problems = check()
        print(f"lint: {name}: {'ok' if not problems else f'{len(problems)} problems'}", flush=True)
        for problem in sorted(set(problems)):
            print("  " + problem)
        failed = failed or bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
