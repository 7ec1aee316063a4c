"""Hand-overs that last long enough to be caught in the middle, and what must be true whatever happens to them."""
import atexit
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import threading
import time

from tests.system import cluster as cluster_module
from tests.system.cluster import READY_SECONDS, ROOT, Cluster, ask

SEED = int(os.environ.get("BATON_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
CONNECTORS = {"pull": "MooncakeConnector", "layerwise": "MooncakeLayerwiseConnector"}
# A second of silence ends a peer, 200 ms later nothing of it is kept; the rest is what a loaded machine may take.
STRANDED_SECONDS = 1.2 + 4
PATIENCE = 60
VOCABULARY = 100_000
_thick: pathlib.Path | None = None


def thick_model() -> str:
    """Computes like a tiny model and has 128 KiB of KV per token. Made once per run."""
    global _thick
    if _thick is None:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="baton-thick-"))
        atexit.register(shutil.rmtree, folder, True)
        subprocess.run([cluster_module.BATON, "random-checkpoint", "thick-kv", str(folder / "model"), "--tokenizer",
                        str(ROOT / "tests/golden/tokenizers/qwen3")], check=True, capture_output=True)
        _thick = folder / "model"
    return str(_thick)


def body(prompt: list[int], max_tokens: int = 6, **more) -> dict:
    return {"model": "test", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "logprobs": 1,
            "return_token_ids": True, **more}


def random_ids(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(1000, VOCABULARY) for _ in range(count)]


def bits(choices: list[dict]) -> list[dict]:
    """What of an answer must be equal."""
    return [{key: choice.get(key) for key in ("text", "token_ids", "logprobs", "finish_reason")} for choice in choices]


class Asking(threading.Thread):
    """One request on its way; ends with `status` and `choices`, or with `gone` if nobody answers any more."""

    def __init__(self, port: int, request: dict):
        super().__init__(daemon=True)
        self.port, self.request = port, request
        self.status, self.choices, self.text, self.gone = 0, None, b"", ""
        self.start()

    def run(self):
        try:
            answer = ask(self.port, "POST", "/v1/completions", self.request, timeout=PATIENCE)
            self.status, self.text = answer.status, answer.body
            if answer.status == 200:
                self.choices = bits(answer.json()["choices"])
        except OSError as error:
            self.gone = str(error)

    def outcome(self) -> "Asking":
        self.join(PATIENCE)
        if self.is_alive():
            raise AssertionError(f"no outcome after {PATIENCE} s")
        return self


class Deployment:
    """Two P, two D and their proxy in one order, and a single instance that knows the right answers."""

    def __init__(self, cluster: Cluster, order: str, *flags: str):
        self.cluster, self.order, self.flags = cluster, order, flags
        self.kv_ports: dict[str, int] = {}
        self.wanted: dict[tuple, list[dict]] = {}
        for name in ("P1", "P2", "D1", "D2"):
            self.kv_ports[name] = cluster_module.free_ports(1)[0]
            self.begin(name)
        cluster.serve("single")
        self.proxy = cluster.proxy("proxy", ["P1", "P2"], ["D1", "D2"], "--health-interval", "0.3")

    def begin(self, name: str, wait: bool = True) -> None:
        """Starts an instance, or starts it again where it was."""
        self.cluster.serve(name, "kv_producer" if name[0] == "P" else "kv_consumer", *self.flags, wait=wait,
                           port=self.cluster.ports.get(name), kv_port=self.kv_ports[name], connector=CONNECTORS[self.order])

    def right(self, request: dict) -> list[dict]:
        """The bits of one instance."""
        key = tuple(request["prompt"])
        if key not in self.wanted:
            answer = ask(self.cluster.ports["single"], "POST", "/v1/completions", request, timeout=PATIENCE)
            assert answer.status == 200, answer.body
            self.wanted[key] = bits(answer.json()["choices"])
        return self.wanted[key]

    def wait_landing(self, asking: Asking) -> str:
        """The D that a peer is filling; empty if the request was over before it was seen."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and asking.is_alive():
            for name in ("D1", "D2"):
                if self.cluster.blocks(name)["landing"] > 0:
                    return name
        return ""

    def busy_prefill(self) -> str:
        """The P that holds or computes something."""
        for name in ("P1", "P2"):
            state = self.cluster.debug(name)
            if state["kv_blocks"]["held"] > 0 or state["requests"]:
                return name
        return ""

    def wait_up(self, *names: str) -> None:
        """Until the proxy sends requests there again."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            instances = ask(self.proxy, "GET", "/healthcheck").json()["instances"]
            up = [i["address"].rsplit(":", 1)[1] for i in instances if i["health"] == "up"]
            if all(str(self.cluster.ports[name]) in up for name in names):
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"{names} are not up: {instances}")
            time.sleep(0.05)

    def wait_all_free(self, *dead: str) -> None:
        for name in ("P1", "P2", "D1", "D2"):
            if name not in dead:
                self.cluster.wait_all_free(name, STRANDED_SECONDS)
