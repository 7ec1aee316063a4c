"""Limits: what a client sends or does beyond them costs a clear error at most, and costs nobody else anything."""
import http.client
import json
import pathlib
import re
import resource
import socket
import subprocess
import threading
import time
import unittest

from tests.system.cluster import TINY, Answer, Cluster, Stream, ask

WAIT_SECONDS = 30  # for something that must happen; slowness does not fail a test
TEXT = {"model": "test", "prompt": "What is a violin?", "max_tokens": 4, "temperature": 0}
LONG = {**TEXT, "max_tokens": 3000, "ignore_eos": True}
LIMITS = {name: int(value) << int(shift or 0) for name, value, shift in re.findall(
    r"inline constexpr \w+ (k\w+)\s*=\s*(\d+)(?:UL)?(?:\s*<<\s*(\d+))?;",
    (pathlib.Path(__file__).parents[2] / "src" / "api" / "limits.h").read_text())}


def deep(levels: int) -> str:
    return '{"prompt":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def exchange(port: int, data: bytes, host: str = "127.0.0.1") -> Answer:
    """Sends bytes as they are and reads until the server closes or the answer is whole."""
    with socket.create_connection((host, port), timeout=WAIT_SECONDS) as connection:
        try:
            connection.sendall(data)
        except OSError:
            pass  # refused in the middle: the answer is there already
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())


def eventually(test: unittest.TestCase, holds, what):
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        test.assertLess(time.monotonic(), deadline, what)
        time.sleep(0.02)


def metric(port: int, name: str) -> float:
    text = ask(port, "GET", "/metrics").body.decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(re.escape(name) + r"[{ ]", line))


class Shape(unittest.TestCase):
    def has_error(self, answer: Answer, status: int, words=()):
        """An error as OpenAI's clients read it, with the true status."""
        self.assertEqual(answer.status, status, answer.body[:500])
        error = answer.json()["error"]
        self.assertEqual(error["code"], status)
        self.assertLessEqual({"message", "type", "param", "code"}, set(error))
        for word in words:
            self.assertIn(word, error["message"])
        return error


