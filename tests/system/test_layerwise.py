"""The layer-wise order with real processes: the tutorial's second deployment, MooncakeLayerwiseConnector on both sides."""
import threading
import time
import unittest

from tests.system.cluster import Cluster, Stream, ask

LAYERWISE = "MooncakeLayerwiseConnector"
TEXT = {"model": "test", "prompt": "What is a violin? " * 40, "max_tokens": 24, "temperature": 0}
CHAT = {"model": "test", "messages": [{"role": "user", "content": "Define volcano."}], "max_tokens": 24, "temperature": 0}
PATIENCE = 30


def joined(answer) -> dict:
    """Text and the last finish reason by choice: where chunks are cut may differ."""
    found: dict[int, list] = {}
    for event in answer.events()[:-1]:
        for choice in event["choices"]:
            text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            so_far = found.setdefault(choice["index"], ["", None])
            found[choice["index"]] = [so_far[0] + text, choice.get("finish_reason") or so_far[1]]
    return found


class Layerwise(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster())
        cls.p = cls.cluster.serve("P", "kv_producer", connector=LAYERWISE)
        cls.d = cls.cluster.serve("D", "kv_consumer", "--block-size", "32", connector=LAYERWISE)
        cls.single = cls.cluster.serve("single")
        cls.proxy = cls.cluster.proxy("proxy", ["P"], ["D"])  # --order auto

    def recent(self, port: int) -> list[dict]:
        return ask(port, "GET", "/debug/requests").json()["recent"]

    def wait_all_free(self):
        for name in ("P", "D"):
            self.cluster.wait_all_free(name)

    def test_answers_are_those_of_a_single_instance_and_nothing_is_computed_twice(self):
        rows = [
            ("/v1/completions", TEXT),
            ("/v1/completions", {**TEXT, "stream": True, "stream_options": {"include_usage": True}}),
            ("/v1/completions", {**TEXT, "prompt": "A raven is", "temperature": 1.1, "seed": 3, "n": 3, "logprobs": 2}),
            ("/v1/completions", {**TEXT, "prompt": "A glacier is", "stop": ["is"], "min_tokens": 3}),
            ("/v1/completions", {**TEXT, "prompt": "One token of ", "max_tokens": 1}),
            ("/v1/completions", {**TEXT, "prompt": "An owl ", "prompt_logprobs": 1}),
            ("/v1/completions", {**TEXT, "prompt": "A cat ", "echo": True, "logprobs": 1, "max_tokens": 3}),
            ("/v1/completions", {**TEXT, "prompt": ["Two", "prompts"], "max_tokens": 3}),
            ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}),
            ("/v1/chat/completions", {**CHAT, "stream": True}),
        ]
        for path, client in rows:
            with self.subTest(path=path, client=client):
                through, alone = ask(self.proxy, "POST", path, client), ask(self.single, "POST", path, client)
                self.assertEqual((through.status, alone.status), (200, 200), (through.body, alone.body))
                if client.get("stream"):
                    self.assertEqual(joined(through), joined(alone))
                    self.assertEqual(through.events()[-1], "[DONE]")
                else:
                    self.assertEqual(through.json()["choices"], alone.json()["choices"])
                    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
                        self.assertEqual(through.json()["usage"][key], alone.json()["usage"][key])
        self.assertEqual([r for r in self.recent(self.d) if r["recomputed"]], [])
        self.assertTrue(any(r["remote"] for r in self.recent(self.d)))
        self.wait_all_free()

    def test_a_prompt_that_d_knows_gives_the_same_answer(self):
        client = {**TEXT, "prompt": "Once more, and again. " * 20, "max_tokens": 6}
        answers = [ask(self.proxy, "POST", "/v1/completions", client).json()["choices"][0]["text"] for _ in range(3)]
        self.assertEqual(len(set(answers)), 1)
        self.wait_all_free()

    def test_many_clients_at_once(self):
        prompts = [f"Number {i} of many. " * (1 + i % 7) for i in range(24)]
        alone = [ask(self.single, "POST", "/v1/completions", {**TEXT, "prompt": p, "max_tokens": 8}).json()["choices"] for p in prompts]
        found: dict[int, list] = {}

        def one(i: int):
            found[i] = ask(self.proxy, "POST", "/v1/completions", {**TEXT, "prompt": prompts[i], "max_tokens": 8}).json().get("choices")

        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([found[i] for i in range(len(prompts))], alone)
        self.wait_all_free()

    def test_a_client_that_leaves_frees_both(self):
        for _ in range(3):
            stream = Stream(self.proxy, "/v1/completions", {**TEXT, "prompt": "A long story. " * 60, "max_tokens": 400, "ignore_eos": True})
            self.assertEqual(stream.status, 200)
            next(iter(stream))
            stream.leave()
        self.wait_all_free()

    def test_a_proxy_of_the_other_order_is_told_so(self):
        pull = self.cluster.proxy("pull", ["P"], ["D"], "--order", "pull", ready="/healthcheck")
        deadline = time.monotonic() + PATIENCE
        while True:
            health = ask(pull, "GET", "/healthcheck").json()
            if health["refused_pairs"]:
                break
            self.assertLess(time.monotonic(), deadline, health)
            time.sleep(0.02)
        self.assertIn("order: layerwise", health["refused_pairs"][0]["reason"])
        answer = ask(pull, "POST", "/v1/completions", TEXT)
        self.assertEqual(answer.status, 503)
        self.assertIn("--order pull", answer.json()["error"]["message"])
        # A foreign pull proxy asks nobody: P itself says it.
        six = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None,
               "remote_host": None, "remote_port": None}
        refused = ask(self.p, "POST", "/v1/completions", {**TEXT, "kv_transfer_params": six, "max_tokens": 1})
        self.assertEqual(refused.status, 400)
        for words in ("kv_transfer_params", "remote_host null", "--order layerwise"):
            self.assertIn(words, refused.json()["error"]["message"])

    def test_only_d_listens(self):
        port = {name: ask(at, "GET", "/v1/models").json()["baton"] for name, at in (("P", self.p), ("D", self.d))}
        self.assertEqual((port["P"]["order"], port["D"]["order"]), ("layerwise", "layerwise"))
        self.assertEqual(port["P"]["kv_port"], 0)
        self.assertGreater(port["D"]["kv_port"], 0)


