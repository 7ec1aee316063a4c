"""Prompts that D computes: because a hand-over costs more than it saves, because the operator wants it so, or because no P is left."""
import unittest

from tests.system.cluster import Cluster, ask
from tests.system.test_hangups import PATIENCE, Client, until
from tests.system.test_limits import metric

ONE = {"model": "test", "prompt": "What is a violin? " * 20, "max_tokens": 8, "temperature": 0.8, "seed": 3, "logprobs": 2, "n": 2}


def asked(words: int, **fields) -> dict:
    return {**ONE, "prompt": "violin " * words, "timings": True, **fields}


class Placed:
    """One P, one D and one that says what is right."""
    connector: str

    def setUp(self):
        self.cluster = self.enterContext(Cluster())
        self.serve("P", "kv_producer")
        self.serve("D", "kv_consumer")
        self.cluster.serve("single")

    def serve(self, name: str, role: str, **places):
        self.cluster.serve(name, role, connector=self.connector, **places)

    def prefills(self, proxy: int) -> dict[tuple[str, str], float]:
        """By where and why."""
        found = {}
        for line in ask(proxy, "GET", "/metrics").body.decode().splitlines():
            if line.startswith("baton:proxy_prefills_total{"):
                words = line.split('"')
                found[words[1], words[3]] = float(line.split()[-1])
        return found

    def nothing_is_left(self, *names: str):
        self.cluster.wait_reservations_back("proxy")
        for name in names:
            self.cluster.wait_all_free(name, PATIENCE)

    def right(self, body: dict):
        return ask(self.cluster.ports["single"], "POST", "/v1/completions", body).json()["choices"]

    def test_instances_say_their_speeds_and_an_answer_why_its_prompt_was_computed_where_it_was(self):
        for name in ("P", "D"):
            speeds = ask(self.cluster.ports[name], "GET", "/v1/models").json()["baton"]["speeds"]
            for key in ("prefill_tokens_per_s", "handover_bytes_per_s", "kv_bytes_per_token"):
                self.assertGreater(speeds[key], 0)
        self.assertNotIn("speeds", ask(self.cluster.ports["single"], "GET", "/v1/models").json()["baton"])
        proxy = self.cluster.proxy("proxy", ["P"], ["D"], "--local-prefill", "auto")
        counted: dict[tuple[str, str], float] = {}
        for words in (1, 5, 20, 60, 200, 600, 1500):
            for stream in (False, True):
                body = asked(words, stream=stream, cache_salt=f"{words}{stream}")
                answer = ask(proxy, "POST", "/v1/completions", body)
                self.assertEqual(answer.status, 200, answer.body)
                timings = answer.events()[-2]["timings"] if stream else answer.json()["timings"]
                self.assertEqual(sum(part["ns"] for part in timings["parts"]), timings["total_ns"])
                estimate = timings["prefill_estimate"]
                on_d = estimate["local_ns"] <= estimate["handover_ns"]
                expected = ("decode", "local_costs_less") if on_d else ("prefill", "handover_costs_less")
                self.assertEqual((timings["prefill_on"], timings["prefill_reason"]), expected)
                self.assertEqual("x-baton-prefill" in answer.headers, not on_d)
                self.assertFalse(on_d and any(part["at"] == "prefill" for part in timings["parts"]))
                self.assertGreater(estimate["prompt_tokens"], 0)
                counted[expected] = counted.get(expected, 0) + 1
                if not stream:
                    self.assertEqual(answer.json()["choices"], self.right(body))
        until(lambda: self.prefills(proxy) == counted, f"the counters say {counted}")
        self.nothing_is_left("P", "D")

    def test_with_always_no_p_is_asked_and_none_need_be_there(self):
        proxy = self.cluster.proxy("proxy", ["P"], ["D"], "--local-prefill", "always")
        for words in (3, 600):
            answer = ask(proxy, "POST", "/v1/completions", asked(words))
            self.assertEqual((answer.status, answer.json()["choices"]), (200, self.right(asked(words))))
            self.assertEqual((answer.json()["timings"]["prefill_on"], answer.json()["timings"]["prefill_reason"]), ("decode", "asked"))
        self.assertEqual(ask(self.cluster.ports["P"], "GET", "/debug/requests").json()["recent"], [])
        self.cluster.processes["P"].kill()
        self.assertEqual(ask(proxy, "POST", "/v1/completions", ONE).status, 200)
        self.nothing_is_left("D")

    def test_when_every_p_is_down_d_computes_prompts_until_one_is_back(self):
        self.serve("P2", "kv_producer")
        proxy = self.cluster.proxy("proxy", ["P", "P2"], ["D"], "--health-interval", "0.2")
        right = self.right(ONE)
        answer = lambda: ask(proxy, "POST", "/v1/completions", {**ONE, "timings": True}, timeout=PATIENCE)
        self.assertEqual(answer().json()["choices"], right)
        for name in ("P", "P2"):
            self.cluster.processes[name].kill()
        first = answer()  # whether a probe has found it out or not
        self.assertEqual((first.status, first.json().get("choices")), (200, right), first.body)
        until(lambda: answer().json()["timings"]["prefill_reason"] == "no_prefill_instance", "both are missed")
        alone = answer()
        self.assertEqual((alone.status, alone.json()["choices"]), (200, right))
        self.assertNotIn("x-baton-prefill", alone.headers)
        self.assertEqual(ask(proxy, "GET", "/health").status, 200)
        self.serve("P", "kv_producer", port=self.cluster.ports["P"])
        until(lambda: "x-baton-prefill" in answer().headers, "P is used again")
        self.nothing_is_left("P", "D")

    def test_who_waits_for_room_is_answered_when_the_last_instances_go_down(self):
        proxy = self.cluster.proxy("proxy", ["P"], ["D"], "--health-interval", "0.2", "--max-in-flight-per-instance", "1", "--queue-timeout", "600",
                                   "--max-retries", "1")
        for name in ("P", "D"):
            self.cluster.processes[name].freeze()
        clients = [Client(proxy, ONE) for _ in range(4)]
        until(lambda: metric(proxy, "baton:proxy_requests_waiting") == 3, "three wait")
        for name in ("P", "D"):
            self.cluster.processes[name].kill()
        for client in clients:  # within PATIENCE, not after 600 s
            status, body = client.answer()
            self.assertIn(status, (502, 503), body)
        self.nothing_is_left()


class PullOrder(Placed, unittest.TestCase):
    connector = "MooncakeConnector"


class LayerwiseOrder(Placed, unittest.TestCase):
    connector = "MooncakeLayerwiseConnector"


if __name__ == "__main__":
    unittest.main()
