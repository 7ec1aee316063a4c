"""Runs every check against both doors; tests/clients/run.py starts it with the libraries that it needs."""
import argparse
import asyncio
import inspect
import sys
import time
import traceback

from tests.clients import curl, langchain, openai_async, openai_sync, prometheus  # noqa: F401  they register their checks
from tests.clients.doors import CHECKS, Doors, label
from tests.system import cluster

CHECK_SECONDS_MAX = 120


def run(function, door) -> str:
    """Nothing, or what went wrong."""
    try:
        result = function(door)
        if inspect.iscoroutine(result):
            asyncio.run(asyncio.wait_for(result, CHECK_SECONDS_MAX))
        return ""
    except Exception:  # whatever a client library raises is a failed check
        return traceback.format_exc(limit=-4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baton", required=True)
    parser.add_argument("pattern", nargs="?", default="")
    arguments = parser.parse_args()
    cluster.BATON = arguments.baton
    passed, failed = 0, []
    with Doors() as doors:
        for door in doors.open():
            for function in CHECKS:
                name = f"{door.name}: {label(function)}"
                if arguments.pattern not in name:
                    continue
                start = time.monotonic()
                wrong = run(function, door)
                print(f"{'FAILED' if wrong else 'ok':8}{name:62}{time.monotonic() - start:6.2f} s", flush=True)
                if wrong:
                    failed.append(name)
                    print(wrong, flush=True)
                passed += not wrong
        for name, process in doors.processes.items():
            if process.child.poll() is not None:
                failed.append(f"{name} ended with {process.child.returncode}")
                print(f"FAILED  {failed[-1]}:\n{process.log[-3000:]}")
    print(f"clients: {passed} passed, {len(failed)} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
