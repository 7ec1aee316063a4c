#!/usr/bin/env python3
"""Breaks one promise after the other in a copy of the sources; some test must notice each time.

Every NAME.patch beside this file is a unified diff that begins with lines of prose (the promise that it breaks) and two
more: `Target:`, what ninja has to build, and `Test:`, the command that has to fail, relative to the build directory.
A named test first has to pass on the unbroken copy. A mutant that does not compile proves nothing and counts as failed,
and so does one that survives or whose patch no longer applies: change the patch with the code that it mutates."""
import argparse
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "build" / "mutations"
SOURCE, BUILD = WORK / "src", WORK / "build"
COPIED = ["CMakeLists.txt", "CMakePresets.json", "ARCHITECTURE.md", "cmake", "src", "tests/CMakeLists.txt", "tests/simulation", "tests/traces",
          "tools"]
LINKED = ["models", "tests/golden", "tests/fuzz", "docs"]
TEST_SECONDS_MAX = 300  # of the unbroken sources
MUTANT_SECONDS_MIN = 60  # a mutant may hang; that is noticed after so long, or three times what its test takes unbroken
JOBS = "2"


class Patch:
    def __init__(self, path: pathlib.Path):
        self.path, self.name = path, path.stem
        text = path.read_text()
        head = text[: text.index("\n--- ") + 1] if "\n--- " in text else text
        fields = dict(re.findall(r"^(Target|Test): (.+)$", head, re.MULTILINE))
        if set(fields) != {"Target", "Test"}:
            raise SystemExit(f"mutations: {path.name}: expected a `Target:` and a `Test:` line before the diff")
        self.promise = " ".join(line for line in head.splitlines() if line and not re.match("(Target|Test): ", line))
        self.targets = fields["Target"].split()
        self.test = shlex.split(fields["Test"])
        self.files = re.findall(r"^--- a/(\S+)", text, re.MULTILINE)