class Bodies(Shape):
    """Each row at an instance and through the proxy: the same refusal, and the next request is answered."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster(TINY))
        cls.single = cls.cluster.serve("single")
        cls.cluster.serve("P", "kv_producer")
        cls.cluster.serve("D", "kv_consumer")
        cls.proxy = cls.cluster.proxy("proxy", ["P"], ["D"])

    def doors(self):
        for name, port in (("serve", self.single), ("proxy", self.proxy)):
            with self.subTest(door=name):
                yield port
                self.assertEqual(ask(port, "POST", "/v1/completions", TEXT).status, 200)

    def test_fields_beyond_their_limit_are_400_with_field_value_and_bound(self):
        prompts, choices = LIMITS["kPromptsMax"], LIMITS["kChoicesPerPromptMax"]
        rows = [  # fields, param, what the message must hold
            (dict(n=choices + 1), "n", [str(choices + 1), str(choices)]),
            (dict(n=0), "n", ["0"]),
            (dict(prompt=[[1]] * (prompts + 1)), "prompt", [str(prompts)]),
            (dict(prompt=[[1]] * 16, n=choices), "n", [str(LIMITS["kChoicesMax"])]),
            (dict(stop=["x"] * (LIMITS["kStopStringsMax"] + 1)), "stop", ["17", "16"]),
            (dict(stop="x" * (LIMITS["kStopStringBytesMax"] + 1)), "stop", ["1025", "1024"]),
            (dict(stop=""), "stop", ["0 bytes"]),
            (dict(stop_token_ids=[1] * (LIMITS["kStopTokenIdsMax"] + 1)), "stop_token_ids", ["1024"]),
            (dict(stop_token_ids=[1024]), "stop_token_ids", ["1024", "1023"]),
            (dict(logprobs=21), "logprobs", ["21", "20"]),
            (dict(prompt_logprobs=21), "prompt_logprobs", ["21", "20"]),
            (dict(logit_bias={str(i): 1 for i in range(LIMITS["kLogitBiasMax"] + 1)}), "logit_bias", ["1025", "1024"]),
            (dict(logit_bias={"1024": 1}), "logit_bias", ["1024", "1023"]),
            (dict(logit_bias={"1": "much"}), None, ["logit_bias", "much"]),
            (dict(max_tokens=-1), None, ["max_tokens", "-1"]),
            (dict(max_tokens=1 << 40), None, [str(1 << 40)]),
            (dict(temperature=1001), "temperature", ["1001", "1000"]),
            (dict(presence_penalty=2.5), "presence_penalty", ["2.5", "2"]),
            (dict(repetition_penalty=0), "repetition_penalty", ["0"]),
            (dict(user="u" * (LIMITS["kNameBytesMax"] + 1)), "user", ["513", "512"]),
            (dict(cache_salt="u" * (LIMITS["kNameBytesMax"] + 1)), "cache_salt", ["513", "512"]),
            (dict(prompt=[1] * 4097), None, ["4097", "4096"]),
            (dict(prompt=[1024]), "prompt", ["1024", "1023"]),
            (dict(prompt=[]), "prompt", []),
        ]
        for port in self.doors():
            for fields, param, words in rows:
                with self.subTest(fields=str(fields)[:80]):
                    error = self.has_error(ask(port, "POST", "/v1/completions", {**TEXT, **fields}), 400, words)
                    self.assertEqual(error["type"], "BadRequestError")
                    if param:
                        self.assertEqual(error["param"], param)

    def test_what_lies_on_a_limit_is_answered(self):
        rows = [dict(stop=["~~"] * LIMITS["kStopStringsMax"]), dict(stop="~" * LIMITS["kStopStringBytesMax"]), dict(logprobs=20), dict(prompt=[1] * 4092),
                dict(logit_bias={str(i): 1 for i in range(LIMITS["kLogitBiasMax"])}), dict(user="u" * LIMITS["kNameBytesMax"]),
                dict(prompt=[1] * 4090, max_tokens=200)]  # as in vLLM, an answer ends where the model's length does
        for port in self.doors():
            for fields in rows:
                with self.subTest(fields=str(fields)[:80]):
                    answer = ask(port, "POST", "/v1/completions", {**TEXT, **fields})
                    self.assertEqual(answer.status, 200, answer.body)

    def test_chats_have_limits_too(self):
        message = {"role": "user", "content": "x"}
        rows = [(dict(messages=[]), "messages"), (dict(messages=[message] * (LIMITS["kMessagesMax"] + 1)), "messages"), (dict(top_logprobs=21, logprobs=True), "top_logprobs"),
                (dict(chat_template="x"), "chat_template"), (dict(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}] * (LIMITS["kContentPartsMax"] + 1)}]), None)]
        for port in self.doors():
            for fields, param in rows:
                with self.subTest(fields=str(fields)[:80]):
                    error = self.has_error(ask(port, "POST", "/v1/chat/completions", {"model": "test", "messages": [message], **fields}), 400)
                    if param:
                        self.assertEqual(error["param"], param)

    def test_json_that_is_too_deep_or_none_is_400(self):
        levels = LIMITS["kJsonDepthMax"]
        for port in self.doors():
            for body in (deep(levels + 1), deep(100_000), "{" * 1000, "", "nul", '{"prompt":"a"} x', b'{"prompt":"\xff"}', "[1]"):
                with self.subTest(body=body[:40]):
                    self.has_error(ask(port, "POST", "/v1/completions", body), 400)

    def test_a_body_beyond_the_limit_is_413_before_it_is_read_and_also_when_it_comes_in_chunks(self):
        for port in self.doors():
            limit = LIMITS["kBodyBytesMax"] if port == self.single else LIMITS["kClientBodyBytesMax"]
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            self.has_error(exchange(port, head + b"Content-Length: %d\r\n\r\n" % (limit + 1)), 413, [str(limit)])
            piece = b"%x\r\n" % (1 << 20) + b" " * (1 << 20) + b"\r\n"
            self.has_error(exchange(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + piece * ((limit >> 20) + 1)), 413, [str(limit)])
            whole = json.dumps({**TEXT, "user": ""}).encode()
            answer = ask(port, "POST", "/v1/completions", whole + b" " * (limit - len(whole)))
            self.assertEqual(answer.status, 200, answer.body)

    def test_a_head_beyond_the_limit_is_431(self):
        for port in self.doors():
            for head in (b"X: " + b"x" * 40_000, b"\r\n".join(b"X%d: y" % i for i in range(150))):
                self.has_error(exchange(port, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n"), 431)
            self.has_error(exchange(port, b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"), 431)

    def test_equal_request_ids_of_two_clients_do_not_meet(self):
        for port in self.doors():
            prompts = [[i + 1, i + 2, i + 3] for i in range(6)]
            alone = [ask(port, "POST", "/v1/completions", {**TEXT, "prompt": p, "max_tokens": 24, "ignore_eos": True}).json()["choices"] for p in prompts]
            together = [None] * len(prompts)
            def one(i):
                together[i] = ask(port, "POST", "/v1/completions", {**TEXT, "prompt": prompts[i], "max_tokens": 24, "ignore_eos": True},
                                  {"X-Request-Id": "the-same"}).json()["choices"]
            threads = [threading.Thread(target=one, args=(i,)) for i in range(len(prompts))]
            [t.start() for t in threads], [t.join() for t in threads]
            self.assertEqual(together, alone)

    def test_a_client_that_leaves_frees_its_request_at_every_instance(self):
        for port in self.doors():
            stream = Stream(port, "/v1/completions", LONG)
            next(iter(stream))
            stream.leave()
            for name in ("single", "P", "D"):
                self.cluster.wait_all_free(name, WAIT_SECONDS)
                eventually(self, lambda name=name: metric(self.cluster.ports[name], "vllm:num_requests_running") == 0, f"{name} still runs a request")
                self.assertEqual(metric(self.cluster.ports[name], "vllm:num_requests_waiting"), 0)

    def test_a_head_that_never_ends_holds_up_nobody_and_is_408(self):
        slow = [socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) for port in (self.single, self.proxy) for _ in range(20)]
        for connection in slow:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost")
        for port in self.doors():
            self.assertEqual(ask(port, "GET", "/v1/models").status, 200)
        for connection in (slow[0], slow[-1]):
            self.assertIn(b" 408 ", connection.recv(4096).split(b"\r\n")[0])
        for connection in slow:
            connection.close()


class Queue(Shape):
    def test_a_full_queue_is_429_with_retry_after_and_empties_again(self):
        with Cluster(TINY) as instances:
            port = instances.serve("narrow", None, "--max-num-seqs", "1", "--max-queue-len", "1", "--block-size", "16")
            streams = [Stream(port, "/v1/completions", {**LONG, "max_tokens": 4000})]
            next(iter(streams[0]))
            waiting = threading.Thread(target=lambda: streams.append(Stream(port, "/v1/completions", TEXT)))
            waiting.start()
            eventually(self, lambda: metric(port, "vllm:num_requests_waiting") == 1, "nothing waits")
            refused = ask(port, "POST", "/v1/completions", TEXT)
            self.assertEqual(self.has_error(refused, 429, ["1"])["type"], "RateLimitError")
            self.assertGreaterEqual(int(refused.headers["retry-after"]), 1)
            streams[0].leave()
            waiting.join()
            self.assertEqual(list(streams[1])[-1], "[DONE]")
            self.assertEqual(ask(port, "POST", "/v1/completions", TEXT).status, 200)
            instances.wait_all_free("narrow", WAIT_SECONDS)

    def test_too_many_requests_at_the_proxy_are_429_with_retry_after(self):
        with Cluster(TINY) as instances:
            instances.serve("P", "kv_producer")
            instances.serve("D", "kv_consumer")
            port = instances.proxy("proxy", ["P"], ["D"], "--max-in-flight", "1")
            stream = Stream(port, "/v1/completions", LONG)
            next(iter(stream))
            refused = ask(port, "POST", "/v1/completions", TEXT)
            self.has_error(refused, 429, ["--max-in-flight"])
            self.assertGreaterEqual(int(refused.headers["retry-after"]), 1)
            stream.leave()
            eventually(self, lambda: ask(port, "POST", "/v1/completions", TEXT).status == 200, "the proxy stays full")


class Descriptors(Shape):
    def test_a_process_without_descriptors_serves_again_once_some_are_free(self):
        with Cluster(TINY) as instances:
            def few():
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            original = subprocess.Popen
            try:
                subprocess.Popen = lambda *args, **fields: original(*args, **fields, preexec_fn=few)
                port = instances.serve("few")
            finally:
                subprocess.Popen = original
            held = [socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) for _ in range(100)]
            body = json.dumps(TEXT).encode()
            held[0].sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            self.assertIn(b" 200 ", held[0].recv(65536).split(b"\r\n")[0])  # who is in is served
            for connection in held:
                connection.close()
            eventually(self, lambda: ask(port, "POST", "/v1/completions", TEXT).status == 200, "nobody is served")
            self.assertIsNone(instances.processes["few"].child.poll())
            instances.wait_all_free("few", WAIT_SECONDS)


class SlowReaders(Shape):
    def test_a_client_that_never_reads_loses_its_request_and_costs_nobody_else(self):
        with Cluster(TINY) as instances:
            port = instances.serve("single")
            with socket.socket() as mute:
                mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                mute.connect(("127.0.0.1", port))
                body = json.dumps({**LONG, "stream": True, "logprobs": 20, "n": 4, "temperature": 1}).encode()
                mute.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                eventually(self, lambda: metric(port, "vllm:num_requests_running") >= 1, "the request does not run")
                self.assertEqual(ask(port, "POST", "/v1/completions", TEXT).status, 200)
                # Still connected: it is the unread answer that ends the request, long before its 4 x 3,000 tokens.
                eventually(self, lambda: metric(port, "vllm:num_requests_running") == 0, "it runs on")
                instances.wait_all_free("single", WAIT_SECONDS)
                self.assertLess(metric(port, "vllm:generation_tokens_total"), 4 * 3000)


def own_address() -> str | None:
    """An address of this machine that is not loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = probe.getsockname()[0]
    return None if address.startswith("127.") else address


