"""Instances without room, that fail, or that die under a list of prompts: a definite outcome for every client, nothing spent on
whom is refused, nothing left behind."""
import json
import secrets
import unittest

from tests.system.cluster import Cluster, Stream, ask, free_ports
from tests.system.fake_engine import FakeEngine, Whole
from tests.system.test_hangups import NEVER, PATIENCE, Client, until
from tests.system.test_limits import metric

PROMPTS = [f"What is a violin number {i}? " * 20 for i in range(6)]
LIST = {"model": "test", "prompt": PROMPTS, "max_tokens": 8, "n": 2, "temperature": 0.8, "seed": 3, "logprobs": 2}
LONG_LIST = {**LIST, "max_tokens": 3000, "ignore_eos": True, "n": 1}
ONE = {"model": "test", "prompt": PROMPTS[0], "max_tokens": 8, "temperature": 0, "seed": 1}


class Routed(unittest.TestCase):
    def setUp(self):
        self.cluster = self.enterContext(Cluster())

    def health(self) -> dict:
        return ask(self.cluster.ports["proxy"], "GET", "/healthcheck").json()

    def instance(self, name: str) -> dict:
        return next(i for i in self.health()["instances"] if i["address"].endswith(f":{self.cluster.ports[name]}"))

    def prefilled(self, name: str = "P") -> float:
        """Prompt tokens that an instance has taken so far."""
        return metric(self.cluster.ports[name], "vllm:prompt_tokens_total")

    def nothing_is_left(self, *names: str):
        until(lambda: self.health()["request_num"] == 0 and all(i["in_flight"] == 0 for i in self.health()["instances"]),
              "the proxy's reservations are back")
        for name in names:
            self.cluster.wait_all_free(name, PATIENCE)


class Lists(Routed):
    """Two of each, and one that says what is right."""

    def setUp(self):
        super().setUp()
        for name in ("P1", "P2"):
            self.cluster.serve(name, "kv_producer")
        for name in ("D1", "D2"):
            self.cluster.serve(name, "kv_consumer")
        # Without a probe in between: what happens is what the requests see themselves.
        self.proxy = self.cluster.proxy("proxy", ["P1", "P2"], ["D1", "D2"], "--health-interval", NEVER, ready="/health")

    def right(self) -> list:
        return ask(self.cluster.serve("single"), "POST", "/v1/completions", LIST, timeout=PATIENCE).json()["choices"]

    def killed_under_a_list(self, name: str, *survivors: str):
        """Some of its parts wait at a frozen instance when that dies."""
        self.cluster.processes[name].freeze()
        client = Client(self.proxy, LIST)
        until(lambda: self.instance(name)["in_flight"] > 0 and self.health()["request_num"] == 1, f"{name} has a part of the list")
        self.cluster.processes[name].kill()
        status, body = client.answer()
        self.assertEqual((status, body.get("choices")), (200, self.right()), body)
        self.assertEqual([choice["index"] for choice in body["choices"]], list(range(len(PROMPTS) * LIST["n"])))
        self.nothing_is_left(*survivors)

    def test_a_p_that_dies_costs_no_part_of_the_answer(self):
        self.killed_under_a_list("P1", "P2", "D1", "D2")

    def test_a_d_that_dies_before_its_first_byte_costs_no_part_of_the_answer(self):
        self.killed_under_a_list("D1", "P1", "P2", "D2")

    def test_a_d_that_dies_in_the_middle_costs_the_stream_nothing(self):
        events = iter(Stream(self.proxy, "/v1/completions", {**LONG_LIST, "max_tokens": 300}, timeout=PATIENCE))
        begun: set[int] = set()
        while len(begun) < len(PROMPTS):
            begun |= {choice["index"] for choice in next(events)["choices"]}
        self.assertGreater(self.instance("D1")["in_flight"], 0)
        self.assertGreater(self.instance("D2")["in_flight"], 0)
        self.cluster.processes["D1"].kill()
        rest = list(events)
        self.assertEqual([event for event in rest if event == "[DONE]"], ["[DONE]"])
        self.assertEqual(rest[-1], "[DONE]")
        self.assertFalse([event for event in rest[:-1] if "error" in event])
        self.nothing_is_left("P1", "P2", "D2")

    def test_a_p_that_dies_after_its_prefills_costs_the_stream_nothing(self):
        events = iter(Stream(self.proxy, "/v1/completions", {**LONG_LIST, "max_tokens": 300}, timeout=PATIENCE))
        begun: set[int] = set()
        while len(begun) < len(PROMPTS):
            begun |= {choice["index"] for choice in next(events)["choices"]}
        self.cluster.processes["P1"].kill()
        rest = list(events)
        self.assertEqual(rest[-1], "[DONE]")
        self.assertFalse([event for event in rest[:-1] if "error" in event])
        self.nothing_is_left("P2", "D1", "D2")


