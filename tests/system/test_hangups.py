"""Clients that hang up and processes that come and go between prefill and decode: nothing stays reserved or held, and whoever
still waits gets the bits of a single instance."""
import http.client
import json
import time
import unittest

from tests.system.cluster import TINY, Cluster, Stream, ask, free_ports

PATIENCE = 60
NEVER = "600"  # seconds between probes: none comes between
PROMPT = "What is a violin? " * 30
SHORT = {"model": "test", "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "logprobs": 2, "seed": 1}
LONG = {**SHORT, "max_tokens": 3000, "ignore_eos": True}
SLOW_PREFILL = {**SHORT, "prompt": "word " * 7000}
TO_P = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None, "remote_host": None,
        "remote_port": None}


def until(true, what: str = ""):
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {PATIENCE} s: {what}")
        time.sleep(0.01)


class Client:
    """A request on its way that can be left at any time."""

    def __init__(self, port: int, body: dict):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self.connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})

    def leave(self):
        self.connection.close()

    def answer(self):
        found = self.connection.getresponse()
        return found.status, json.loads(found.read())


class Pair(unittest.TestCase):
    """One P, one D and their proxy, for the tests of this file."""

    def setUp(self):
        self.cluster = self.enterContext(Cluster())
        self.kv_ports = dict(zip(("P", "D"), free_ports(2)))
        for name, role in (("P", "kv_producer"), ("D", "kv_consumer")):
            self.cluster.serve(name, role, kv_port=self.kv_ports[name])

    def proxy_with(self, interval: str, prefill=("P",), decode=("D",)) -> int:
        return self.cluster.proxy("proxy", list(prefill), list(decode), "--health-interval", interval, ready="/health")

    def debug(self, name: str) -> dict:
        return ask(self.cluster.ports[name], "GET", "/debug/requests").json()

    def states(self, name: str) -> list[str]:
        return [request["state"] for request in self.debug(name)["requests"]]

    def holds(self, name: str) -> bool:
        return self.debug(name)["kv_blocks"]["held"] > 0

    def proxy_is_idle(self):
        def idle():
            health = ask(self.cluster.ports["proxy"], "GET", "/healthcheck").json()
            return health["request_num"] == 0 and all(i["in_flight"] == 0 for i in health["instances"])
        until(idle, "the proxy's reservations are back")

    def nothing_is_left(self, *names: str):
        self.proxy_is_idle()
        for name in names or ("P", "D"):
            self.cluster.wait_all_free(name, PATIENCE)


class HangUps(Pair):
    def setUp(self):
        super().setUp()
        self.proxy = self.proxy_with(NEVER)

    def each(self, body: dict):
        for stream in (False, True):
            with self.subTest(stream=stream):
                yield Client(self.proxy, {**body, "stream": stream})

    def goes_on(self):
        self.nothing_is_left()
        self.assertEqual(ask(self.proxy, "POST", "/v1/completions", SHORT).status, 200)

    def test_before_p_has_read_the_request(self):
        for stream in (False, True):
            self.cluster.processes["P"].freeze()
            client = Client(self.proxy, {**SHORT, "stream": stream})
            until(lambda: ask(self.proxy, "GET", "/healthcheck").json()["request_num"] == 1)
            client.leave()
            self.proxy_is_idle()
            self.cluster.processes["P"].thaw()
            self.goes_on()

    def test_during_prefill(self):
        for client in self.each(SLOW_PREFILL):
            until(lambda: self.states("P"), "P has begun")
            client.leave()
            until(lambda: not self.states("P"), "P has stopped")
            self.goes_on()

    def test_between_p_and_d(self):
        for stream in (False, True):
            self.cluster.processes["D"].freeze()
            client = Client(self.proxy, {**SHORT, "stream": stream})
            until(lambda: self.holds("P"), "P holds the prompt's KV")
            client.leave()
            self.cluster.wait_all_free("P", PATIENCE)  # told by the proxy: D is frozen and the lease is long
            self.cluster.processes["D"].thaw()
            self.goes_on()

    def test_while_decoding(self):
        for client in self.each(LONG):
            until(lambda: "decode" in self.states("D"), "D decodes")
            client.leave()
            until(lambda: not self.states("D"), "D has stopped")
            self.goes_on()


