"""One instance behind its OpenAI-compatible door: what it answers, and what it refuses and how."""
import json
import socket
import threading
import time
import unittest

from tests.system.cluster import Cluster, Stream, ask

CHAT = {"model": "test", "messages": [{"role": "user", "content": "What is a violin?"}], "max_tokens": 32, "temperature": 0}
TEXT = {"model": "test", "prompt": "What is a violin?", "max_tokens": 8, "temperature": 0}


class SingleInstance(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster())
        cls.port = cls.cluster.serve("single")

    def chat(self, **fields):
        return ask(self.port, "POST", "/v1/chat/completions", {**CHAT, **fields})

    def complete(self, **fields):
        return ask(self.port, "POST", "/v1/completions", {**TEXT, **fields})

    def test_answers_a_question_from_the_trained_model(self):
        answer = self.chat()
        self.assertEqual(answer.status, 200, answer.body)
        body = answer.json()
        self.assertIn("instrument", body["choices"][0]["message"]["content"])
        self.assertEqual(body["choices"][0]["finish_reason"], "stop")
        self.assertEqual(body["object"], "chat.completion")
        self.assertEqual(body["usage"]["total_tokens"], body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"])

    def test_a_stream_joined_is_the_whole_answer(self):
        whole = self.chat(logprobs=True, top_logprobs=3).json()
        events = self.chat(stream=True, logprobs=True, top_logprobs=3, stream_options={"include_usage": True}).events()
        self.assertEqual(events[-1], "[DONE]")
        self.assertEqual(events[0]["choices"][0]["delta"]["role"], "assistant")
        text = "".join(e["choices"][0]["delta"].get("content") or "" for e in events[:-1] if e["choices"])
        self.assertEqual(text, whole["choices"][0]["message"]["content"])
        logprobs = [p for e in events[:-1] if e["choices"] for p in ((e["choices"][0].get("logprobs") or {}).get("content") or [])]
        self.assertEqual(logprobs, whole["choices"][0]["logprobs"]["content"])
        self.assertEqual(events[-2]["usage"]["completion_tokens"], whole["usage"]["completion_tokens"])
        self.assertEqual(len({e["id"] for e in events[:-1]}), 1)

    def test_continuous_usage_counts_tokens_in_every_chunk(self):
        events = self.chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}).events()[:-1]
        counts = [e["usage"]["completion_tokens"] for e in events]
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(counts[-1], self.chat().json()["usage"]["completion_tokens"])

    def test_prompts_as_text_ids_and_lists_agree(self):
        ids = ask(self.port, "POST", "/tokenize", {"model": "test", "prompt": TEXT["prompt"]}).json()["tokens"]
        texts = [c["text"] for c in self.complete(prompt=[TEXT["prompt"], TEXT["prompt"]]).json()["choices"]]
        self.assertEqual(texts, [self.complete(prompt=ids).json()["choices"][0]["text"]] * 2)
        self.assertEqual(texts, [c["text"] for c in self.complete(prompt=[ids, ids]).json()["choices"]])

    def test_detokenize_is_the_inverse_of_tokenize(self):
        ids = ask(self.port, "POST", "/tokenize", {"model": "test", "prompt": "a café, 7 times"}).json()["tokens"]
        self.assertEqual(ask(self.port, "POST", "/detokenize", {"model": "test", "tokens": ids}).json()["prompt"], "a café, 7 times")

    def test_the_same_seed_draws_the_same_answer_and_choices_differ(self):
        sampled = dict(temperature=1.5, seed=11, n=4, prompt="What", max_tokens=12)
        first, second = (self.complete(**sampled).json() for _ in range(2))
        self.assertEqual([c["text"] for c in first["choices"]], [c["text"] for c in second["choices"]])
        self.assertGreater(len({c["text"] for c in first["choices"]}), 1)
        self.assertEqual([c["index"] for c in first["choices"]], [0, 1, 2, 3])
        self.assertNotEqual(first["choices"][0]["text"], self.complete(**{**sampled, "seed": 12}).json()["choices"][0]["text"])

    def test_a_stop_string_is_never_part_of_the_answer(self):
        free = self.chat().json()["choices"][0]["message"]["content"]
        stop = free[10:14]
        for stream in (False, True):
            answer = self.chat(stop=[stop], stream=stream)
            if stream:
                events = [e for e in answer.events()[:-1] if e["choices"]]
                text = "".join(e["choices"][0]["delta"].get("content") or "" for e in events)
                last = events[-1]["choices"][0]
            else:
                last = answer.json()["choices"][0]
                text = last["message"]["content"]
            self.assertEqual(text, free[: free.index(stop)])
            self.assertEqual((last["finish_reason"], last["stop_reason"]), ("stop", stop))

    def test_length_limits_say_length(self):
        body = self.complete(max_tokens=3, ignore_eos=True).json()
        self.assertEqual((body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]), ("length", 3))

    def test_echo_and_prompt_logprobs_cover_the_prompt(self):
        body = self.complete(echo=True, logprobs=2, max_tokens=2).json()["choices"][0]
        self.assertTrue(body["text"].startswith(TEXT["prompt"]))
        self.assertIsNone(body["logprobs"]["token_logprobs"][0])
        self.assertEqual("".join(body["logprobs"]["tokens"]), body["text"])
        only_prompt = self.complete(echo=True, logprobs=1, max_tokens=0).json()
        self.assertEqual(only_prompt["choices"][0]["text"], TEXT["prompt"])
        positions = self.complete(prompt_logprobs=1).json()["choices"][0]["prompt_logprobs"]
        self.assertIsNone(positions[0])
        self.assertGreater(len(positions), 1)

    def test_token_ids_come_back_on_request(self):
        body = self.complete(return_token_ids=True, max_tokens=4).json()["choices"][0]
        self.assertEqual(len(body["token_ids"]), 4)
        self.assertEqual(body["prompt_token_ids"], ask(self.port, "POST", "/tokenize", {"prompt": TEXT["prompt"]}).json()["tokens"])

    def test_the_prefix_cache_answers_the_same_and_says_so(self):
        long = {"prompt": "What is a violin? " * 20, "max_tokens": 4, "cache_salt": "of this test"}
        first, second = self.complete(**long).json(), self.complete(**long).json()
        self.assertEqual(first["choices"], second["choices"])
        self.assertEqual(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertGreater(second["usage"]["prompt_tokens_details"]["cached_tokens"], 64)
        other = self.complete(**{**long, "cache_salt": "of another"}).json()
        self.assertEqual(other["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertEqual(ask(self.port, "POST", "/reset_prefix_cache").status, 200)
        self.assertEqual(self.complete(**long).json()["usage"]["prompt_tokens_details"]["cached_tokens"], 0)

    def test_refusals_name_field_value_and_expectation(self):
        rows = [  # fields, status, what the message must hold
            (dict(temperature=-1), 400, ["temperature", "-1"]),
            (dict(top_p=0), 400, ["top_p"]),
            (dict(n=0), 400, ["n", "0"]),
            (dict(n=100000), 400, ["n", "100000", "128"]),
            (dict(max_tokens=-5), 400, ["max_tokens", "-5"]),
            (dict(stop=["x"] * 17), 400, ["stop", "16"]),
            (dict(logprobs=21), 400, ["logprobs", "21", "20"]),
            (dict(prompt=[999999]), 400, ["999999", "4095"]),
            (dict(prompt=[]), 400, ["prompt"]),
            (dict(prompt="word " * 9000), 400, ["8192"]),
            (dict(model="gpt-4"), 404, ["gpt-4", "test"]),
            (dict(logit_bias={"99999": 1}), 400, ["logit_bias", "99999"]),
            (dict(response_format={"type": "json_schema"}), 400, ["response_format", "json_schema"]),
        ]
        for fields, status, words in rows:
            answer = self.complete(**fields)
            self.assertEqual(answer.status, status, (fields, answer.body))
            error = answer.json()["error"]
            self.assertEqual(error["code"], status)
            for word in words:
                self.assertIn(word, error["message"], fields)

    def test_bodies_that_are_not_json_are_refused(self):
        for body in ("", "{", "[1,2]", '{"prompt": "\xff"}'.encode("latin-1"), "[" * 100000, '{"a":' * 200 + "1" + "}" * 200):
            answer = ask(self.port, "POST", "/v1/completions", body)
            self.assertEqual(answer.status, 400, body[:40])
            self.assertIn("message", answer.json()["error"])

    def test_unknown_paths_and_methods_have_their_status(self):
        self.assertEqual(ask(self.port, "GET", "/nothing").status, 404)
        self.assertEqual(ask(self.port, "GET", "/v1/completions").status, 405)

    def test_metrics_are_vllms(self):
        self.chat()
        text = ask(self.port, "GET", "/metrics").body.decode()
        for name in ("vllm:time_to_first_token_seconds_bucket", "vllm:num_requests_running", "vllm:generation_tokens_total",
                     "vllm:request_success_total", "vllm:e2e_request_latency_seconds_sum", "baton:"):
            self.assertIn(name, text)

    def test_a_client_that_hangs_up_gives_its_blocks_back(self):
        stream = Stream(self.port, "/v1/completions", {**TEXT, "max_tokens": 4000, "ignore_eos": True})
        for count, _ in enumerate(stream):
            if count == 3:
                break
        stream.leave()
        self.cluster.wait_all_free("single")

    def test_requests_with_equal_ids_do_not_meet(self):
        answers = []
        def one(question):
            answers.append(ask(self.port, "POST", "/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": question}]},
                               {"X-Request-Id": "the-same"}).json()["choices"][0]["message"]["content"])
        threads = [threading.Thread(target=one, args=(f"What is a {word}?",)) for word in ("violin", "volcano", "glacier", "raven")]
        [t.start() for t in threads], [t.join() for t in threads]
        self.assertEqual(len(set(answers)), 4)

    def test_debug_requests_names_what_runs(self):
        stream = Stream(self.port, "/v1/completions", {**TEXT, "max_tokens": 3000, "ignore_eos": True}, {"X-Request-Id": "watched"})
        next(iter(stream))
        listed = ask(self.port, "GET", "/debug/requests").json()["requests"]
        stream.leave()
        self.assertEqual([r["request_id"] for r in listed], ["watched"])
        self.assertEqual(listed[0]["state"], "decode")

    def test_abort_request_ends_a_stream_with_an_error_event(self):
        stream = Stream(self.port, "/v1/completions", {**TEXT, "max_tokens": 4000, "ignore_eos": True}, {"X-Request-Id": "doomed"})
        events = iter(stream)
        next(events)
        self.assertEqual(ask(self.port, "POST", "/abort_request", {"request_id": "doomed"}).status, 200)
        rest = list(events)
        self.assertTrue(any("error" in e for e in rest if e != "[DONE]"), rest[-3:])

    def test_a_client_that_never_reads_loses_its_request_and_nobody_elses(self):
        with socket.create_connection(("127.0.0.1", self.port)) as mute:
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps({**TEXT, "stream": True, "max_tokens": 6000, "ignore_eos": True, "logprobs": 20, "n": 8, "temperature": 1}).encode()
            mute.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(1)
            self.assertEqual(self.chat().status, 200)
        self.cluster.wait_all_free("single")


