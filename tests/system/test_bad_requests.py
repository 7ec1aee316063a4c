"""A request that is wrong is told the same by one instance and through the proxy: status, words and field."""
import gzip
import json
import unittest

from tests.system.cluster import Cluster, ask

PATH = "/v1/completions"
GOOD = b'{"model":"test","prompt":"a","max_tokens":1}'
BODIES = [b"", b"{", b"[]", b"[1]", b"1", b"null", b'"text"', b"hello", GOOD + b" x", b'{"prompt":"a",}', b'{"prompt":"\xff"}', b'{"prompt":truex}',
          b'{"prompt":"a","stop":["a",]}', b'{"prompt":"a"', b'{"prompt":"a","stream":"yes"}', b'{"prompt":"a","stream":[true]}', b'{"prompt":"a","stream":2}',
          b'{"prompt":"a","stream":true,"stream_options":1}', b'{"prompt":"a","stream":true,"stream_options":{"include_usage":"x"}}',
          b'{"prompt":"a","echo":"maybe"}', b'{"prompt":"a","n":0}', b'{"prompt":"a","n":"many"}', b'{"prompt":"a","max_tokens":-1}',
          b'{"prompt":"a","max_tokens":"x"}', b'{"prompt":"a","min_tokens":9,"max_tokens":2}', b'{"prompt":"a","temperature":"hot"}', b'{"prompt":{}}',
          b'{"prompt":[]}', b'{"prompt":[1,"a"]}', b'{"model":"test"}', b'{"model":"other","prompt":"a"}', b'{"model":7,"prompt":"a"}',
          b'{"prompt":"a","use_beam_search":"yes"}', b'{"prompt":"a","stream":true,"prompt_logprobs":1}', b'{"prompt":' + b"[" * 300 + b"]" * 300 + b"}"]
CHATS = [b"{}", b'{"messages":"a"}', b'{"messages":[]}', b'{"messages":[{"role":"user","content":"a"},]}', b'{"messages":[{"content":"a"}]}',
         b'{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}']


class SameWords(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster())
        cls.one = cls.cluster.serve("one")
        cls.cluster.serve("P", "kv_producer")
        cls.cluster.serve("D", "kv_consumer")
        cls.proxy = cls.cluster.proxy("proxy", ["P"], ["D"])

    def both(self, method: str, path: str, body, headers=None):
        return [ask(port, method, path, body, headers) for port in (self.one, self.proxy)]

    def test_a_bad_body_is_refused_in_the_same_words(self):
        for path, bodies in ((PATH, BODIES), ("/v1/chat/completions", CHATS), ("/tokenize", [b"{", b"{}"]), ("/detokenize", [b'{"tokens":[-1]}'])):
            for body in bodies:
                with self.subTest(path=path, body=body[:60]):
                    one, proxy = self.both("POST", path, body)
                    self.assertGreaterEqual(one.status, 400, one.body)
                    self.assertEqual(proxy.status, one.status, (one.body, proxy.body))
                    self.assertEqual(proxy.json(), one.json())

    def test_a_switch_is_read_as_lax_as_an_instance_reads_it(self):
        for stream in ("1", '"true"', "0", '"false"', "null"):
            body = b'{"model":"test","prompt":"a","max_tokens":1,"temperature":0,"stream":%s}' % stream.encode()
            one, proxy = self.both("POST", PATH, body)
            self.assertEqual((one.status, proxy.status), (200, 200), proxy.body)
            self.assertEqual(proxy.headers["content-type"], one.headers["content-type"], stream)

    def test_a_coding_that_is_not_read_and_methods_that_are_not_served(self):
        for method, path, body, headers in (("POST", PATH, gzip.compress(GOOD), {"Content-Encoding": "gzip"}), ("DELETE", PATH, None, None),
                                            ("GET", "/tokenize", None, None), ("GET", "/nowhere", None, None)):
            one, proxy = self.both(method, path, body, headers)
            self.assertEqual((proxy.status, proxy.body, proxy.headers.get("allow")), (one.status, one.body, one.headers.get("allow")))
        self.assertEqual(self.both("POST", PATH, gzip.compress(GOOD), {"Content-Encoding": "gzip"})[1].status, 415)

    def test_what_serve_answers_beside_completions_the_proxy_answers_too(self):
        for method, path, body in (("POST", "/tokenize", {"model": "test", "prompt": "What is a violin?", "return_token_strs": True}),
                                   ("POST", "/tokenize", {"messages": [{"role": "user", "content": "hi"}]}),
                                   ("POST", "/detokenize", {"tokens": [72, 105]}), ("GET", "/version", None), ("GET", "/ping", None),
                                   ("POST", "/ping", None), ("HEAD", "/health", None)):
            one, proxy = self.both(method, path, body)
            self.assertEqual((proxy.status, proxy.body), (one.status, one.body), path)
            self.assertEqual(one.status, 200)
        ids = ask(self.proxy, "POST", "/tokenize", {"prompt": "a café"}).json()["tokens"]
        self.assertEqual(ask(self.proxy, "POST", "/detokenize", json.dumps({"tokens": ids})).json()["prompt"], "a café")