class LayerwiseFailures(unittest.TestCase):
    def test_without_a_metaserver_d_computes_the_prompt_itself(self):
        with Cluster() as cluster:
            d = cluster.serve("D", "kv_consumer", connector=LAYERWISE)
            answer = ask(d, "POST", "/v1/completions",
                         {**TEXT, "kv_transfer_params": {"do_remote_decode": False, "do_remote_prefill": True, "metaserver": "http://127.0.0.1:1/x"}})
            alone = ask(d, "POST", "/v1/completions", TEXT)
            self.assertEqual(answer.status, 200, answer.body)
            self.assertEqual(answer.json()["choices"], alone.json()["choices"])
            self.assertTrue(any(r["recomputed"] for r in ask(d, "GET", "/debug/requests").json()["recent"]))
            cluster.wait_all_free("D")

    def test_p_dies_and_another_one_or_d_itself_does_the_work(self):
        with Cluster() as cluster:
            for name in ("P1", "P2"):
                cluster.serve(name, "kv_producer", connector=LAYERWISE)
            cluster.serve("D", "kv_consumer", connector=LAYERWISE)
            proxy = cluster.proxy("proxy", ["P1", "P2"], ["D"])
            alone = ask(proxy, "POST", "/v1/completions", TEXT).json()["choices"]
            statuses: list = []

            def ask_many():
                for i in range(6):
                    answer = ask(proxy, "POST", "/v1/completions", {**TEXT, "prompt": f"{i} " + TEXT["prompt"]})
                    statuses.append(answer.status)

            threads = [threading.Thread(target=ask_many) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.2)
            cluster.processes["P1"].kill()
            for thread in threads:
                thread.join()
            self.assertEqual(set(statuses), {200})
            self.assertEqual(ask(proxy, "POST", "/v1/completions", TEXT).json()["choices"], alone)
            for name in ("P2", "D"):
                cluster.wait_all_free(name)


if __name__ == "__main__":
    unittest.main()
