"""Runs the system tests: the real binary, many processes, loopback only. `python3 -m tests.system --baton PATH [PATTERN]`."""
import argparse
import pathlib
import sys
import unittest

from tests.system import cluster


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baton", required=True)
    parser.add_argument("pattern", nargs="?", default="*", help="only test files test_PATTERN.py")
    args = parser.parse_args()
    cluster.BATON = str(pathlib.Path(args.baton).resolve())
    here = pathlib.Path(__file__).parent
    suite = unittest.defaultTestLoader.discover(str(here), pattern=f"test_{args.pattern}.py", top_level_dir=str(here.parent.parent))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    failed = len(result.failures) + len(result.errors)
    print(f"system: {result.testsRun - failed - len(result.skipped)} passed, {failed} failed, {len(result.skipped)} skipped")
    return 0 if result.wasSuccessful() and result.testsRun > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
