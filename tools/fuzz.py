#!/usr/bin/env python3
"""Runs every libFuzzer target of a fuzz build for some seconds each, from the seeds in tests/fuzz/NAME (and what the
target's own corpus in build/corpus/NAME has grown to), and prints executions and coverage. Fails on any finding."""
import argparse
import pathlib
import re
import subprocess
import sys


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("targets", nargs="*")
    args = parser.parse_args()
    found = sorted(p for p in args.build.rglob("fuzz_*") if p.is_file() and p.suffix == "")
    found = [p for p in found if not args.targets or p.name.removeprefix("fuzz_") in args.targets]
    if not found:
        print("fuzz: no targets in", args.build, file=sys.stderr)
        return 1
    print(f"{'target':28} {'executions':>12} {'edges':>8} {'seeds':>6}  result")
    failed = 0
    for target in found:
        name = target.name.removeprefix("fuzz_")
        seeds = pathlib.Path("tests/fuzz") / name
        corpus = pathlib.Path("build/corpus") / name
        corpus.mkdir(parents=True, exist_ok=True)
        directories = [str(corpus)] + ([str(seeds)] if seeds.is_dir() else [])
        command = [str(target), f"-max_total_time={args.seconds}", "-rss_limit_mb=4096", "-timeout=20", "-max_len=65536",
                   "-print_final_stats=1", f"-artifact_prefix=build/corpus/{name}-", *directories]
        run = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace")
        executions = re.search(r"stat::number_of_executed_units:\s+(\d+)", run.stderr)
        edges = re.findall(r"cov: (\d+)", run.stderr)
        seed_count = len(list(seeds.iterdir())) if seeds.is_dir() else 0
        print(f"{name:28} {executions[1] if executions else '?':>12} {edges[-1] if edges else '?':>8} {seed_count:>6}  "
              f"{'ok' if run.returncode == 0 else 'FAILED'}", flush=True)
        if run.returncode != 0:
            failed += 1
            sys.stderr.write(run.stderr[-4000:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
