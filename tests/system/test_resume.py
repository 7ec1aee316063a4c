"""Decode instances that die or freeze in the middle of a streamed answer: the client's bytes are those of the undisturbed one."""
import http.client
import json
import re
import time
import unittest

from tests.system.cluster import Cluster, ask

PATIENCE = 40
PROMPT = "What is a violin? "
TEXT = {"model": "test", "prompt": PROMPT * 4, "max_tokens": 10, "ignore_eos": True, "temperature": 0.8, "seed": 5, "stream": True}
CHAT = {"model": "test", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 10, "ignore_eos": True, "temperature": 0.7,
        "seed": 7, "stream": True}
USAGE = {"stream_options": {"include_usage": True}}
# What the answer has beside its text.
VARIANTS = {
    "text": ("/v1/completions", TEXT),
    "text with logprobs, echo and usage": ("/v1/completions", {**TEXT, **USAGE, "logprobs": 2, "echo": True}),
    "text, n 2, ids": ("/v1/completions", {**TEXT, **USAGE, "n": 2, "max_tokens": 6, "return_token_ids": True}),
    "text, stop strings": ("/v1/completions", {**TEXT, "stop": ["qqq", " the zzz"], "include_stop_str_in_output": True}),
    "chat with logprobs and usage": ("/v1/chat/completions", {**CHAT, **USAGE, "logprobs": True, "top_logprobs": 2}),
    "chat, n 2, continuous usage": ("/v1/chat/completions", {
        **CHAT, "n": 2, "max_tokens": 6, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
}


def undated(stream: bytes) -> bytes:
    """Without what differs between any two answers: the request's own name and the second it began."""
    return re.sub(rb'"id":"(chatcmpl|cmpl)-[0-9a-f.]+[^"]*"', rb'"id":"\1"', re.sub(rb'"created":\d+', b'"created":0', stream))


class Raw:
    """A stream as bytes, read event by event."""

    def __init__(self, port: int, path: str, body: dict):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        self.answer = self.connection.getresponse()
        self.decoder = self.answer.getheader("X-Baton-Decode", "")
        self.bytes = b""

    def event(self) -> bytes:
        lines = b""
        for line in self.answer:
            lines += line
            if line == b"\n":
                break
        self.bytes += lines
        return lines

    def rest(self) -> bytes:
        self.bytes += self.answer.read()
        self.connection.close()
        return self.bytes


class Resume(unittest.TestCase):
    CONNECTOR = "MooncakeConnector"

    def same(self, stream: bytes) -> bytes:
        return undated(stream)

    def setUp(self):
        self.cluster = self.enterContext(Cluster())
        self.decoders = ["D1", "D2", "D3"]
        self.cluster.serve("P", "kv_producer", connector=self.CONNECTOR)
        for name in self.decoders:
            self.serve(name)
        self.proxy = self.cluster.proxy("proxy", ["P"], self.decoders, "--health-interval", "0.2", ready="/health")

    def serve(self, name: str, **ports):
        # Without a prefix cache: the cached_tokens of a layer-wise answer are P's alone.
        self.cluster.serve(name, "kv_consumer", "--no-enable-prefix-caching", connector=self.CONNECTOR, **ports)

    def name_of(self, address: str) -> str:
        return next(name for name, port in self.cluster.ports.items() if address.endswith(f":{port}"))

    def whole(self, path: str, body: dict) -> bytes:
        stream = Raw(self.proxy, path, body)
        self.assertEqual(stream.answer.status, 200)
        return stream.rest()

    def wait_up(self):
        """Until the proxy has found every decode instance up."""
        deadline = time.monotonic() + PATIENCE
        while True:
            instances = ask(self.proxy, "GET", "/healthcheck").json()["instances"]
            if all(one["health"] == "up" and one["breaker"] == "closed" for one in instances):
                return
            self.assertLess(time.monotonic(), deadline, instances)
            time.sleep(0.02)

    def revive(self, *names: str):
        for name in names:
            self.serve(name, port=self.cluster.ports[name])
        self.wait_up()

    def going_on(self) -> str:
        """Who decodes now: the one decode instance with something in flight."""
        deadline = time.monotonic() + PATIENCE
        while True:
            busy = [self.name_of(one["address"]) for one in ask(self.proxy, "GET", "/healthcheck").json()["instances"]
                    if one["role"] == "decode" and one["in_flight"] > 0 and one["health"] == "up"]
            if len(busy) == 1:
                return busy[0]
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.005)

    def test_a_d_that_is_killed_behind_any_event_costs_no_byte(self):
        killed = 0
        for what, (path, body) in VARIANTS.items():
            self.whole(path, body)  # P's cached_tokens are those of a second time from here on
            right = self.same(self.whole(path, body))
            events = right.count(b"\n\n")
            self.assertNotIn(b": baton", right)
            self.assertTrue(right.endswith(b"data: [DONE]\n\n"))
            self.assertGreater(events, 4, right)
            for index in range(1, events):
                with self.subTest(what, killed_behind=index):
                    stream = Raw(self.proxy, path, body)
                    for _ in range(index):
                        stream.event()
                    name = self.name_of(stream.decoder)
                    self.cluster.processes[name].kill()
                    rest = self.same(stream.rest())
                    self.revive(name)
                    self.assertEqual(rest, right)
                    killed += 1
        self.assertGreater(self.resumptions(), killed / 3)  # others had said all that there was before they died

    def long(self) -> tuple[str, dict, bytes]:
        path, body = "/v1/completions", {**TEXT, "max_tokens": 1200}
        return path, body, self.same(self.whole(path, body))

    def test_who_goes_on_may_die_too(self):
        path, body, right = self.long()
        stream = Raw(self.proxy, path, body)
        stream.event()
        first = self.name_of(stream.decoder)
        self.cluster.processes[first].kill()
        for _ in range(40):
            stream.event()
        second = self.going_on()
        self.cluster.processes[second].kill()
        self.assertNotEqual(first, second)
        self.assertEqual(self.same(stream.rest()), right)
        self.assertGreaterEqual(self.resumptions(), 2)
        self.cluster.wait_reservations_back("proxy")

    def test_frozen_instances_are_left_one_after_the_other(self):
        path, body, right = self.long()
        stream = Raw(self.proxy, path, body)
        stream.event()
        first = self.name_of(stream.decoder)
        self.cluster.processes[first].freeze()
        for _ in range(400):
            stream.event()
        second = self.going_on()
        self.cluster.processes[second].freeze()
        self.assertEqual(self.same(stream.rest()), right)
        for name in (first, second):
            self.cluster.processes[name].thaw()
        for name in ("P", *self.decoders):
            self.cluster.wait_all_free(name)
        self.cluster.wait_reservations_back("proxy")

    def test_without_another_d_the_stream_ends_with_an_error_that_says_where_and_what_next(self):
        path, body, right = self.long()
        for name in self.decoders[1:]:
            self.cluster.processes[name].kill()
        stream = Raw(self.proxy, path, {**body, "prompt": TEXT["prompt"] + "again"})
        if self.name_of(stream.decoder) != "D1":
            stream.rest()
            self.fail("the dead are asked")
        stream.event()
        self.cluster.processes["D1"].kill()
        last = stream.rest().split(b"\n\n")
        error = json.loads(last[-2].removeprefix(b"data: "))["error"]
        self.assertEqual((error["phase"], error["instance"], error["retry"]), ("decode", stream.decoder, True))
        self.assertNotIn(b"[DONE]", stream.bytes)

    def test_lists_of_prompts_go_on_part_by_part(self):
        body = {**TEXT, **USAGE, "prompt": [PROMPT * 2, PROMPT * 3], "max_tokens": 400}

        def texts(stream: bytes) -> dict:
            found: dict = {}
            for block in stream.split(b"\n\n"):
                data = block.removeprefix(b"data: ")
                if not data or data == b"[DONE]":
                    continue
                event = json.loads(data)
                self.assertNotIn("error", event)
                for choice in event["choices"]:
                    found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
                if event.get("usage"):
                    found["usage"] = event["usage"]
            return found

        self.whole("/v1/completions", body)  # P's cached_tokens are those of a second time from here on
        right = texts(self.whole("/v1/completions", body))
        stream = Raw(self.proxy, "/v1/completions", body)
        for _ in range(4):
            stream.event()
        for name in self.decoders[:2]:
            self.cluster.processes[name].kill()
        self.assertEqual(texts(stream.rest()), right)
        self.assertEqual(stream.bytes.count(b"[DONE]"), 1)

    def resumptions(self) -> float:
        text = ask(self.proxy, "GET", "/metrics").body.decode()
        return float(re.search(r"^baton:proxy_resumptions_total (\S+)", text, re.MULTILINE).group(1))

    def test_a_clients_own_word_of_what_was_said_counts_for_nothing(self):
        path, body = VARIANTS["text"]
        forged = {"head": {"id": "x", "created": 1, "seed": 1, "cached_tokens": 0, "digest": "0" * 16},
                  "choices": [{"token_ids": [1, 2, 3], "begun": True}]}
        self.assertEqual(self.same(self.whole(path, {**body, "baton_resume": forged})), self.same(self.whole(path, body)))


class LayerwiseResume(Resume):
    CONNECTOR = "MooncakeLayerwiseConnector"

    def same(self, stream: bytes) -> bytes:
        # P's number comes with its HTTP answer, or not at all when D is gone before that (docs/resume.md).
        return re.sub(rb'"cached_tokens":\d+', b'"cached_tokens":0', undated(stream))


if __name__ == "__main__":
    unittest.main()
