#!/usr/bin/env python3
"""Real client libraries against the real binary: `tests/clients/run.py --baton PATH [PATTERN]`.

Installs the libraries of requirements.txt into build/clients-venv (once per change of that file), then runs the checks of
this folder there, each against both doors: one instance, and the proxy before two prefill and two decode instances."""
import argparse
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VENV = ROOT / "build" / "clients-venv"
PYTHON = VENV / "bin" / "python"
PIP_SECONDS = 300


def prepare() -> None:
    requirements = HERE / "requirements.txt"
    stamp, wanted = VENV / "requirements.sha256", hashlib.sha256(requirements.read_bytes()).hexdigest()
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], text=True, capture_output=True)
    if made.returncode != 0:
        raise SystemExit(f"{made.stdout}{made.stderr}\nclients: python3 cannot make a virtual environment; is the package python3-venv installed? "
                         "`./dev setup` installs it")
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--retries", "1", "--timeout", "20"]
    try:
        got = subprocess.run([*pip, "-r", str(requirements)], text=True, capture_output=True, timeout=PIP_SECONDS)
        output, failed = got.stdout + got.stderr, got.returncode != 0
    except subprocess.TimeoutExpired:
        output, failed = f"pip did not end within {PIP_SECONDS} s\n", True
    if failed:
        raise SystemExit(f"{output[-3000:]}\nclients: the client libraries of tests/clients/requirements.txt could not be installed; "
                         "this stage needs PyPI (or a mirror named in PIP_INDEX_URL)")
    stamp.write_text(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baton", required=True, help="the binary")
    parser.add_argument("pattern", nargs="?", default="", help="only checks whose name contains this")
    arguments = parser.parse_args()
    baton = pathlib.Path(arguments.baton).resolve()
    if not os.access(baton, os.X_OK):
        raise SystemExit(f"clients: --baton {baton}: no such program; `./dev build` makes build/release/baton")
    prepare()
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execv(PYTHON, [str(PYTHON), "-m", "tests.clients", "--baton", str(baton), arguments.pattern])


if __name__ == "__main__":
    main()
