"""The two doors that every check knocks at, and the list of checks."""
import dataclasses
import inspect

from tests.system.cluster import Cluster

KEY = "client-key"
QUESTION = "What is a violin?"
ENDLESS = 3000  # tokens of an answer that the client leaves


@dataclasses.dataclass
class Door:
    name: str
    port: int
    instances: list[str]  # whose blocks must all come back
    cluster: Cluster

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_all_free(self) -> None:
        for name in self.instances:
            self.cluster.wait_all_free(name)


class Doors(Cluster):
    """One instance, and two prefill and two decode instances behind a proxy. Both doors ask for KEY."""

    def open(self) -> list[Door]:
        single = self.serve("single", None, "--api-key", KEY, wait=False)
        pairs = {"P1": "kv_producer", "P2": "kv_producer", "D1": "kv_consumer", "D2": "kv_consumer"}
        for name, role in pairs.items():
            self.serve(name, role, wait=False)
        for name in ["single", *pairs]:
            self.wait_ready(name)
        proxy = self.proxy("proxy", ["P1", "P2"], ["D1", "D2"], "--api-key", KEY)
        return [Door("single", single, ["single"], self), Door("proxy", proxy, list(pairs), self)]

    def wait_ready(self, name: str, path: str = "/health") -> None:
        super().wait_ready(name, "/health")  # /v1/models asks for the key


CHECKS: list = []


def check(function):
    """A check takes a Door and raises if it finds something wrong. It may be a coroutine."""
    CHECKS.append(function)
    return function


def label(function) -> str:
    return f"{inspect.getmodule(function).__name__.rsplit('.', 1)[-1]}.{function.__name__}"


def expect(condition: bool, what: str, *values) -> None:
    if not condition:
        raise AssertionError(what + "".join(f"\n    {value!r}" for value in values))


def equal(found, expected, what: str) -> None:
    expect(found == expected, f"{what}: found, then expected", found, expected)
