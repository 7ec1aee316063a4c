"""Processes that die or freeze in the middle: the client gets a clear outcome, and the survivors have their blocks back."""
import secrets
import socket
import time
import unittest

from tests.system.cluster import Cluster, Stream, ask, free_ports

LONG = {"model": "test", "prompt": "What is a violin?", "max_tokens": 1500, "ignore_eos": True, "temperature": 0}
SHORT = {"model": "test", "prompt": "What is a violin? " * 30, "max_tokens": 12, "temperature": 0, "logprobs": 2, "seed": 1}
OUTCOME_SECONDS = 20  # a frozen instance is found by a probe: interval 0.5 s, timeout 2 s; the rest is margin


class Failures(unittest.TestCase):
    def setUp(self):
        self.cluster = self.enterContext(Cluster())
        for name in ("P1", "P2"):
            self.cluster.serve(name, "kv_producer")
        for name in ("D1", "D2"):
            self.cluster.serve(name, "kv_consumer")
        self.proxy = self.cluster.proxy("proxy", ["P1", "P2"], ["D1", "D2"], "--health-interval", "0.5")

    def by_port(self, address: str) -> str:
        return next(name for name, port in self.cluster.ports.items() if address.endswith(f":{port}"))

    def answer(self):
        found = ask(self.proxy, "POST", "/v1/completions", SHORT, timeout=OUTCOME_SECONDS)
        self.assertEqual(found.status, 200, found.body)
        return found.json()["choices"]

    def begun(self):
        """A stream that has brought its first event, and the name of the instance that decodes it."""
        stream = Stream(self.proxy, "/v1/completions", LONG, timeout=OUTCOME_SECONDS)
        events = iter(stream)
        next(events)
        return stream, events, self.by_port(stream.answer.getheader("X-Baton-Decode"))

    def wait_up(self, name: str):
        """Until a probe of the proxy has found an instance."""
        deadline = time.monotonic() + OUTCOME_SECONDS
        while True:
            instances = ask(self.proxy, "GET", "/healthcheck").json()["instances"]
            if any(i["health"] == "up" and i["address"].endswith(f":{self.cluster.ports[name]}") for i in instances):
                return
            self.assertLess(time.monotonic(), deadline, instances)
            time.sleep(0.05)

    def survivors_are_free(self, *dead: str):
        for name in {"P1", "P2", "D1", "D2"} - set(dead):
            self.cluster.wait_all_free(name)

    def goes_on(self, events):
        """The rest of a stream comes, to its end and without an error (test_resume.py looks at its bytes)."""
        rest = list(events)
        self.assertEqual(rest[-1], "[DONE]")
        self.assertFalse([event for event in rest[:-1] if "error" in event])

    def test_a_decode_instance_killed_mid_stream_is_replaced_and_others_go_on(self):
        before = self.answer()
        _, events, name = self.begun()
        self.cluster.processes[name].kill()
        self.goes_on(events)
        for _ in range(4):
            self.assertEqual(self.answer(), before)
        self.survivors_are_free(name)

    def test_a_decode_instance_frozen_mid_stream_is_replaced(self):
        _, events, name = self.begun()
        self.cluster.processes[name].freeze()
        self.goes_on(events)
        self.cluster.processes[name].thaw()
        self.survivors_are_free()

    def test_killed_and_frozen_prefill_instances_leave_right_answers(self):
        before = self.answer()
        self.cluster.processes["P1"].freeze()
        self.assertEqual([self.answer() for _ in range(3)], [before] * 3)
        self.cluster.processes["P1"].thaw()
        self.wait_up("P1")
        self.cluster.processes["P2"].kill()
        self.assertEqual([self.answer() for _ in range(3)], [before] * 3)
        self.survivors_are_free("P2")

    def test_a_proxy_killed_mid_stream_leaves_no_block_behind(self):
        self.begun()
        self.cluster.processes["proxy"].kill()
        self.survivors_are_free()

    def test_a_wrong_cluster_secret_means_a_prompt_computed_again_and_nothing_held(self):
        before = self.answer()
        other = self.cluster.folder / "other"
        other.write_text(secrets.token_hex(32))
        other.chmod(0o600)
        self.cluster.serve("D3", "kv_consumer", "--cluster-secret-file", str(other))
        proxy = self.cluster.proxy("proxy2", ["P1"], ["D3"])
        answer = ask(proxy, "POST", "/v1/completions", SHORT)
        self.assertEqual((answer.status, answer.json()["choices"]), (200, before))
        self.assertTrue(ask(self.cluster.ports["D3"], "GET", "/debug/requests").json()["recent"][0]["recomputed"])
        self.cluster.wait_all_free("D3")
        self.survivors_are_free()


class Leases(unittest.TestCase):
    def test_a_prefill_that_nobody_fetches_is_freed_by_its_lease_or_by_abort_request(self):
        with Cluster() as cluster:
            port = cluster.serve("P", "kv_producer", "--kv-lease-ms", "1500")
            body = {**SHORT, "max_tokens": 1, "min_tokens": 1, "kv_transfer_params": {
                "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None,
                "remote_host": None, "remote_port": None}}
            held = ask(port, "POST", "/v1/completions", body).json()["kv_transfer_params"]["remote_request_id"]
            self.assertGreater(cluster.blocks("P")["held"], 0)
            self.assertEqual(ask(port, "POST", "/abort_request", {"request_id": held}).status, 200)
            cluster.wait_all_free("P", 1)
            ask(port, "POST", "/v1/completions", body)
            self.assertGreater(cluster.blocks("P")["held"], 0)
            cluster.wait_all_free("P", 5)

    def test_garbage_at_the_side_channel_costs_nobody_anything(self):
        with Cluster() as cluster:
            side = free_ports(1)[0]
            cluster.serve("P", "kv_producer", kv_port=side)
            cluster.serve("D", "kv_consumer")
            proxy = cluster.proxy("proxy", ["P"], ["D"])
            for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70000, secrets.token_bytes(4096)):
                with socket.create_connection(("127.0.0.1", side), timeout=5) as peer:
                    try:
                        peer.sendall(garbage)
                    except OSError:
                        pass  # hung up on
            time.sleep(0.2)
            self.assertEqual(ask(proxy, "POST", "/v1/completions", SHORT).status, 200)
            self.assertEqual([r["recomputed"] for r in ask(cluster.ports["D"], "GET", "/debug/requests").json()["recent"]], [False])
            cluster.wait_all_free("P")
            cluster.wait_all_free("D")


if __name__ == "__main__":
    unittest.main()
