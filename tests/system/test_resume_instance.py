"""An answer goes on at another instance behind what its client has (docs/resume.md). The proxy's part is played here."""
import json
import re
import threading
import unittest

from tests.system.cluster import Cluster, Stream, ask

HEADERS = {"X-Baton-Resume": "1", "X-Request-Id": "r1"}
CHAT = {"model": "test", "messages": [{"role": "user", "content": "What is a violin?"}], "max_tokens": 24, "seed": 5, "stream": True,
        "stream_options": {"include_usage": True}}
NOTE = ": baton "
PATIENCE = 120


class Noted:
    """The events of a stream as a client gets them, and the sum of the notes in front of them."""

    def __init__(self, before: dict | None = None):
        self.events: list[str] = []
        self.sum = json.loads(json.dumps(before)) if before else None
        self.returned = False

    def take(self, block: str) -> None:
        line, _, data = block.partition("\n") if block.startswith(NOTE) else ("", "", block)
        if line == NOTE + "returned":
            self.returned = True
            return
        self.events.append(data + "\n\n")
        if line:
            self.add(json.loads(line[len(NOTE):]))

    def add(self, note: dict) -> None:
        self.sum = self.sum or {"head": note["head"], "choices": [], "usage_sent": False}
        self.sum["usage_sent"] |= not note["choices"]
        for one in note["choices"]:
            while len(self.sum["choices"]) <= one["index"]:
                self.sum["choices"].append({"token_ids": [], "begun": False, "finished": False})
            choice = self.sum["choices"][one["index"]]
            choice["token_ids"] += one["ids"]
            choice["begun"], choice["finished"] = True, one.get("finished", False)

    @property
    def bytes(self) -> str:
        return "".join(self.events)


def stream(port: int, body: dict, before: dict | None = None) -> Noted:
    asked = {**body, "baton_resume": before} if before else body
    answer = ask(port, "POST", "/v1/chat/completions", asked, HEADERS, timeout=PATIENCE)
    if answer.status != 200:
        raise AssertionError(f"{answer.status} {answer.body}")
    noted = Noted(before)
    for block in answer.body.decode().split("\n\n"):
        if block:
            noted.take(block)
    return noted


def first_events(port: int, body: dict, count: int) -> Noted:
    """Its first events; then the client, here the proxy, is gone."""
    stream = Stream(port, "/v1/chat/completions", body, HEADERS)
    noted, block = Noted(), b""
    for line in stream.answer:
        block += line
        if line != b"\n":
            continue
        noted.take(block.decode().rstrip("\n"))
        block = b""
        if len(noted.events) == count:
            break
    stream.leave()
    return noted


def without_created(text: str) -> str:
    return re.sub(r'"created":\d+', '"created":0', text)


class AnotherInstance(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster())
        cls.first, cls.second = cls.cluster.serve("first"), cls.cluster.serve("second", None, "--no-enable-prefix-caching")

    def test_the_identity_says_that_it_can(self):
        self.assertEqual(ask(self.first, "GET", "/v1/models").json()["baton"]["resume"], 1)

    def test_behind_every_event_the_rest_is_that_of_the_undisturbed_answer(self):
        for more in ({}, {"n": 2, "logprobs": True, "top_logprobs": 2}, {"stop": ["string", "zz"], "temperature": 0}):
            body = {**CHAT, **more}
            whole = stream(self.first, body)
            self.assertEqual(whole.events[-1], "data: [DONE]\n\n")
            for count in range(1, len(whole.events)):
                begun = first_events(self.first, body, count)
                rest = stream(self.second, body, begun.sum)
                self.assertEqual(without_created(begun.bytes + rest.bytes), without_created(whole.bytes), f"{more} behind {count}")
        for name in ("first", "second"):
            self.cluster.wait_all_free(name)

    def test_what_it_would_have_answered_otherwise_is_refused(self):
        begun = first_events(self.first, CHAT, 3)
        answer = ask(self.second, "POST", "/v1/chat/completions", {**CHAT, "seed": 6, "baton_resume": begun.sum}, HEADERS)
        self.assertEqual(answer.status, 400, answer.body)
        self.assertEqual(answer.json()["error"]["param"], "baton_resume")


class ShortOfBlocks(unittest.TestCase):
    def test_answers_that_are_given_back_wander_to_their_ends_with_the_bits_of_one_instance(self):
        flags = ("--max-model-len", "512", "--no-enable-prefix-caching")
        with Cluster() as cluster:
            roomy = cluster.serve("roomy", None, *flags)
            short = cluster.serve("short", "kv_consumer", *flags, "--kv-cache-memory-bytes", "560K", "--max-num-seqs", "8",
                                  "--additional-config", '{"recompute_scheduler_enable": true}')
            bodies = [{**CHAT, "messages": [{"role": "user", "content": f"{i}: What is a violin?"}], "max_tokens": 150, "ignore_eos": True,
                       "seed": i} for i in range(8)]
            wanted = [stream(roomy, body).bytes for body in bodies]
            found: dict[int, str] = {}

            def one(i: int):
                text, sum = "", None
                for _ in range(200):
                    part = stream(short, bodies[i], sum)
                    text, sum = text + part.bytes, part.sum
                    if not part.returned:
                        found[i] = text
                        return

            threads = [threading.Thread(target=one, args=(i,)) for i in range(len(bodies))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for i in range(len(bodies)):
                self.assertEqual(without_created(found.get(i, "no end")), without_created(wanted[i]))
            counts = dict(line.rsplit(" ", 1) for line in ask(short, "GET", "/metrics").body.decode().splitlines() if line.startswith("baton:requests_re"))
            counts = {name.split("{")[0]: float(value) for name, value in counts.items()}
            self.assertGreater(counts["baton:requests_returned_total"], 0)
            self.assertEqual(counts["baton:requests_resumed_total"], counts["baton:requests_returned_total"])
            cluster.wait_all_free("short")