def copy_sources() -> None:
    """The working tree as it is, written only where it differs so that ninja builds only what changed."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z", *COPIED], cwd=ROOT, capture_output=True, check=True)
    names = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    for name in names:
        target, data = SOURCE / name, (ROOT / name).read_bytes()
        if not target.is_file() or target.read_bytes() != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod((ROOT / name).stat().st_mode)
    for name in LINKED:
        if (ROOT / name).is_dir() and not (SOURCE / name).is_symlink():
            (SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
            (SOURCE / name).symlink_to(ROOT / name)
    for folder, _, files in os.walk(SOURCE):
        for file in files:
            path = pathlib.Path(folder, file)
            if not path.is_symlink() and str(path.relative_to(SOURCE)) not in names:
                path.unlink()


def run(command: list[str], cwd: pathlib.Path, seconds: float | None = None) -> tuple[int, str]:
    """Exit code and output; 124 when it takes too long."""
    # git must take the copy for a plain folder, not for a part of the repository around it.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(WORK), "NINJA_STATUS": "[%f/%t %es] "}
    child = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    try:
        output, _ = child.communicate(timeout=seconds)
        return child.returncode, output.decode(errors="replace")
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
        return 124, output.decode(errors="replace")


def build(targets: list[str]) -> tuple[int, str]:
    return run(["ninja", "--quiet", "-j", JOBS, *targets], BUILD)


def configure() -> None:
    if not (BUILD / "build.ninja").exists():
        status, output = run(["cmake", "--preset", "dev", "-S", str(SOURCE), "-B", str(BUILD), "-DBATON_SANITIZE=", "-DCMAKE_CXX_FLAGS=-O1"], SOURCE)
        if status != 0:
            raise SystemExit(f"{output}\nmutations: the copy of the sources cannot be configured")


def test_command(patch: Patch) -> list[str]:
    return [str(BUILD / patch.test[0]), "--gtest_brief=1", *patch.test[1:]]


def check_unbroken(patches: list[Patch]) -> tuple[dict[str, str], dict[str, float]]:
    """What is wrong with each patch whose named test does not pass before anything is broken; how long a mutant of each may run."""
    status, output = build(sorted({target for patch in patches for target in patch.targets}))
    if status != 0:
        raise SystemExit(f"{output}\nmutations: the unbroken sources do not build")
    verdicts: dict[tuple[str, ...], str] = {}
    limits: dict[tuple[str, ...], float] = {}
    for patch in patches:
        key = tuple(patch.test)
        if key in verdicts:
            continue
        began = time.monotonic()
        status, output = run(test_command(patch), BUILD, TEST_SECONDS_MAX)
        limits[key] = max(MUTANT_SECONDS_MIN, 3 * (time.monotonic() - began))
        ran = re.search(r"\[  PASSED  \] (\d+) test", output)
        if status != 0:
            verdicts[key] = f"its test fails on the unbroken sources ({status}):\n{output[-2000:]}"
        elif not ran or ran.group(1) == "0":
            verdicts[key] = "its filter names no test"
        else:
            verdicts[key] = ""
    wrong = {patch.name: verdicts[tuple(patch.test)] for patch in patches if verdicts[tuple(patch.test)]}
    return wrong, {patch.name: limits[tuple(patch.test)] for patch in patches}


def noticed_by(status: int, output: str, seconds: float) -> str:
    failed = list(dict.fromkeys(re.findall(r"\[  FAILED  \] (\w[\w/]*\.[\w/]+)", output)))
    if failed:
        return ", ".join(failed[:2]) + (f" and {len(failed) - 2} more" if len(failed) > 2 else "")
    if status == 124:
        return f"no end after {seconds:.0f} s"
    died = re.findall(r"CHECK|Sanitizer|Segmentation", output)
    return f"the test died ({status}{', ' + died[0] if died else ''})"


def try_mutant(patch: Patch, seconds: float) -> tuple[bool, str]:
    originals = {file: (SOURCE / file).read_bytes() for file in patch.files if (SOURCE / file).is_file()}
    status, output = run(["git", "apply", str(patch.path)], SOURCE)
    if status != 0:
        return False, f"does not apply: {output.strip().splitlines()[0] if output.strip() else status}"
    try:
        if all((SOURCE / file).read_bytes() == data for file, data in originals.items()):
            return False, "does not apply: it changes nothing"
        status, output = build(patch.targets)
        if status != 0:
            return False, f"does not compile:\n{output[-2000:]}"
        status, output = run(test_command(patch), BUILD, seconds)
        return (True, noticed_by(status, output, seconds)) if status != 0 else (False, "SURVIVED")
    finally:
        for file, data in originals.items():
            (SOURCE / file).write_bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these patches")
    parser.add_argument("--list", action="store_true", help="print the patches and what they break")
    arguments = parser.parse_args()
    patches = [Patch(path) for path in sorted(HERE.glob("*.patch")) if not arguments.names or path.stem in arguments.names]
    if arguments.list:
        print("\n".join(f"{patch.name}: {patch.promise}" for patch in patches))
        return 0
    if not patches:
        raise SystemExit(f"mutations: no such patch: {' '.join(arguments.names)}")
    began = time.monotonic()
    copy_sources()
    configure()
    wrong, limits = check_unbroken(patches)
    print(f"mutations: the unbroken copy builds and {len(patches) - len(wrong)} of {len(patches)} named tests pass, "
          f"{time.monotonic() - began:.0f} s", flush=True)
    failed = 0
    for patch in patches:
        start = time.monotonic()
        good, verdict = (False, wrong[patch.name]) if patch.name in wrong else try_mutant(patch, limits[patch.name])
        failed += not good
        print(f"{'caught' if good else 'FAILED':8}{patch.name:42}{time.monotonic() - start:5.0f} s  {verdict}", flush=True)
    print(f"{len(patches) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
