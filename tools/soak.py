#!/usr/bin/env python3
"""What takes too long for every change: the explorer of the hand-over's states to its full depth, simulated clusters
with faults for a third of the time with seeds that no run had before, real processes that are killed and stopped under
load for another third, every fuzz target for the rest. Prints one table; fails when any part does. The explorer runs beside the others and takes its own time, some minutes."""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

COLUMNS = "{:22} {:>8}  {:68} {}"


def explorer_row(output: str) -> str:
    states = [int(count) for count in re.findall(r"(\d+) states", output)]
    return f"{sum(states):,} states of {len(states)} small worlds"


def chaos_row(output: str) -> str:
    total = re.search(r"^all +(\d+) +(\d+) +(\d+)", output, re.MULTILINE)
    return f"{int(total[2]):,} requests, {int(total[3]):,} answered, {int(total[1]):,} seeds" if total else "?"


def storms_row(output: str) -> str:
    strikes = sum(int(count) for struck in re.findall(r"^storm .*?: \{(.*?)\}", output, re.MULTILINE) for count in re.findall(r": (\d+)", struck))
    outcomes = sum(int(count) for found in re.findall(r"outcomes \{(.*?)\}", output) for count in re.findall(r": (\d+)", found))
    return f"{outcomes:,} requests, {strikes:,} times a process was killed or stopped"


def fuzz_row(output: str) -> str:
    counts = [int(count) for count in re.findall(r"^\w+ +(\d+) +\d+ +\d+  ", output, re.MULTILINE)]
    return f"{sum(counts):,} executions of {len(counts)} targets"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=pathlib.Path, required=True)
    parser.add_argument("--fuzz", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=int, default=30)
    arguments = parser.parse_args()
    rows, failed = [], 0

    def end(name: str, begun: float, status: int, output: str, row) -> None:
        nonlocal failed
        rows.append((name, f"{time.monotonic() - begun:.0f}", row(output), "ok" if status == 0 else "FAILED"))
        if status != 0:
            failed += 1
            sys.stderr.write(f"soak: {name}\n{output[-4000:]}\n")

    def run(name: str, command: list[str], row, environment: dict[str, str] | None = None) -> None:
        print(f"soak: {name}", flush=True)
        begun = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                              env={**os.environ, **(environment or {})})
        end(name, begun, done.returncode, done.stdout, row)

    begun = time.monotonic()
    print("soak: explorer, beside the others", flush=True)
    explorer = subprocess.Popen([str(arguments.release / "src/transfer/baton_transfer_test"), "--gtest_brief=1", "--gtest_filter=Explorer/*"],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                env={**os.environ, "BATON_EXPLORER_DEEP": "1"})
    try:
        first = int(time.time()) * 1_000_000  # no seed twice
        run("chaos", [str(arguments.release / "tests/baton_chaos"), "--seed", str(first), "--seconds", str(arguments.minutes * 20)],
            chaos_row)
        run("storms", [sys.executable, "-m", "tests.system", "--baton", str(arguments.release / "baton"), "storms"], storms_row,
            {"BATON_STORM_SECONDS": str(arguments.minutes * 20), "BATON_TEST_SEED": str(int(time.time()))})
        targets = sum(1 for path in arguments.fuzz.rglob("fuzz_*") if path.is_file() and path.suffix == "")
        seconds = max(1, arguments.minutes * 20 // max(1, targets))
        run("fuzz", [sys.executable, "tools/fuzz.py", "--build", str(arguments.fuzz), "--seconds", str(seconds)], fuzz_row)
        output, _ = explorer.communicate()
        end("explorer", begun, explorer.returncode, output, explorer_row)
    finally:
        explorer.kill()
    print(COLUMNS.format("part", "seconds", "did", "result"))
    for row in rows:
        print(COLUMNS.format(*row))
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
