"""The dialects of upstream vLLM: `baton proxy` drives instances that are no Baton, byte for byte as
tests/dialects/vllm_nixl_pull.txt and tests/dialects/vllm_mooncake.txt say."""
import json
import time
import unittest

from tests.system.cluster import ROOT, Cluster, ask
from tests.system.fake_engine import Events, FakeEngine, Whole
from tests.system.test_vllm_ascend_dialect import PATIENCE, Case, ForeignInstances, read_cases

DIALECTS = ROOT / "tests" / "dialects"
QUERY = b'{"0":{"engine_id":"engine-0","worker_addr":{"0":{"0":"tcp://127.0.0.1:41000"}}}}'


def answers(case: Case, who: str):
    status, body = case.answered.get(who, (500, b"{}"))
    return Events([body]) if body.startswith(b"data: ") else Whole(status, body)


class NixlPull(ForeignInstances):
    def test_every_case_byte_for_byte(self):
        for case in read_cases(DIALECTS / "vllm_nixl_pull.txt"):
            with self.subTest(case.name):
                self.p.answers(answers(case, "P"))
                self.d.answers(answers(case, "D"))
                what, body = case.sent["client"]
                found = ask(self.proxy, "POST", what.split()[1], body)
                self.assertEqual((found.status, found.body), case.answered["client"])
                for engine, who in ((self.p, "P"), (self.d, "D")):
                    self.assertEqual([(f"POST {r.path}", r.body) for r in engine.heard], [case.sent[who]])
        self.cluster.wait_reservations_back("proxy")


class UpstreamMooncake(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.p, cls.d, cls.bootstrap = (cls.enterClassContext(FakeEngine()) for _ in range(3))
        cls.bootstrap.bootstrap = Whole(503, b"{}")
        cls.cluster = cls.enterClassContext(Cluster())
        cls.proxy = cls.cluster.proxy("proxy", [], [], "--prefill", f"http://127.0.0.1:{cls.p.port}", str(cls.bootstrap.port),
                                      "--decode", f"http://127.0.0.1:{cls.d.port}/", "--health-interval", "0.1", ready="/healthcheck")

    def setUp(self):
        self.bootstrap.bootstrap = Whole(200, QUERY)
        self.wait_health(200)
        self.wait_engine("engine-0")

    def wait_health(self, status: int):
        deadline = time.monotonic() + PATIENCE
        while ask(self.proxy, "GET", "/health").status != status:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def test_every_case_byte_for_byte(self):
        for case in read_cases(DIALECTS / "vllm_mooncake.txt"):
            with self.subTest(case.name):
                self.p.answers(answers(case, "P"))
                self.d.answers(answers(case, "D"))
                what, body = case.sent["client"]
                found = ask(self.proxy, "POST", what.split()[1], body)
                self.assertEqual((found.status, found.body), case.answered["client"])
                (of_p,), (of_d,) = self.p.heard, self.d.heard
                name = of_p.headers["x-request-id"].encode()
                self.assertEqual(of_d.headers["x-request-id"].encode(), name)
                self.assertEqual(of_p.headers["x-data-parallel-rank"], "0")
                self.assertNotIn("x-data-parallel-rank", of_d.headers)
                for heard, who in ((of_p, "P"), (of_d, "D")):
                    wanted = case.sent[who][1].replace(b"xfer-ID", b"xfer-" + name)
                    wanted = wanted.replace(b"BOOTSTRAP", b"http://127.0.0.1:%d" % self.bootstrap.port)
                    self.assertEqual((f"POST {heard.path}", heard.body), (case.sent[who][0], wanted))
        self.cluster.wait_reservations_back("proxy")

    def test_a_p_whose_bootstrap_server_says_nothing_gets_no_requests_and_the_reason_is_shown(self):
        for answer, reason in ((Whole(500, b""), "/query answers 500"), (Whole(200, b"{}"), "no rank of it has registered yet"),
                               (Whole(200, b'{"x":1}'), "rank x: expected a number from 0 up")):
            self.bootstrap.bootstrap = answer
            self.wait_health(503)
            deadline = time.monotonic() + PATIENCE
            while reason not in (shown := ask(self.proxy, "GET", "/healthcheck").json()["instances"][0].get("reason", "")):
                self.assertLess(time.monotonic(), deadline, shown)
                time.sleep(0.02)
            self.assertIn(f"its bootstrap server http://127.0.0.1:{self.bootstrap.port}", shown)
        self.assertEqual(ask(self.proxy, "POST", "/v1/completions", {"prompt": "x"}).status, 503)

    def wait_engine(self, name: str):
        """Until D is told of this engine."""
        deadline = time.monotonic() + PATIENCE
        said = None
        while said != name:
            self.assertLess(time.monotonic(), deadline)
            self.p.answers(Whole(200, b'{"choices":[{"finish_reason":"length"}]}'))
            self.d.answers(Whole(200, b'{"choices":[{}]}'))
            ask(self.proxy, "POST", "/v1/completions", {"prompt": "x"})
            said = json.loads(self.d.heard[0].body)["kv_transfer_params"]["remote_engine_id"]

    def test_another_life_of_p_has_other_engine_ids(self):
        self.bootstrap.bootstrap = Whole(200, QUERY.replace(b"engine-0", b"engine-new"))
        self.wait_engine("engine-new")


if __name__ == "__main__":
    unittest.main()
