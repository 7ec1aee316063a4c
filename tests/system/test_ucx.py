"""--kv-transport ucx between real processes, over UCX's shared memory and its TCP on loopback: the same bits, and nothing lost when
P or D is killed or frozen in the middle of a hand-over."""
import concurrent.futures
import json
import random
import unittest

from tests.system.cluster import Cluster, ask
from tests.system.handovers import CONNECTORS, SEED, Asking, Deployment, body, random_ids, thick_model
from tests.system.test_parity import differences, outcome, random_request

WAYS = {"shared memory": {"UCX_TLS": "posix,sysv"}, "tcp": {"UCX_TLS": "tcp", "UCX_NET_DEVICES": "lo"}}
UCX = ("--kv-transport", "ucx")
TRIES = 6  # to catch a hand-over in the middle
PROMPT_TOKENS = 600  # 79 MB of KV


class Bits(unittest.TestCase):
    requests = 40

    def check(self, way: str, order: str):
        print(f"BATON_TEST_SEED={SEED}", flush=True)
        draw = random.Random(f"{SEED} {way} {order}")
        with Cluster() as cluster:
            cluster.environment.update(WAYS[way])
            connector = CONNECTORS[order]
            cluster.serve("P", "kv_producer", *UCX, "--max-num-batched-tokens", "160", connector=connector)
            cluster.serve("D1", "kv_consumer", *UCX, connector=connector)
            cluster.serve("D2", "kv_consumer", *UCX, "--block-size", "48", connector=connector)
            single = cluster.serve("single")
            proxy = cluster.proxy("proxy", ["P"], ["D1", "D2"])
            requests = [random_request(draw, 4096) for _ in range(self.requests)]

            def both(request):
                return [ask(port, "POST", *request, timeout=120) for port in (proxy, single)]

            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                for (path, content), (through, alone) in zip(requests, pool.map(both, requests)):
                    streams = bool(content.get("stream"))
                    with self.subTest(path=path, body=json.dumps(content)[:600]):
                        found = differences(outcome(through, streams), outcome(alone, streams))
                        self.assertFalse(found, "\n".join(found[:6]))
            for name in ("D1", "D2"):
                recent = ask(cluster.ports[name], "GET", "/debug/requests").json()["recent"]
                self.assertTrue(any(r["remote"] and not r["recomputed"] for r in recent), f"{name} took no KV")
                self.assertEqual([r["request_id"] for r in recent if r["recomputed"]], [], cluster.processes[name].log[-3000:])
            for name in ("P", "D1", "D2"):
                self.assertIn("without an RDMA port", cluster.processes[name].log)
                cluster.wait_all_free(name)

    def test_pull_over_shared_memory(self):
        self.check("shared memory", "pull")

    def test_pull_over_tcp(self):
        self.check("tcp", "pull")

    def test_layer_by_layer_over_shared_memory(self):
        self.check("shared memory", "layerwise")

    def test_layer_by_layer_over_tcp(self):
        self.check("tcp", "layerwise")


class MidHandover(unittest.TestCase):
    def strike(self, victim_role: str, how: str):
        """Kills or freezes the P or D of a hand-over under way. True if it was under way; the request's outcome is checked."""
        deployment, draw = self.deployment, self.draw
        request = body(random_ids(draw, PROMPT_TOKENS))
        wanted = deployment.right(request)
        asking = Asking(deployment.proxy, request)
        decoder = deployment.wait_landing(asking)
        if not decoder:
            return False
        victim = decoder if victim_role == "D" else deployment.busy_prefill()
        if not victim:
            asking.outcome()
            return False
        before = deployment.cluster.debug(decoder)["kv_blocks"]["landing"]
        process = deployment.cluster.processes[victim]
        process.kill() if how == "kill" else process.freeze()
        found = asking.outcome()
        self.assertEqual((found.status, found.choices), (200, wanted), (victim, how, found.text[:400], found.gone))
        deployment.wait_all_free(victim)
        if how == "freeze":
            process.thaw()
        else:
            deployment.begin(victim)
        deployment.wait_up(victim)
        deployment.wait_all_free()
        for _ in range(2):  # what the one that came back still wrote or read has changed nothing
            again = Asking(deployment.proxy, request).outcome()
            self.assertEqual((again.status, again.choices), (200, wanted))
        return before > 0

    def check(self, way: str, order: str):
        print(f"BATON_TEST_SEED={SEED}", flush=True)
        self.draw = random.Random(f"{SEED} {way} {order}")
        with Cluster(thick_model()) as cluster:
            cluster.environment.update(WAYS[way])
            cluster.flags = ("--max-model-len", "2048", "--kv-cache-memory-bytes", "512M")
            self.deployment = Deployment(cluster, order, *UCX)
            for role in ("P", "D"):
                for how in ("kill", "freeze"):
                    with self.subTest(way=way, order=order, role=role, how=how):
                        self.assertTrue(any(self.strike(role, how) for _ in range(TRIES)), "no hand-over was caught in the middle")
            self.deployment.wait_all_free()

    def test_pull_over_shared_memory(self):
        self.check("shared memory", "pull")

    def test_pull_over_tcp(self):
        self.check("tcp", "pull")

    def test_layer_by_layer_over_shared_memory(self):
        self.check("shared memory", "layerwise")

    def test_layer_by_layer_over_tcp(self):
        self.check("tcp", "layerwise")


if __name__ == "__main__":
    unittest.main()