class ComingAndGoing(Pair):
    def by_hand(self) -> dict:
        """P's half of a request as a proxy asks for it: the body for D."""
        of_p = ask(self.cluster.ports["P"], "POST", "/v1/completions",
                   {**SHORT, "max_tokens": 1, "min_tokens": 1, "kv_transfer_params": TO_P}).json()
        return {**SHORT, "kv_transfer_params": of_p["kv_transfer_params"]}

    def healths(self, proxy: int) -> list[str]:
        return [one["health"] for one in ask(proxy, "GET", "/healthcheck").json()["instances"]]

    def answers(self, proxy: int, wanted) -> None:
        answer = ask(proxy, "POST", "/v1/completions", SHORT, timeout=PATIENCE)
        self.assertEqual((answer.status, answer.json().get("choices")), (200, wanted), answer.body)

    def test_an_instance_that_starts_again_on_its_ports_is_used_again(self):
        proxy = self.proxy_with("0.2")
        before = ask(proxy, "POST", "/v1/completions", SHORT).json()["choices"]
        for name, role in (("D", "kv_consumer"), ("P", "kv_producer")):
            self.cluster.processes[name].kill()
            until(lambda: "down" in self.healths(proxy), f"{name} is missed")
            if name == "D":
                self.assertEqual(ask(proxy, "GET", "/health").status, 503)
                self.assertEqual(ask(proxy, "POST", "/v1/completions", SHORT).status, 503)
            else:  # D computes the prompt itself
                self.assertEqual(ask(proxy, "GET", "/health").status, 200)
                self.answers(proxy, before)
            self.cluster.serve(name, role, port=self.cluster.ports[name], kv_port=self.kv_ports[name])
            until(lambda: self.healths(proxy) == ["up", "up"], f"{name} is back")
            self.answers(proxy, before)
            newest = max(self.debug("D")["recent"], key=lambda r: r["request_id"] == self.debug("P")["recent"][0]["request_id"])
            self.assertEqual((newest["remote"], newest["recomputed"]), (True, False))
        self.nothing_is_left()

    def test_a_p_that_is_gone_or_frozen_before_d_comes_costs_time_but_no_bit(self):
        wanted = ask(self.cluster.serve("single"), "POST", "/v1/completions", SHORT).json()["choices"]
        to_d = self.by_hand()
        self.cluster.processes["P"].freeze()
        answer = ask(self.cluster.ports["D"], "POST", "/v1/completions", to_d, timeout=PATIENCE)
        self.assertEqual((answer.status, answer.json()["choices"]), (200, wanted))
        self.assertEqual(answer.headers.get("x-baton-kv-unused"), "1")
        self.cluster.processes["P"].thaw()
        to_d = self.by_hand()
        self.cluster.processes["P"].kill()
        answer = ask(self.cluster.ports["D"], "POST", "/v1/completions", to_d, timeout=PATIENCE)
        self.assertEqual((answer.status, answer.json()["choices"]), (200, wanted))
        self.assertEqual(answer.headers.get("x-baton-kv-unused"), "1")
        self.assertEqual([r["recomputed"] for r in self.debug("D")["recent"]], [True, True])
        self.cluster.wait_all_free("D", PATIENCE)

    def test_a_d_that_dies_with_the_request_unread_is_replaced_and_p_is_free(self):
        self.cluster.serve("D2", "kv_consumer")
        proxy = self.proxy_with(NEVER, decode=("D", "D2"))
        self.cluster.processes["D"].freeze()
        client = Client(proxy, SHORT)  # the first in line is D
        until(lambda: self.holds("P"), "P holds the prompt's KV")
        self.cluster.processes["D"].kill()
        status, body = client.answer()
        self.assertEqual(status, 200, body)
        self.answers(proxy, body["choices"])
        self.nothing_is_left("P", "D2")

    def test_a_p_that_dies_while_its_answer_waits_at_d_costs_no_bit(self):
        proxy = self.proxy_with(NEVER)
        before = ask(proxy, "POST", "/v1/completions", SHORT).json()["choices"]
        self.cluster.processes["D"].freeze()
        client = Client(proxy, {**SHORT, "cache_salt": "D has no prefix of this"})
        until(lambda: self.holds("P"), "P holds the prompt's KV")
        self.cluster.processes["P"].kill()
        self.cluster.processes["D"].thaw()
        status, body = client.answer()
        self.assertEqual((status, body.get("choices")), (200, before), body)
        self.assertEqual(sorted(r["recomputed"] for r in self.debug("D")["recent"]), [False, True])
        self.nothing_is_left("D")

    def test_instances_are_added_and_removed_while_a_stream_runs(self):
        self.cluster.serve("D2", "kv_consumer")
        proxy = self.proxy_with("0.2")
        stream = Stream(proxy, "/v1/completions", {**LONG, "max_tokens": 200}, timeout=PATIENCE)
        events = iter(stream)
        next(events)
        at = {name: f"127.0.0.1:{self.cluster.ports[name]}" for name in ("D", "D2")}
        added = ask(proxy, "POST", "/instances/add", {"type": "decode", "instances": [at["D2"]]})
        self.assertEqual((added.status, added.json()["current_decode_instances"]), (200, [at["D"], at["D2"]]))
        removed = ask(proxy, "POST", "/instances/remove", {"type": "decode", "instances": at["D"]})
        self.assertEqual(removed.status, 200)
        until(lambda: ask(proxy, "GET", "/health").status == 200)
        self.assertEqual(ask(proxy, "POST", "/v1/completions", SHORT).headers["x-baton-decode"], at["D2"])
        self.assertEqual(list(events)[-1], "[DONE]")  # what ran there ended there
        until(lambda: ask(proxy, "GET", "/healthcheck").json()["decode_instances"] == 1)
        unknown = ask(proxy, "POST", "/instances/add", {"type": "both", "instances": "h:1"})
        self.assertEqual((unknown.status, "both" in unknown.json()["error"]), (200, True))  # as the original answers
        self.assertEqual(ask(proxy, "POST", "/instances/remove", {"type": "decode", "instances": "no port"}).status, 400)


