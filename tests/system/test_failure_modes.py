"""Failures that need real processes and that no other file here provokes: what docs/failure-modes.md says of them holds."""
import http.client
import json
import subprocess
import threading
import time
import unittest

from tests.system import cluster as cluster_module
from tests.system.cluster import MODEL, READY_SECONDS, Cluster, Process, ask, free_ports
from tests.system.fake_engine import FakeEngine, Whole

PATIENCE = 60
TO_P = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None, "remote_host": None,
        "remote_port": None}
BODY = {"model": "test", "prompt": "What is a violin? " * 30, "max_tokens": 12, "temperature": 0, "logprobs": 2, "seed": 1}


def held_by(port: int, body: dict, headers: dict[str, str] | None = None) -> dict:
    """P's half of a request as any pull proxy asks for it: the body for D."""
    of_p = ask(port, "POST", "/v1/completions", {**body, "max_tokens": 1, "min_tokens": 1, "kv_transfer_params": TO_P}, headers)
    assert of_p.status == 200, of_p.body
    return {**body, "kv_transfer_params": of_p.json()["kv_transfer_params"]}


def recent(port: int) -> list[dict]:
    return ask(port, "GET", "/debug/requests").json()["recent"]


class Pulls(unittest.TestCase):
    def setUp(self):
        self.cluster = self.enterContext(Cluster())

    def test_p_and_d_may_know_a_request_by_different_names(self):
        p, d = self.cluster.serve("P", "kv_producer"), self.cluster.serve("D", "kv_consumer")
        to_d = held_by(p, BODY, {"X-Request-Id": "as P calls it"})
        answer = ask(d, "POST", "/v1/completions", to_d, {"X-Request-Id": "as D calls it"})
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual([(r["remote"], r["recomputed"]) for r in recent(d)], [(True, False)])
        self.cluster.wait_all_free("P")
        self.cluster.wait_all_free("D")

    def test_a_d_that_refuses_what_p_holds_leaves_it_to_the_lease(self):
        p = self.cluster.serve("P", "kv_producer", "--kv-lease-ms", "1500")
        d = self.cluster.serve("D", "kv_consumer", "--max-model-len", "256")
        answer = ask(d, "POST", "/v1/completions", held_by(p, {**BODY, "prompt": "word " * 400}))
        self.assertEqual(answer.status, 400)
        self.assertIn("256", answer.json()["error"]["message"])
        self.assertGreater(self.cluster.blocks("P")["held"], 0)
        self.cluster.wait_all_free("P")
        self.cluster.wait_all_free("D")

    def test_a_p_that_was_taken_for_dead_is_reached_anew(self):
        p, d = self.cluster.serve("P", "kv_producer"), self.cluster.serve("D", "kv_consumer", "--no-enable-prefix-caching")
        wanted = ask(p, "POST", "/v1/completions", BODY).json()["choices"]
        found = []
        for frozen in (False, True, False):
            to_d = held_by(p, BODY)
            if frozen:
                self.cluster.processes["P"].freeze()
            answer = ask(d, "POST", "/v1/completions", to_d, timeout=PATIENCE)
            self.cluster.processes["P"].thaw()
            self.assertEqual((answer.status, answer.json()["choices"]), (200, wanted))
            found.append(answer.headers.get("x-baton-kv-unused"))
        self.assertEqual(found, [None, "1", None])
        self.cluster.wait_all_free("P", PATIENCE)
        self.cluster.wait_all_free("D", PATIENCE)

    def test_a_side_channel_port_that_another_instance_has_ends_the_second_at_once(self):
        kv_port = free_ports(1)[0]
        self.cluster.serve("P", "kv_producer", kv_port=kv_port)
        self.cluster.serve("Q", "kv_producer", kv_port=kv_port, wait=False)
        second = self.cluster.processes["Q"]
        self.assertEqual(second.child.wait(READY_SECONDS), 1, second.log)
        self.assertIn(f"port {kv_port}", second.log)
        self.assertIn(f"pid {self.cluster.processes['P'].child.pid}", second.log)

    def test_connectors_that_are_not_built_in_are_refused_by_name(self):
        for name in ("MultiConnector", "MooncakeHybridConnector"):
            config = json.dumps({"kv_connector": name, "kv_role": "kv_producer"})
            run = subprocess.run([cluster_module.BATON, "serve", MODEL, "--kv-transfer-config", config], capture_output=True, text=True, timeout=PATIENCE)
            self.assertEqual(run.returncode, 2, run.stderr)
            self.assertIn(f"kv_connector: {name}, expected one of", run.stderr)


