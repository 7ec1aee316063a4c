"""Receipts: an answer says what was computed from what, the same through a proxy as from one instance, and `baton replay`
computes it again."""
import json
import subprocess
import unittest

from tests.system import cluster as parts
from tests.system.cluster import MODEL, TINY, Cluster, ask

PROMPT = "What is a violin? It has four strings and "
CASES = [
    ("/v1/completions", {"prompt": PROMPT * 4, "max_tokens": 12, "temperature": 0.9, "seed": 7}),
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 9, "n": 3, "seed": 1, "ignore_eos": True, "logprobs": 2, "top_p": 0.9, "repetition_penalty": 1.2}),
    ("/v1/completions", {"prompt": [PROMPT, "b " * 40, "c"], "max_tokens": 5, "n": 2, "seed": 3, "temperature": 1.5}),
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 24, "seed": -4, "temperature": 2, "stop": ["e", "a"], "min_tokens": 3}),
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 1, "seed": 5}),  # ends with P's token
    ("/v1/completions", {"prompt": "x", "max_tokens": 0, "echo": True, "seed": 5}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 16, "seed": 9, "logprobs": True, "top_logprobs": 3,
                              "logit_bias": {"65": 4.5, "9": -3}}),
]


def replay(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([parts.BATON, "replay", *arguments], capture_output=True, text=True, timeout=120)


class Receipts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster())
        for connector, p, d, proxy in [("MooncakeConnector", "P", "D", "pull"), ("MooncakeLayerwiseConnector", "LP", "LD", "layerwise")]:
            cls.cluster.serve(p, "kv_producer", connector=connector)
            cls.cluster.serve(d, "kv_consumer", "--block-size", "32" if proxy == "pull" else "16", connector=connector)
            cls.cluster.proxy(proxy, [p], [d])
        cls.cluster.serve("single", None)

    def receipt(self, place: str, path: str, body: dict) -> dict:
        answer = ask(self.cluster.ports[place], "POST", path, {"model": "test", "receipt": True, **body})
        self.assertEqual(answer.status, 200, answer.body)
        if not body.get("stream"):
            return answer.json()["receipt"]
        events = answer.events()
        self.assertEqual(events[-1], "[DONE]")
        self.assertEqual([event for event in events[:-2] if "receipt" in event], [])
        self.assertEqual(events[-2]["choices"], [])
        return events[-2]["receipt"]

    def write(self, name: str, value) -> str:
        path = self.cluster.folder / name
        path.write_text(json.dumps(value))
        return str(path)

    def test_through_a_proxy_of_either_order_it_is_that_of_one_instance_streamed_or_not(self):
        for path, body in CASES:
            expected = self.receipt("single", path, body)
            for place in ("single", "pull", "layerwise"):
                for stream in ({}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}):
                    with self.subTest(place=place, body=body, stream=stream):
                        self.assertEqual(self.receipt(place, path, {**body, **stream}), expected)

    def test_who_asks_for_none_gets_none_and_a_usage_event_holds_both(self):
        answer = ask(self.cluster.ports["pull"], "POST", "/v1/completions", {"model": "test", "prompt": "x", "max_tokens": 2})
        self.assertNotIn("receipt", answer.json())
        body = {"model": "test", "prompt": ["x", "y"], "max_tokens": 2, "receipt": True, "stream": True, "stream_options": {"include_usage": True}}
        last = ask(self.cluster.ports["pull"], "POST", "/v1/completions", body).events()[-2]
        self.assertEqual(last["usage"]["completion_tokens"], 4)
        self.assertEqual(len(last["receipt"]["prompts"]), 2)

    def test_a_whole_answer_with_token_ids_replays_to_the_bit(self):
        for number, (path, body) in enumerate(CASES):
            with self.subTest(body=body):
                answer = ask(self.cluster.ports["pull"], "POST", path, {"model": "test", "receipt": True, "return_token_ids": True, **body})
                again = replay(self.write(f"answer-{number}.json", answer.json()), "--model", MODEL)
                self.assertEqual((again.returncode, again.stderr), (0, ""), again.stdout)
                self.assertRegex(again.stdout, r"^\d+ prompt\(s\), \d+ choice\(s\), [1-9]\d* tokens: equal to the bit$")

    def test_without_a_seed_the_receipt_has_the_one_that_was_drawn(self):
        receipt = self.receipt("layerwise", "/v1/completions", {"prompt": PROMPT, "max_tokens": 6, "return_token_ids": True})
        again = replay(self.write("drawn.json", receipt), "--model", MODEL)
        self.assertEqual(again.returncode, 0, again.stdout + again.stderr)
        seed = receipt["prompts"][0]["seed"]
        self.assertEqual(self.receipt("single", "/v1/completions", {"prompt": PROMPT, "max_tokens": 6, "return_token_ids": True, "seed": seed}), receipt)

    def test_hashes_alone_are_confirmed_with_the_requests_body(self):
        for number, (path, body) in enumerate((CASES[2], CASES[6])):
            receipt = self.receipt("pull", path, body)
            self.assertNotIn("ids", receipt["prompts"][0]["tokens"])
            file = self.write(f"hashes-{number}.json", receipt)
            again = replay(file, "--model", MODEL, "--request", self.write(f"body-{number}.json", body))
            self.assertEqual((again.returncode, again.stderr), (0, ""), again.stdout)
            again = replay(file, "--model", MODEL)
            self.assertEqual(again.returncode, 1)
            self.assertIn("receipt.prompts[0].tokens.ids: missing", again.stderr)
            other = {**body, **({"prompt": ["x", "y", "z"]} if "prompt" in body else {"messages": [{"role": "user", "content": "x"}]})}
            again = replay(file, "--model", MODEL, "--request", self.write(f"other-{number}.json", other))
            self.assertEqual(again.returncode, 1)
            self.assertIn("receipt.prompts[0].tokens: ", again.stderr)

    def test_a_tampered_receipt_names_field_and_position(self):
        path, body = CASES[1]
        receipt = self.receipt("pull", path, {**body, "return_token_ids": True})
        tokens = receipt["prompts"][0]["choices"][2]["tokens"]["ids"]

        def changed(change, *places):
            value = json.loads(json.dumps(receipt))
            at = value
            for place in places[:-1]:
                at = at[place]
            at[places[-1]] = change
            return value

        one = ("prompts", 0, "choices", 2)
        rows = [
            (changed(tokens[4] ^ 1, *one, "tokens", "ids", 4), "receipt.prompts[0].choices[2].tokens.hash: "),
            (changed("0" * 32, *one, "logprobs_hash"), "prompts[0].choices[2].logprobs_hash: " + "0" * 32 + " in the receipt, "),
            (changed("stop", *one, "finish_reason"), "prompts[0].choices[2].finish_reason: stop in the receipt, length recomputed"),
            (changed(2, "prompts", 0, "seed"), "prompts[0].choices[0].tokens.ids["),
            (changed(0.1, "prompts", 0, "sampling", "temperature"), "prompts[0].choices[0].tokens.ids["),
            (changed("hot", "prompts", 0, "sampling", "temperature"), 'receipt.prompts[0].sampling.temperature: "hot", expected a number'),
            (changed("f" * 64, "fingerprint"), "receipt.fingerprint: " + "f" * 64 + ", the model in "),
            (changed(9, "version"), "receipt.version: 9, expected 1"),
        ]
        for number, (value, expected) in enumerate(rows):
            with self.subTest(expected=expected):
                again = replay(self.write(f"tampered-{number}.json", value), "--model", MODEL)
                self.assertEqual(again.returncode, 1, again.stdout + again.stderr)
                self.assertIn(expected, again.stdout + again.stderr)

    def test_a_receipt_of_float32_is_computed_in_float32(self):
        with Cluster(TINY) as other:
            other.serve("tiny", None, "--dtype", "float32")
            body = {"model": "test", "prompt": [5, 6, 7], "max_tokens": 8, "temperature": 1, "seed": 2, "receipt": True, "return_token_ids": True}
            receipt = ask(other.ports["tiny"], "POST", "/v1/completions", body).json()["receipt"]
        self.assertEqual(receipt["dtype"], "float32")
        again = replay(self.write("float32.json", receipt), "--model", TINY)
        self.assertEqual((again.returncode, again.stderr), (0, ""), again.stdout)


if __name__ == "__main__":
    unittest.main()
