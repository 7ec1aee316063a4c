"""Processes killed and stopped at random moments under load, for BATON_STORM_SECONDS (20 in all; `./dev soak` has minutes). The seed is
printed and repeats the draws; moments are those of real time."""
import http.client
import os
import random
import threading
import time
import unittest

from tests.system.cluster import Cluster, Stream, ask
from tests.system.handovers import PATIENCE, SEED, Deployment, bits, body, random_ids

SECONDS = float(os.environ.get("BATON_STORM_SECONDS", "20"))
FLAGS = ("--max-model-len", "2048", "--kv-cache-memory-bytes", "64M")
PROMPTS = 24
CLIENTS = 6


class Client(threading.Thread):
    """Asks one request after the other, whole or streamed, and notes what became of each."""

    def __init__(self, deployment: Deployment, requests: list[dict], seed: str, until: float):
        super().__init__(daemon=True)
        self.deployment, self.requests, self.draw, self.until = deployment, requests, random.Random(seed), until
        self.counts: dict[str, int] = {}
        self.wrong: list[str] = []
        self.start()

    def run(self):
        while time.monotonic() < self.until:
            request = self.draw.choice(self.requests)
            begun = time.monotonic()
            try:
                outcome = self.stream(request) if self.draw.random() < 0.5 else self.whole(request)
            except (OSError, http.client.HTTPException) as error:
                outcome = "gone"
                if not self.deployment.proxy_killed:
                    self.wrong.append(f"an answer that ends in the middle: {error!r}")
            if time.monotonic() - begun > PATIENCE:
                self.wrong.append(f"{time.monotonic() - begun:.0f} s without an outcome")
            self.counts[outcome] = self.counts.get(outcome, 0) + 1
            if outcome != "answered":
                time.sleep(0.05)

    def compare(self, found: list[dict], request: dict) -> str:
        if found != self.deployment.right(request):
            self.wrong.append(f"an answer that differs: {found} of {request['prompt'][:8]}")
        return "answered"

    def whole(self, request: dict) -> str:
        answer = ask(self.deployment.proxy, "POST", "/v1/completions", request, timeout=PATIENCE)
        if answer.status == 200:
            return self.compare(bits(answer.json()["choices"]), request)
        if "error" not in answer.json():
            self.wrong.append(f"{answer.status} without an error: {answer.body[:200]}")
        return str(answer.status)

    def stream(self, request: dict) -> str:
        stream = Stream(self.deployment.proxy, "/v1/completions", request, timeout=PATIENCE)
        if stream.status != 200:
            stream.answer.read()
            return str(stream.status)
        ids: list[int] = []
        last = None
        for event in stream:
            last = event
            if event == "[DONE]" or "error" in event:
                break
            for choice in event["choices"]:
                ids += choice.get("token_ids") or []
        right = self.deployment.right(request)[0]["token_ids"]
        if ids != right[:len(ids)]:
            self.wrong.append(f"a stream that differs: {ids}, expected {right}")
        if last == "[DONE]":
            if ids != right:
                self.wrong.append(f"a stream that ends early: {ids}, expected {right}")
            return "answered"
        if last is not None and "error" in last:
            return "error event"
        if not self.deployment.proxy_killed:
            self.wrong.append(f"a stream that ends without a word after {ids}")
        return "gone"


class Storms(unittest.TestCase):
    def blow(self, order: str, seconds: float, *flags: str):
        draw = random.Random(f"{SEED} {order} {flags}")
        print(f"BATON_TEST_SEED={SEED}", flush=True)
        with Cluster() as cluster:
            cluster.flags = FLAGS
            deployment = Deployment(cluster, order, *flags)
            deployment.proxy_killed = False
            requests = [body([2 + token % 4000 for token in random_ids(draw, draw.choice([5, 40, 200, 700]))], draw.choice([1, 8, 40]))
                        for _ in range(PROMPTS)]
            for request in requests:
                deployment.right(request)
            until = time.monotonic() + seconds
            clients = [Client(deployment, requests, f"{SEED} {i}", until) for i in range(CLIENTS)]
            struck: dict[str, int] = {}
            while time.monotonic() < until:
                time.sleep(draw.uniform(0.05, 0.6))
                self.strike(deployment, draw, struck)
            for client in clients:
                client.join(PATIENCE)
                self.assertFalse(client.is_alive(), f"a request without an outcome after {PATIENCE} s")
            counts: dict[str, int] = {}
            for client in clients:
                for outcome, count in client.counts.items():
                    counts[outcome] = counts.get(outcome, 0) + count
            print(f"storm {order} {' '.join(flags)}: {struck}; outcomes {counts}", flush=True)
            self.assertEqual([wrong for client in clients for wrong in client.wrong][:5], [])
            self.assertGreater(counts.get("answered", 0), 0)
            deployment.wait_up("P1", "P2", "D1", "D2")
            deployment.wait_all_free()
            for request in requests:
                answer = ask(deployment.proxy, "POST", "/v1/completions", request, timeout=PATIENCE)
                self.assertEqual((answer.status, bits(answer.json()["choices"])), (200, deployment.right(request)))
            deployment.wait_all_free()

    def strike(self, deployment: Deployment, draw: random.Random, struck: dict[str, int]) -> None:
        """One process is killed and started again, or stopped for a while. At most one at a time, so that somebody can answer."""
        cluster, victim = deployment.cluster, draw.choice(["P1", "P2", "D1", "D2", "P1", "P2", "D1", "D2", "proxy"])
        how = draw.choice(["kill", "stop"])
        what = f"{how} {victim.rstrip('12')}"
        struck[what] = struck.get(what, 0) + 1
        process = cluster.processes[victim]
        if how == "stop":
            process.freeze()
            time.sleep(draw.choice([0.05, 0.4, 1.3, 2.5]))
            process.thaw()
        elif victim == "proxy":
            deployment.proxy_killed = True
            process.kill()
            deployment.proxy = cluster.proxy("proxy", ["P1", "P2"], ["D1", "D2"], "--health-interval", "0.3")
            time.sleep(0.5)  # streams of the one that was killed have ended
            deployment.proxy_killed = False
        else:
            self.assertIsNone(process.child.poll(), process.log[-2000:])
            process.kill()
            deployment.begin(victim)

    def test_pull_on_one_host(self):
        self.blow("pull", SECONDS / 5)

    def test_pull_over_tcp(self):
        self.blow("pull", SECONDS / 5, "--kv-transport", "tcp")

    def test_layer_by_layer_on_one_host(self):
        self.blow("layerwise", SECONDS / 5)

    def test_layer_by_layer_over_tcp(self):
        self.blow("layerwise", SECONDS / 5, "--kv-transport", "tcp")

    def test_layer_by_layer_over_ucx(self):
        self.blow("layerwise", SECONDS / 5, "--kv-transport", "ucx")


if __name__ == "__main__":
    unittest.main()