class RefusedPairs(unittest.TestCase):
    def refused(self, field: str, p: dict, d: dict):
        with Cluster() as cluster:
            cluster.serve("P", "kv_producer", *p.get("flags", ()), model=p.get("model"))
            cluster.serve("D", "kv_consumer", *d.get("flags", ()), model=d.get("model"))
            proxy = cluster.proxy("proxy", ["P"], ["D"])
            pairs = []
            def known():
                pairs[:] = ask(proxy, "GET", "/healthcheck").json()["refused_pairs"]
                return pairs
            until(known, "both are probed")
            self.assertIn(field, pairs[0]["reason"])
            answer = ask(proxy, "POST", "/v1/completions", SHORT)
            self.assertEqual(answer.status, 503)
            self.assertIn(field, answer.json()["error"]["message"])
            self.assertIn("retry-after", answer.headers)
            self.assertEqual(ask(cluster.ports["P"], "GET", "/debug/requests").json()["recent"], [])

    def test_another_model(self):
        self.refused("fingerprint", {}, {"model": TINY})

    def test_a_d_that_is_shorter_than_p(self):
        self.refused("max_model_len", {}, {"flags": ("--max-model-len", "1024")})

    def test_a_d_that_is_longer_than_p_is_none(self):
        with Cluster() as cluster:
            cluster.serve("P", "kv_producer", "--max-model-len", "1024")
            cluster.serve("D", "kv_consumer")
            proxy = cluster.proxy("proxy", ["P"], ["D"], ready="/health")
            self.assertEqual(ask(proxy, "POST", "/v1/completions", SHORT).status, 200)


class Keys(unittest.TestCase):
    def test_instances_with_a_key_are_reached_with_the_proxys(self):
        with Cluster() as cluster:
            for name, role in (("P", "kv_producer"), ("D", "kv_consumer")):
                cluster.serve(name, role, "--api-key", "of-instances", "--admin-key", "of-admins")
            cluster.environment = {**cluster.environment, "OPENAI_API_KEY": "of-instances"}
            proxy = cluster.proxy("proxy", ["P"], ["D"], "--api-key", "of-clients", "--admin-key", "of-admins", ready="/health")
            self.assertEqual(ask(proxy, "POST", "/v1/completions", SHORT, {"Authorization": "Bearer of-instances"}).status, 401)
            answer = ask(proxy, "POST", "/v1/completions", SHORT, {"Authorization": "Bearer of-clients"})
            self.assertEqual(answer.status, 200, answer.body)
            admin = {"Authorization": "Bearer of-admins"}
            self.assertEqual(ask(proxy, "POST", "/reset_prefix_cache", headers=admin).status, 200)
            recent = ask(cluster.ports["D"], "GET", "/debug/requests", headers=admin).json()["recent"]
            self.assertEqual([r["recomputed"] for r in recent], [False])


if __name__ == "__main__":
    unittest.main()
