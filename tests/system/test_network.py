"""P and D on two hosts, as far as their network is concerned: in two namespaces whose link is slow, loses and reorders packets, or drops
in the middle. Each request has a definite outcome and the bits of one instance, and no block is stranded."""
import random
import threading
import time
import unittest

from tests.system.cluster import Cluster, ask, free_ports
from tests.system.handovers import CONNECTORS, SEED, STRANDED_SECONDS, Asking, bits, body, random_ids, thick_model
from tests.system.network import Network, needs_namespaces

PROMPT_TOKENS = 96  # 12.6 MB of KV
FLAGS = ("--max-model-len", "2048", "--kv-cache-memory-bytes", "256M", "--no-enable-prefix-caching")
WORST = {"delay_s": 0.01, "jitter_s": 0.004, "loss": 0.01, "reorder": 0.02}


class Hosts:
    """P in one namespace, D in the other, and the proxy and a single instance at home."""

    def __init__(self, network: Network, cluster: Cluster, order: str, *flags: str):
        self.network, self.cluster = network, cluster
        cluster.environment["BATON_ADMIN_KEY"] = "of the tests"  # nobody asks over loopback
        cluster.headers = {"Authorization": "Bearer of the tests"}
        for name, side, role in (("P", "p", "kv_producer"), ("D", "d", "kv_consumer")):
            cluster.hosts[name], cluster.inside[name] = network.mgmt[side], network.inside(side)
            cluster.environments[name] = {"VLLM_HOST_IP": network.kv[side]}
            cluster.serve(name, role, *FLAGS, *flags, kv_port=free_ports(1)[0], connector=CONNECTORS[order])
        cluster.serve("single", None, *FLAGS)
        # D posts to the proxy's metaserver: it has to be told an address that it can reach.
        self.proxy = cluster.proxy("proxy", ["P"], ["D"], "--host", "0.0.0.0", "--advertise-host", network.homes["d"])

    def handovers(self, outcome: str) -> int:
        """D's counter: done or failed."""
        metrics = ask(self.cluster.ports["D"], "GET", "/metrics", host=self.cluster.host_of("D")).body.decode()
        return sum(int(float(line.split()[-1])) for line in metrics.splitlines()
                   if line.startswith("baton:handovers_total{") and f'outcome="{outcome}"' in line)

    def right(self, request: dict) -> list[dict]:
        return bits(ask(self.cluster.ports["single"], "POST", "/v1/completions", request).json()["choices"])

    def wait_all_free(self) -> None:
        for name in ("P", "D"):
            self.cluster.wait_all_free(name, STRANDED_SECONDS)


@needs_namespaces
class TwoHosts(unittest.TestCase):
    order = "pull"

    def begin(self, wired: bool, *flags: str) -> tuple[Hosts, Network]:
        print(f"BATON_TEST_SEED={SEED}", flush=True)
        self.draw = random.Random(f"{SEED} {self.id()}")
        network = self.enterContext(Network(SEED, wired))
        return Hosts(network, self.enterContext(Cluster(thick_model())), self.order, *flags), network

    def ask_all(self, hosts: Hosts, count: int, at_once: int) -> None:
        """Asks; every answer has the bits of one instance, and nothing is left."""
        requests = [body(random_ids(self.draw, self.draw.randrange(20, PROMPT_TOKENS))) for _ in range(count)]
        wanted = [hosts.right(request) for request in requests]
        for first in range(0, count, at_once):
            asked = [Asking(hosts.proxy, request) for request in requests[first:first + at_once]]
            for asking, right in zip(asked, wanted[first:]):
                found = asking.outcome()
                self.assertEqual((found.status, found.choices), (200, right), (found.text[:300], found.gone))
        hosts.wait_all_free()

    def test_two_hosts_with_one_boot_id_are_no_one_host(self):
        hosts, _ = self.begin(wired=False)
        self.ask_all(hosts, 8, 4)
        self.assertEqual(hosts.handovers("failed"), 0)
        self.assertIn("KV travels by tcp, authenticated", hosts.cluster.processes["D"].log + hosts.cluster.processes["P"].log)

    def test_a_slow_link(self):
        hosts, network = self.begin(wired=True)
        network.wire.rules(delay_s=0.02, jitter_s=0.005)
        self.ask_all(hosts, 4, 4)
        self.assertEqual(hosts.handovers("failed"), 0)

    def test_a_link_that_loses_and_reorders(self):
        hosts, network = self.begin(wired=True)
        network.wire.rules(**WORST)
        self.ask_all(hosts, 6, 3)
        self.assertGreater(network.wire.lost, 0)
        self.assertGreater(network.wire.overtaken, 0)

    def test_a_link_that_drops_in_the_middle_and_comes_back(self):
        for wired in (True, False):
            with self.subTest(wired=wired):
                hosts, network = self.begin(wired)
                if wired:
                    network.wire.rules(delay_s=0.005)
                self.ask_all(hosts, 2, 1)
                caught = 0
                for _ in range(2):
                    request = body(random_ids(self.draw, PROMPT_TOKENS * 4))
                    right = hosts.right(request)
                    asking = Asking(hosts.proxy, request)
                    while asking.is_alive() and hosts.cluster.blocks("D")["landing"] == 0:
                        time.sleep(0.001)
                    caught += asking.is_alive()
                    network.cut()
                    found = asking.outcome()
                    self.assertEqual((found.status, found.choices), (200, right), (found.text[:300], found.gone))
                    hosts.wait_all_free()
                    network.mend()
                self.assertGreater(caught, 0)
                self.assertGreater(hosts.handovers("failed"), 0)
                self.wait_for_hand_overs(hosts)
                self.doCleanups()

    def test_a_link_that_drops_again_and_again_under_load(self):
        hosts, network = self.begin(wired=True)
        network.wire.rules(delay_s=0.002)
        done = threading.Event()

        def drop():
            draw = random.Random(SEED)
            while not done.wait(draw.uniform(0.05, 1.0)):
                network.cut()
                done.wait(draw.choice([0.02, 0.3, 1.5]))
                network.mend()

        dropper = threading.Thread(target=drop)
        dropper.start()
        try:
            self.ask_all(hosts, 18, 3)
        finally:
            done.set()
            dropper.join()
        network.mend()
        self.wait_for_hand_overs(hosts)

    def wait_for_hand_overs(self, hosts: Hosts) -> None:
        """A link that is whole again is used again."""
        deadline = time.monotonic() + 30
        while True:
            before = hosts.handovers("done")
            self.ask_all(hosts, 1, 1)
            if hosts.handovers("done") > before:
                return
            self.assertLess(time.monotonic(), deadline, "no hand-over over the mended link")


class TwoHostsLayerByLayer(TwoHosts):
    order = "layerwise"


if __name__ == "__main__":
    unittest.main()
