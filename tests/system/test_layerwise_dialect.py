"""The dialect of vllm-ascend's layer-wise proxy and connector: `baton proxy --order layerwise` drives instances that are no
Baton, byte for byte as tests/dialects/vllm_ascend_layerwise.txt says."""
import http.client
import json
import re
import threading
import time
import unittest
import urllib.parse

from tests.system.cluster import ROOT, Cluster, ask
from tests.system.fake_engine import Events, FakeEngine, Silence, Whole

CASES = ROOT / "tests" / "dialects" / "vllm_ascend_layerwise.txt"
PATIENCE = 30
IDS = re.compile(rb"[0-9a-f]{32}")


class Case:
    def __init__(self, name: str):
        self.name = name
        self.sent: dict[str, list] = {}      # to whom: ["POST /path", body]
        self.answered: dict[str, list] = {}  # by whom: [status, body]


def read_cases() -> list[Case]:
    cases: list[Case] = []
    for line in CASES.read_text().splitlines():
        if line.startswith("== "):
            cases.append(Case(line[3:]))
        elif match := re.fullmatch(r"([<>]) (client|P|D|metaserver): (.*)", line):
            direction, who, what = match.groups()
            body = cases[-1].sent.setdefault(who, [what, b""]) if direction == ">" else cases[-1].answered.setdefault(who, [int(what), b""])
        elif line and not line.startswith("#"):
            body[1] += line.encode() + (b"\n\n" if line.startswith("data: ") else b"")
    return cases


class Posting:
    """An answer of D: it posts to the metaserver it was told of, then answers."""

    def __init__(self, body: bytes, answer, replies: list):
        self.body, self.answer, self.replies = body, answer, replies

    def __call__(self, heard):
        given = json.loads(heard.body)["kv_transfer_params"]["metaserver"]
        url = urllib.parse.urlsplit(given)
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE)
        connection.request("POST", url.path, self.body.replace(b"ID", heard.headers["x-request-id"].encode()))
        reply = connection.getresponse()
        self.replies.append((reply.status, reply.read()))
        connection.close()
        return self.answer


class LayerwiseDialect(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.p, cls.d = cls.enterClassContext(FakeEngine()), cls.enterClassContext(FakeEngine())
        cls.cluster = cls.enterClassContext(Cluster())
        cls.cluster.environment = {k: v for k, v in cls.cluster.environment.items() if k != "OPENAI_API_KEY"}
        cls.cluster.ports.update(P=cls.p.port, D=cls.d.port)
        cls.proxy = cls.cluster.proxy("proxy", ["P"], ["D"], "--order", "layerwise", "--health-interval", "0.2", ready="/health")
        cls.metaserver = f"http://127.0.0.1:{cls.proxy}/v1/metaserver".encode()

    def named(self, body: bytes) -> bytes:
        """What was heard, as the cases write it."""
        return IDS.sub(b"ID", body.replace(self.metaserver, b"METASERVER")).replace(f"127.0.0.1:{self.p.port}".encode(), b"PREFILL")

    def test_every_case_byte_for_byte(self):
        for case in read_cases():
            with self.subTest(case.name):
                replies: list = []
                answers = {}
                for who in ("P", "D"):
                    status, answer = case.answered.get(who, (0, b""))
                    answers[who] = Silence() if status == 0 else Events([answer]) if answer.startswith(b"data: ") else Whole(status, answer)
                if "metaserver" in case.sent:
                    answers["D"] = Posting(case.sent["metaserver"][1], answers["D"], replies)
                self.p.answers(answers["P"])
                self.d.answers(answers["D"])
                path = case.sent["client"][0].split()[1]
                found = ask(self.proxy, "POST", path, case.sent["client"][1])
                self.assertEqual([found.status, found.body], case.answered["client"])
                for engine, who in ((self.p, "P"), (self.d, "D")):
                    heard = [[f"POST {request.path}", self.named(request.body)] for request in engine.heard]
                    self.assertEqual(heard, [case.sent[who]] if who in case.sent else [], who)
                ids = {request.headers["x-request-id"] for engine in (self.p, self.d) for request in engine.heard}
                self.assertEqual(len(ids), 1)
                deadline = time.monotonic() + PATIENCE
                while "metaserver" in case.answered and not replies and time.monotonic() < deadline:
                    time.sleep(0.01)
                self.assertEqual([[status, self.named(body)] for status, body in replies],
                                 [case.answered["metaserver"]] if "metaserver" in case.answered else [])
                if isinstance(answers["D"], Posting) and isinstance(answers["D"].answer, Silence):
                    self.assertTrue(self.d.heard[0].closed.wait(PATIENCE))
        self.cluster.wait_reservations_back("proxy")

    def test_a_client_that_leaves_ends_both(self):
        self.p.answers(Silence())
        self.d.answers(Posting(b'{"request_id":"cmpl-ID-0","do_remote_decode":true}', Silence(), []))
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy, timeout=PATIENCE)
        connection.request("POST", "/v1/completions", '{"prompt":"x"}')
        self.p.wait_heard(1)
        connection.close()
        for engine in (self.p, self.d):
            self.assertTrue(engine.heard[0].closed.wait(PATIENCE))
        self.cluster.wait_reservations_back("proxy")

    def test_many_requests_at_once_keep_their_own_prefills(self):
        count = 40  # more than the 32 threads of vllm-ascend's connector
        self.p.answers(*[Whole(200, b'{"choices":[{"index":0}]}')] * count)
        self.d.answers(*[Posting(b'{"request_id":"cmpl-ID-0","do_remote_decode":true,"remote_block_ids":[1]}',
                                 Whole(200, b'{"choices":[{"index":0,"text":"y"}]}'), [])] * count)
        statuses: list[int] = []
        threads = [threading.Thread(target=lambda: statuses.append(ask(self.proxy, "POST", "/v1/completions", {"prompt": "x"}).status))
                   for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(statuses, [200] * count)
        posted = {json.loads(request.body)["kv_transfer_params"]["request_id"] for request in self.p.heard}
        self.assertEqual(len(posted), count)
        self.assertEqual(posted, {f"cmpl-{request.headers['x-request-id']}-0" for request in self.p.heard})
        self.cluster.wait_reservations_back("proxy")


class OrderIsTheOperatorsOrTheInstances(unittest.TestCase):
    def test_while_nobody_answers_the_reason_is_told(self):
        with Cluster() as cluster:
            cluster.ports.update(P=1, D=2)  # nobody listens there
            proxy = cluster.proxy("proxy", ["P"], ["D"], ready="/healthcheck")
            answer = ask(proxy, "POST", "/v1/completions", {"prompt": "x"})
            self.assertEqual(answer.status, 503, answer.body)
            self.assertIn("no instance has said yet how it hands over", answer.json()["error"]["message"])
            self.assertIsNone(ask(proxy, "GET", "/healthcheck").json()["order"])


if __name__ == "__main__":
    unittest.main()