class SmallCache(unittest.TestCase):
    def test_answers_that_outgrow_ds_cache_together_all_end_with_the_bits_of_one_instance(self):
        flags = ("--max-model-len", "512", "--no-enable-prefix-caching")
        with Cluster() as cluster:
            p = cluster.serve("P", "kv_producer", *flags)
            d = cluster.serve("D", "kv_consumer", *flags, "--kv-cache-memory-bytes", "560K", "--max-num-seqs", "8",
                              "--additional-config", '{"recompute_scheduler_enable": true}')
            proxy = cluster.proxy("proxy", ["P"], ["D"], ready="/health")
            bodies = [{**BODY, "prompt": f"{i}: What is a violin?", "max_tokens": 150, "ignore_eos": True, "seed": i} for i in range(8)]
            wanted = [ask(p, "POST", "/v1/completions", body, timeout=PATIENCE).json()["choices"] for body in bodies]
            found: dict[int, tuple] = {}

            def one(i: int):
                answer = ask(proxy, "POST", "/v1/completions", bodies[i], timeout=PATIENCE)
                found[i] = (answer.status, answer.json().get("choices"))

            threads = [threading.Thread(target=one, args=(i,)) for i in range(len(bodies))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for i in range(len(bodies)):
                self.assertEqual(found[i], (200, wanted[i]))
            metrics = ask(d, "GET", "/metrics").body.decode()
            preemptions = [line.split()[-1] for line in metrics.splitlines() if line.startswith("vllm:num_preemptions_total")]
            self.assertGreater(float(preemptions[0]), 0)
            cluster.wait_all_free("P")
            cluster.wait_all_free("D")


class Endpoints(unittest.TestCase):
    def test_the_proxys_endpoints_have_the_originals_keys(self):
        p, d = self.enterContext(FakeEngine()), self.enterContext(FakeEngine())
        cluster = self.enterContext(Cluster())
        cluster.ports.update(P=p.port, D=d.port)
        proxy = cluster.proxy("proxy", ["P"], ["D"], ready="/health")
        at_p, at_d = f"127.0.0.1:{p.port}", f"127.0.0.1:{d.port}"
        health = ask(proxy, "GET", "/healthcheck")
        self.assertEqual(health.status, 200)
        for key, value in {"status": "ok", "prefill_instances": 1, "decode_instances": 1, "request_num": 0}.items():
            self.assertEqual(health.json()[key], value)
        models = ask(proxy, "GET", "/v1/models")
        self.assertEqual((models.status, models.json()["data"][0]["id"]), (200, "m"))
        for of_d, status, body in ((Whole(200, b""), 200, b""), (Whole(500, b""), 500, json.dumps({"failed": [f"http://{at_d}"]}).encode())):
            p.answers(Whole(200, b""))
            d.answers(of_d)
            reset = ask(proxy, "POST", "/reset_prefix_cache?reset_running=true")
            self.assertEqual((reset.status, reset.body.replace(b" ", b"")), (status, body.replace(b" ", b"")))
            self.assertEqual([heard.path for heard in p.heard + d.heard], ["/reset_prefix_cache?reset_running=true"] * 2)
        for change, message in (("add", "add prefill instances: ['{}']."), ("remove", "Instances ['{}'] are isolated and waiting to be removed.")):
            answer = ask(proxy, "POST", f"/instances/{change}", {"type": "prefill", "instances": at_p})
            self.assertEqual((answer.status, answer.json()["message"]), (200, message.format(at_p)))
            self.assertEqual(answer.json()["current_prefill_instances"], [at_p] if change == "add" else [])
            self.assertEqual(answer.json()["current_decode_instances"], [at_d])
        for path in ("/v1/embeddings", "/v1/responses"):
            self.assertEqual(ask(proxy, "POST", path, {}).status, 404)
        nobody = free_ports(2)
        cluster.ports.update(P=nobody[0], D=nobody[1])
        lonely = cluster.proxy("lonely", ["P"], ["D"], ready="/healthcheck")
        none = ask(lonely, "GET", "/v1/models")
        self.assertEqual((none.status, sorted(none.json())), (503, ["error", "failed"]), none.body)
        self.assertEqual(none.json()["failed"], [f"127.0.0.1:{port}" for port in nobody])


def ask_at(host: str, port: int, method: str, path: str, body: dict | None = None):
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


class Addresses(unittest.TestCase):
    """Instances and a proxy at ::1, and one more instance by a name."""

    def setUp(self):
        self.cluster = self.enterContext(Cluster())
        self.cluster.environment["VLLM_HOST_IP"] = "::1"

    def start(self, name: str, host: str, *words: str, ready: str = "/health") -> int:
        port = free_ports(1)[0]
        self.cluster.processes[name] = Process(name, [*words, "--host", host, "--port", str(port)], self.cluster.folder, self.cluster.environment)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            self.assertIsNone(self.cluster.processes[name].child.poll(), self.cluster.processes[name].log)
            try:
                if ask_at(host, port, "GET", ready)[0] == 200:
                    return port
            except OSError:
                pass
            self.assertLess(time.monotonic(), deadline, self.cluster.processes[name].log)
            time.sleep(0.02)

    def serve(self, name: str, host: str, role: str) -> int:
        config = {"kv_connector": "MooncakeConnector", "kv_role": role, "kv_port": free_ports(1)[0], "engine_id": name}
        return self.start(name, host, "serve", MODEL, "--served-model-name", "test", "--threads", "1", "--kv-transfer-config", json.dumps(config))

    def test_ipv6_addresses_and_names_are_served_handed_over_added_and_removed(self):
        p, d, by_name = self.serve("P", "::1", "kv_producer"), self.serve("D", "::1", "kv_consumer"), self.serve("D2", "localhost", "kv_consumer")
        proxy = self.start("proxy", "::1", "proxy", "--prefiller-hosts", "::1", "--prefiller-ports", str(p), "--decoder-hosts", "::1",
                           "--decoder-ports", str(d), "--local-prefill", "never")
        status, headers, body = ask_at("::1", proxy, "POST", "/v1/completions", BODY)
        self.assertEqual(status, 200, body)
        self.assertEqual((headers["X-Baton-Prefill"], headers["X-Baton-Decode"]), (f"[::1]:{p}", f"[::1]:{d}"))
        status, _, added = ask_at("::1", proxy, "POST", "/instances/add", {"type": "decode", "instances": [f"localhost:{by_name}"]})
        self.assertEqual((status, json.loads(added)["current_decode_instances"]), (200, [f"[::1]:{d}", f"localhost:{by_name}"]))
        status, _, _ = ask_at("::1", proxy, "POST", "/instances/remove", {"type": "decode", "instances": f"[::1]:{d}"})
        self.assertEqual(status, 200)
        status, headers, again = ask_at("::1", proxy, "POST", "/v1/completions", BODY)
        self.assertEqual(status, 200, again)
        self.assertEqual(headers["X-Baton-Decode"], f"localhost:{by_name}")
        self.assertEqual(json.loads(again)["choices"], json.loads(body)["choices"])
        for host, port in (("::1", d), ("localhost", by_name)):
            requests = json.loads(ask_at(host, port, "GET", "/debug/requests")[2])["recent"]
            self.assertEqual([(r["remote"], r["recomputed"]) for r in requests], [(True, False)])


if __name__ == "__main__":
    unittest.main()