class Queue(Routed):
    """One of each with room for one request."""

    def proxy_with(self, *flags: str) -> int:
        return self.cluster.proxy("proxy", ["P"], ["D"], "--health-interval", NEVER, "--max-in-flight-per-instance", "1", *flags, ready="/health")

    def setUp(self):
        super().setUp()
        self.cluster.serve("P", "kv_producer")
        self.cluster.serve("D", "kv_consumer")

    def fill(self, proxy: int) -> Client:
        """A request that P has prefilled and that stays at D."""
        self.cluster.processes["D"].freeze()
        running = Client(proxy, ONE)
        until(lambda: self.cluster.blocks("P")["held"] > 0, "P holds the first prompt's KV")
        return running

    def is_refused(self, answer, word: str):
        self.assertEqual(answer.status, 429, answer.body)
        self.assertGreaterEqual(int(answer.headers["retry-after"]), 1)
        error = answer.json()["error"]
        self.assertEqual(error["code"], 429)
        self.assertIn(word, error["message"])

    def test_who_finds_the_queue_full_is_told_when_to_come_back_and_costs_no_prefill(self):
        proxy = self.proxy_with("--max-waiting", "1")
        running = self.fill(proxy)
        spent = self.prefilled()
        waits = Client(proxy, {**ONE, "prompt": PROMPTS[1]})
        until(lambda: metric(proxy, "baton:proxy_requests_waiting") == 1, "the second one waits")
        for body in (ONE, {**ONE, "stream": True}, {**ONE, "prompt": PROMPTS[:2]}):
            self.is_refused(ask(proxy, "POST", "/v1/completions", body, timeout=PATIENCE), "--max-waiting")
        self.assertEqual(self.prefilled(), spent)
        self.cluster.processes["D"].thaw()
        self.assertEqual([running.answer()[0], waits.answer()[0]], [200, 200])
        self.assertGreater(self.prefilled(), spent)
        self.nothing_is_left("P", "D")

    def test_who_waits_too_long_or_leaves_the_queue_costs_no_prefill(self):
        proxy = self.proxy_with("--queue-timeout", "0.5")
        running = self.fill(proxy)
        spent = self.prefilled()
        self.is_refused(ask(proxy, "POST", "/v1/completions", ONE, timeout=PATIENCE), "--queue-timeout")
        leaves = Client(proxy, ONE)
        until(lambda: metric(proxy, "baton:proxy_requests_waiting") == 1, "another one waits")
        leaves.leave()
        until(lambda: metric(proxy, "baton:proxy_requests_waiting") == 0, "it has left")
        self.assertEqual(self.prefilled(), spent)
        self.cluster.processes["D"].thaw()
        self.assertEqual(running.answer()[0], 200)
        self.assertEqual(ask(proxy, "POST", "/v1/completions", ONE, timeout=PATIENCE).status, 200)
        self.nothing_is_left("P", "D")


class Breaker(Routed):
    def test_a_d_that_answers_probes_and_fails_requests_is_left_alone_until_it_is_another_process(self):
        """D1 knows another cluster secret and is told to fail where a hand-over does."""
        secret = self.cluster.folder / "other"
        secret.write_text(secrets.token_hex(32))
        secret.chmod(0o600)
        self.cluster.serve("P", "kv_producer")
        kv_port = free_ports(1)[0]
        self.cluster.serve("D1", "kv_consumer", "--cluster-secret-file", str(secret), "--kv-load-failure-policy", "fail", kv_port=kv_port)
        self.cluster.serve("D2", "kv_consumer")
        proxy = self.cluster.proxy("proxy", ["P"], ["D1", "D2"], "--health-interval", "0.1", ready="/health")
        decoders = []

        def answer():
            found = ask(proxy, "POST", "/v1/completions", ONE, timeout=PATIENCE)
            self.assertEqual(found.status, 200, found.body)  # the other one answers
            decoders.append(found.headers["x-baton-decode"])
            return found.json()["choices"]

        first = answer()
        until(lambda: self.assertEqual(answer(), first) or self.instance("D1")["breaker"] == "open", "the breaker of D1 opens")
        self.assertEqual(self.instance("D1")["health"], "up")
        self.assertEqual(set(decoders), {f"127.0.0.1:{self.cluster.ports['D2']}"})
        self.nothing_is_left("P", "D1", "D2")
        self.cluster.processes["D1"].kill()
        until(lambda: self.instance("D1")["health"] == "down", "D1 is missed")
        self.cluster.serve("D1", "kv_consumer", port=self.cluster.ports["D1"], kv_port=kv_port)
        until(lambda: self.instance("D1")["health"] == "up", "D1 is back")
        self.assertEqual(self.instance("D1")["breaker"], "closed")
        until(lambda: self.assertEqual(answer(), first) or decoders[-1].endswith(f":{self.cluster.ports['D1']}"), "D1 answers")
        self.nothing_is_left("P", "D1", "D2")

    def test_an_open_breaker_costs_the_instance_no_request_and_closes_with_the_first_answer(self):
        held = Whole(200, json.dumps({"choices": [{"index": 0}], "usage": {}, "kv_transfer_params": {"do_remote_prefill": True}}).encode())
        answered = Whole(200, b'{"choices":[{"index":0,"text":"x"}]}')
        failed = Whole(503, b'{"error":{"message":"broken"}}')
        p, d = self.enterContext(FakeEngine()), self.enterContext(FakeEngine())
        self.cluster.ports.update(P=p.port, D=d.port)
        proxy = self.cluster.proxy("proxy", ["P"], ["D"], "--health-interval", "0.1", "--max-retries", "1", ready="/health")
        post = lambda: ask(proxy, "POST", "/v1/completions", ONE, timeout=PATIENCE)
        p.answers(*[failed] * 20)
        while self.instance("P")["breaker"] == "closed":
            self.assertIn("broken", post().json()["error"]["message"])
        heard = len(p.heard)
        self.assertEqual(heard, 5)
        refused = post()
        self.assertEqual((refused.status, refused.headers["retry-after"]), (503, "1"))
        self.assertIn("its breaker is open", refused.json()["error"]["message"])
        until(lambda: self.instance("P")["breaker"] == "half-open", "the pause is over")
        self.assertEqual(len(p.heard), heard)  # probes are not requests
        p.answers(held, held)
        d.answers(answered, answered)
        self.assertEqual([post().status, post().status], [200, 200])
        self.assertEqual(self.instance("P")["breaker"], "closed")
        self.nothing_is_left()


if __name__ == "__main__":
    unittest.main()