class Doors(Shape):
    ADMIN = (("POST", "/abort_request", {"request_id": "x"}), ("POST", "/reset_prefix_cache", None), ("GET", "/debug/requests", None), ("POST", "/debug/record", None))

    def from_outside(self, port: int, method: str, path: str, body, key: str | None = None) -> Answer:
        text = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n" + (f"Authorization: Bearer {key}\r\n" if key else "")
        return exchange(port, head.encode() + b"\r\n" + text, own_address())

    def test_admin_routes_take_loopback_or_the_admin_key(self):
        if own_address() is None:
            self.skipTest("this machine has no address but loopback")
        with Cluster(TINY) as instances:
            instances.environment["TMPDIR"] = str(instances.folder)
            open_port = instances.serve("open", None, "--host", "0.0.0.0")
            keyed = instances.serve("keyed", None, "--host", "0.0.0.0", "--admin-key", "k2")
            for method, path, body in self.ADMIN:
                with self.subTest(path=path):
                    self.assertEqual(ask(open_port, method, path, body).status, 200)
                    self.has_error(self.from_outside(open_port, method, path, body), 401, [path])
                    self.has_error(self.from_outside(keyed, method, path, body), 401, [path])
                    self.has_error(self.from_outside(keyed, method, path, body, "k3"), 401, [path])
                    self.assertEqual(self.from_outside(keyed, method, path, body, "k2").status, 200)
            self.assertEqual(self.from_outside(open_port, "POST", "/v1/completions", TEXT).status, 200)

    def test_api_keys_are_asked_for_at_an_instance_and_through_the_proxy(self):
        with Cluster(TINY) as instances:
            instances.serve("P", "kv_producer", "--api-key", "k1", "k2")
            instances.serve("D", "kv_consumer", "--api-key", "k1")
            instances.environment["OPENAI_API_KEY"] = "k1"
            closed = Cluster.wait_ready  # a proxy with keys refuses /v1/models too: it is ready when /healthcheck answers
            try:
                instances.wait_ready = lambda name, path="/health": closed(instances, name, "/healthcheck" if name == "proxy" else path)
                proxy = instances.proxy("proxy", ["P"], ["D"], "--api-key", "outer", "--health-interval", "0.2")
            finally:
                del instances.wait_ready
            eventually(self, lambda: ask(proxy, "GET", "/health").status == 200, "the proxy sees no instance")
            rows = [(instances.ports["P"], None, 401), (instances.ports["P"], "outer", 401), (instances.ports["P"], "k1", 200), (instances.ports["P"], "k2", 200),
                    (proxy, None, 401), (proxy, "k1", 401), (proxy, "outer", 200)]
            for port, key, status in rows:
                with self.subTest(key=key, status=status):
                    answer = ask(port, "POST", "/v1/completions", TEXT, {"Authorization": f"Bearer {key}"} if key else {})
                    self.assertEqual(answer.status, status, answer.body)
                    if status == 401:
                        self.assertEqual(self.has_error(answer, 401)["type"], "AuthenticationError")


if __name__ == "__main__":
    unittest.main()
