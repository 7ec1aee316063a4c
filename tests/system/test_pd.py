"""Two prefill and two decode instances behind the proxy: the answers are those of one instance, to the bit."""
import unittest

from tests.system.cluster import Cluster, ask

QUESTIONS = ["What is a violin?", "Define volcano.", "what does glacier mean", "Who are you?"]


class PrefillDecode(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster())
        for name in ("P1", "P2"):
            cls.cluster.serve(name, "kv_producer")
        for name in ("D1", "D2"):
            cls.cluster.serve(name, "kv_consumer")
        cls.single = cls.cluster.serve("single")
        cls.proxy = cls.cluster.proxy("proxy", ["P1", "P2"], ["D1", "D2"])

    def test_answers_through_the_proxy_are_those_of_one_instance(self):
        for question in QUESTIONS:
            for fields in ({"temperature": 0}, {"temperature": 1.2, "seed": 5, "n": 2}, {"temperature": 0, "stop": ["is a"]}):
                body = {"model": "test", "messages": [{"role": "user", "content": question}], "max_tokens": 24, "logprobs": True,
                        "top_logprobs": 2, **fields}
                answers = [ask(port, "POST", "/v1/chat/completions", body) for port in (self.proxy, self.single)]
                self.assertEqual([a.status for a in answers], [200, 200], answers[0].body)
                self.assertEqual(answers[0].json()["choices"], answers[1].json()["choices"], (question, fields))
        for name in ("P1", "P2", "D1", "D2"):
            self.cluster.wait_all_free(name)

    def test_each_answer_is_prefilled_on_one_process_and_decoded_on_another(self):
        answer = ask(self.proxy, "POST", "/v1/chat/completions",
                     {"model": "test", "messages": [{"role": "user", "content": "What is a violin?"}], "max_tokens": 8, "temperature": 0})
        self.assertIn("x-baton-prefill", answer.headers)
        self.assertNotEqual(answer.headers["x-baton-prefill"], answer.headers["x-baton-decode"])

    def test_health_names_every_instance(self):
        body = ask(self.proxy, "GET", "/healthcheck").json()
        self.assertEqual((body["status"], body["prefill_instances"], body["decode_instances"]), ("ok", 2, 2))
        self.assertEqual(body["refused_pairs"], [])


if __name__ == "__main__":
    unittest.main()