class Keys(unittest.TestCase):
    def test_api_and_admin_keys_are_asked_for(self):
        with Cluster() as cluster:
            port = cluster.serve("guarded", None, "--api-key", "k1", "--admin-key", "k2")
            body = {**TEXT, "max_tokens": 1}
            self.assertEqual(ask(port, "POST", "/v1/completions", body).status, 401)
            self.assertEqual(ask(port, "POST", "/v1/completions", body, {"Authorization": "Bearer wrong"}).status, 401)
            self.assertEqual(ask(port, "POST", "/v1/completions", body, {"Authorization": "Bearer k1"}).status, 200)
            self.assertEqual(ask(port, "GET", "/debug/requests").status, 401)
            self.assertEqual(ask(port, "GET", "/debug/requests", headers={"Authorization": "Bearer k2"}).status, 200)
            self.assertEqual(ask(port, "GET", "/health").status, 200)


class Ending(unittest.TestCase):
    def test_sigterm_lets_a_running_answer_end(self):
        with Cluster() as cluster:
            port = cluster.serve("draining")
            stream = Stream(port, "/v1/completions", {**TEXT, "max_tokens": 400, "ignore_eos": True})
            events = iter(stream)
            next(events)
            cluster.processes["draining"].child.terminate()
            rest = list(events)
            self.assertEqual(rest[-1], "[DONE]")
            self.assertEqual(cluster.processes["draining"].child.wait(20), 0)


if __name__ == "__main__":
    unittest.main()
