"""The dialect of vllm-ascend's pull proxy, both ways: its script drives Baton instances, and `baton proxy` drives instances
that are no Baton, byte for byte as tests/dialects/ says."""
import dataclasses
import http.client
import json
import pathlib
import re
import time
import unittest
import uuid

from tests.system.cluster import ROOT, Cluster, ask
from tests.system.fake_engine import Events, FakeEngine, Silence, Whole

CASES = ROOT / "tests" / "dialects" / "vllm_ascend_pull.txt"
PATIENCE = 30
KEYS_OF_V0_18 = {"do_remote_prefill", "do_remote_decode", "remote_block_ids", "remote_engine_id", "remote_host", "remote_port", "last_token_id",
                 "remote_pcp_size", "remote_dcp_size", "num_prompt_blocks", "remote_request_id", "remote_ptp_size"}


def ask_as_the_script(prefill: int, decode: int, path: str, client: dict, aborted: list[str] | None = None):
    """What load_balance_proxy_server_example.py sends for one request of a client: P's answer and D's."""
    headers = {"Authorization": "Bearer None", "X-Request-Id": str(uuid.uuid4())}
    to_p = dict(client)
    to_p["kv_transfer_params"] = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None,
                                  "remote_host": None, "remote_port": None}
    if aborted is not None:  # up to v0.20
        to_p["kv_transfer_params"]["aborted_request"] = aborted
    to_p.update(stream=False, max_tokens=1, min_tokens=1)
    if "max_completion_tokens" in client:
        to_p["max_completion_tokens"] = 1
    to_p.pop("stream_options", None)
    of_p = ask(prefill, "POST", path, to_p, headers)
    to_d = dict(client)
    if of_p.status == 200 and of_p.json().get("kv_transfer_params"):
        to_d["kv_transfer_params"] = of_p.json()["kv_transfer_params"]
    return of_p, ask(decode, "POST", path, to_d, headers)


class TheScriptDrivesBatonInstances(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster())
        cls.p = cls.cluster.serve("P", "kv_producer")
        cls.d = cls.cluster.serve("D", "kv_consumer")
        cls.single = cls.cluster.serve("single")

    def same_as_single(self, path: str, client: dict, aborted: list[str] | None = None):
        of_p, of_d = ask_as_the_script(self.p, self.d, path, client, aborted)
        alone = ask(self.single, "POST", path, client)
        self.assertEqual((of_p.status, of_d.status, alone.status), (200, 200, 200), (of_p.body, of_d.body))
        if client.get("stream"):
            strip = lambda events: [e if e == "[DONE]" else {k: e[k] for k in ("choices", "object")} for e in events]
            self.assertEqual(self.joined(of_d), self.joined(alone))
            self.assertEqual(strip(of_d.events())[-1], "[DONE]")
        else:
            self.assertEqual(of_d.json()["choices"], alone.json()["choices"])
            for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
                self.assertEqual(of_d.json()["usage"][key], alone.json()["usage"][key])
        return of_p.json()["kv_transfer_params"]

    def joined(self, answer) -> dict:
        """Text and the last finish reason by choice: where chunks are cut may differ."""
        found: dict[int, list] = {}
        for event in answer.events()[:-1]:
            for choice in event["choices"]:
                text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                so_far = found.setdefault(choice["index"], ["", None])
                found[choice["index"]] = [so_far[0] + text, choice.get("finish_reason") or so_far[1]]
        return found

    def test_answers_are_those_of_a_single_instance_and_the_kv_is_taken(self):
        text = {"model": "test", "prompt": "What is a violin? " * 20, "max_tokens": 24, "temperature": 0, "logprobs": 2}
        chat = {"model": "test", "messages": [{"role": "user", "content": "Define volcano."}], "max_tokens": 24, "temperature": 0,
                "logprobs": True, "top_logprobs": 2}
        rows = [
            ("/v1/completions", text),
            ("/v1/completions", {**text, "stream": True, "stream_options": {"include_usage": True}}),
            ("/v1/completions", {**text, "temperature": 1.1, "seed": 3, "n": 3}),
            ("/v1/completions", {**text, "stop": ["is"], "min_tokens": 3}),
            ("/v1/completions", {**text, "max_tokens": 1}),
            ("/v1/chat/completions", chat),
            ("/v1/chat/completions", {**chat, "stream": True}),
            ("/v1/chat/completions", {**{k: v for k, v in chat.items() if k != "max_tokens"}, "max_completion_tokens": 12}),
        ]
        for path, client in rows:
            with self.subTest(path=path, client=client):
                self.same_as_single(path, client)
        self.assertEqual([r for r in ask(self.d, "GET", "/debug/requests").json()["recent"] if r["recomputed"]], [])
        for name in ("P", "D"):
            self.cluster.wait_all_free(name)

    def test_the_list_of_aborted_requests_of_older_scripts_is_no_error(self):
        self.same_as_single("/v1/completions", {"model": "test", "prompt": "What is a raven?", "max_tokens": 4, "temperature": 0},
                            aborted=[str(uuid.uuid4())])

    def test_prompt_logprobs_are_ps_which_the_script_throws_away_and_d_goes_on(self):
        client = {"model": "test", "prompt": "What is a glacier?", "max_tokens": 5, "temperature": 0, "prompt_logprobs": 1}
        of_p, of_d = ask_as_the_script(self.p, self.d, "/v1/completions", client)
        alone = ask(self.single, "POST", "/v1/completions", client).json()["choices"][0]
        self.assertEqual(of_p.json()["choices"][0]["prompt_logprobs"], alone["prompt_logprobs"])
        self.assertEqual((of_d.status, of_d.json()["choices"][0]["text"]), (200, alone["text"]))
        for name in ("P", "D"):
            self.cluster.wait_all_free(name)

    def test_ps_parameters_have_the_keys_that_vllm_ascend_has(self):
        held = self.same_as_single("/v1/completions", {"model": "test", "prompt": "What is a telescope? " * 8, "max_tokens": 4, "temperature": 0})
        self.assertLessEqual(KEYS_OF_V0_18, set(held))
        self.assertEqual((held["do_remote_prefill"], held["do_remote_decode"]), (True, False))
        self.assertEqual(len(held["remote_block_ids"]), 1)
        self.assertEqual(len(held["remote_block_ids"][0]), held["num_prompt_blocks"])

    def test_ps_refusal_of_a_prompt_that_is_too_long_has_its_status(self):
        of_p, _ = ask_as_the_script(self.p, self.d, "/v1/completions", {"model": "test", "prompt": "word " * 9000, "max_tokens": 4})
        self.assertEqual(of_p.status, 400)
        self.assertIn("8192", of_p.json()["error"]["message"])


@dataclasses.dataclass
class Case:
    name: str
    sent: dict[str, tuple[str, bytes]]        # to whom: ("POST /path", body)
    answered: dict[str, tuple[int, bytes]]    # by whom: (status, body)


def read_cases(path: pathlib.Path = CASES) -> list[Case]:
    cases: list[Case] = []
    for line in path.read_text().splitlines():
        if line.startswith("== "):
            cases.append(Case(line[3:], {}, {}))
        elif match := re.fullmatch(r"([<>]) (client|P|D): (.*)", line):
            direction, who, what = match.groups()
            part, key = (cases[-1].sent, who) if direction == ">" else (cases[-1].answered, who)
            part[key] = (what if direction == ">" else int(what), b"")
        elif line and not line.startswith("#"):
            what, body = part[key]
            part[key] = (what, body + line.encode() + (b"\n\n" if line.startswith("data: ") else b""))
    return cases


class ForeignInstances(unittest.TestCase):
    """A proxy before one fake P and one fake D."""
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}

    @classmethod
    def setUpClass(cls):
        cls.p, cls.d = cls.enterClassContext(FakeEngine()), cls.enterClassContext(FakeEngine())
        cls.cluster = cls.enterClassContext(Cluster())
        cls.cluster.environment = {**{k: v for k, v in cls.cluster.environment.items() if k != "OPENAI_API_KEY"}, **cls.environment}
        cls.cluster.ports.update(P=cls.p.port, D=cls.d.port)
        cls.proxy = cls.cluster.proxy("proxy", ["P"], ["D"], "--health-interval", "0.2", *cls.arguments, ready="/health")

    def setUp(self):
        self.wait_up()

    def wait_up(self):
        deadline = time.monotonic() + PATIENCE
        while ask(self.proxy, "GET", "/health").status != 200:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def post(self, body: dict | bytes, headers: dict[str, str] | None = None):
        return ask(self.proxy, "POST", "/v1/completions", body, headers)


HELD = b'{"choices":[{"index":0}],"usage":{"prompt_tokens":1},"kv_transfer_params":{"remote_block_ids":[1],"remote_request_id":"held"}}'
ANSWER = b'{"choices":[{"index":0,"text":"y"}]}'
NO = b'{"error":{"message":"no","type":"T","param":null,"code":0}}'


class BatonsProxyDrivesForeignInstances(ForeignInstances):
    def test_every_case_byte_for_byte(self):
        for case in read_cases():
            with self.subTest(case.name):
                body = case.sent["client"][1]
                path = case.sent["client"][0].split()[1]
                for engine, who in ((self.p, "P"), (self.d, "D")):
                    status, answer = case.answered.get(who, (500, b"{}"))
                    engine.answers(Events([answer]) if answer.startswith(b"data: ") else Whole(status, answer))
                found = ask(self.proxy, "POST", path, body)
                self.assertEqual((found.status, found.body), case.answered["client"])
                for engine, who in ((self.p, "P"), (self.d, "D")):
                    heard = [(f"POST {request.path}", request.body) for request in engine.heard]
                    self.assertEqual(heard, [case.sent[who]] if who in case.sent else [], who)
                ids = {request.headers["x-request-id"] for engine in (self.p, self.d) for request in engine.heard}
                self.assertEqual(len(ids), 1)
        self.cluster.wait_reservations_back("proxy")

    def test_every_request_has_an_id_of_its_own_whatever_the_client_calls_it(self):
        seen = set()
        for _ in range(2):
            self.p.answers(Whole(200, HELD))
            self.d.answers(Whole(200, ANSWER))
            answer = self.post({"prompt": "x"}, {"X-Request-Id": "mine", "traceparent": "00-1-2-3"})
            self.assertEqual(answer.headers["x-request-id"], "mine")
            for engine in (self.p, self.d):
                seen.add(engine.heard[0].headers["x-request-id"])
                self.assertEqual(engine.heard[0].headers["traceparent"], "00-1-2-3")
                self.assertNotIn("authorization", engine.heard[0].headers)  # never "Bearer None"
        self.assertEqual(len(seen), 2)
        self.assertNotIn("mine", seen)

    def test_true_statuses_reach_the_client(self):
        rows = [  # P's answers, D's answers, status at the client, how often each was asked
            ([Whole(401, NO)], [], 401, (1, 0)),
            ([Whole(404, NO)], [], 404, (1, 0)),
            ([Whole(422, NO)], [], 422, (1, 0)),
            ([Whole(429, NO, {"Retry-After": "7"})] * 3, [], 429, (3, 0)),
            ([Whole(500, b"Internal Server Error")] * 3, [], 500, (3, 0)),
            ([Whole(503, NO), Whole(200, HELD)], [Whole(200, ANSWER)], 200, (2, 1)),
            ([Whole(200, HELD)], [Whole(500, NO), Whole(200, ANSWER)], 200, (1, 2)),
            ([Whole(200, HELD)], [Whole(429, NO)] * 3, 429, (1, 3)),
        ]
        for of_p, of_d, status, asked in rows:
            with self.subTest(status=status, asked=asked):
                self.p.answers(*of_p)
                self.d.answers(*of_d)
                answer = self.post({"prompt": "x"})
                self.assertEqual(answer.status, status, answer.body)
                self.assertEqual(len(self.p.heard), asked[0])
                self.assertGreaterEqual(len(self.d.heard), asked[1])  # and once more to free P, way (a)
                if status != 200:
                    self.assertIn("message", answer.json()["error"])
                if status == 429:
                    self.assertIn("retry-after", answer.headers)
        self.cluster.wait_reservations_back("proxy")

    def test_ds_refusal_of_a_stream_is_no_empty_200_and_frees_p(self):
        self.p.answers(Whole(200, HELD))
        self.d.answers(Whole(400, NO), Whole(400, NO))
        answer = self.post({"prompt": "x", "stream": True})
        self.assertEqual((answer.status, answer.body), (400, NO))
        self.assertEqual({request.body for request in self.d.wait_heard(2)}, {self.d.heard[0].body})

    def test_nothing_is_tried_again_after_the_first_byte(self):
        first = b'data: {"choices":[{"index":0,"text":"a"}]}\n\n'
        self.p.answers(Whole(200, HELD))
        self.d.answers(Events([first, b"data: {"], cut=True))
        answer = self.post({"prompt": "x", "stream": True})
        self.assertEqual(answer.status, 200)
        events = answer.events()
        self.assertEqual(events[0]["choices"][0]["text"], "a")
        self.assertIn("not complete", events[1]["error"]["message"])
        self.assertEqual(events[2:], [])
        self.assertEqual((len(self.p.heard), len(self.d.heard)), (1, 1))
        self.cluster.wait_reservations_back("proxy")

    def test_an_answer_that_ends_before_it_begins_is_asked_for_again(self):
        event = b'data: {"choices":[{"index":0,"text":"a"}]}\n\n'
        for nothing in (Events([]), Events([b"data: [DONE]\n\n"])):
            self.p.answers(Whole(200, HELD))
            self.d.answers(nothing, Events([event, b"data: [DONE]\n\n"]))
            answer = self.post({"prompt": "x", "stream": True})
            self.assertEqual((answer.status, answer.body), (200, event + b"data: [DONE]\n\n"))
        self.p.answers(Whole(200, HELD))
        self.d.answers(*[Whole(200, b"")] * 4)
        answer = self.post({"prompt": "x"})
        self.assertEqual(answer.status, 502, answer.body)
        self.assertIn("decode instance", answer.json()["error"]["message"])
        self.cluster.wait_reservations_back("proxy")

    def leave(self, body: dict, after):
        """Sends a request, waits for `after()`, hangs up."""
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy, timeout=PATIENCE)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        after()
        connection.close()

    def test_a_client_that_leaves_during_prefill_closes_p_and_d_hears_nothing(self):
        self.p.answers(Silence())
        self.d.answers()
        self.leave({"prompt": "x"}, lambda: self.p.wait_heard(1))
        self.assertTrue(self.p.heard[0].closed.wait(PATIENCE))
        self.cluster.wait_reservations_back("proxy")
        self.assertEqual(self.d.heard, [])

    def test_a_client_that_leaves_before_ds_answer_frees_a_foreign_p_through_d(self):
        for stream in (False, True):
            self.p.answers(Whole(200, HELD))
            self.d.answers(Silence(), Silence())
            self.leave({"prompt": "x", "stream": stream}, lambda: self.d.wait_heard(1))
            heard = self.d.wait_heard(2)  # way (a): the hand-over once more, then left
            self.assertEqual(heard[0].body, heard[1].body)
            for request in heard:
                self.assertTrue(request.closed.wait(PATIENCE))
            self.assertEqual(len(self.p.heard), 1)
            self.cluster.wait_reservations_back("proxy")


class Keys(ForeignInstances):
    arguments = ("--api-key", "of-clients", "--admin-key", "of-admins")
    environment = {"OPENAI_API_KEY": "of-instances"}

    def test_clients_show_theirs_and_instances_get_the_proxys(self):
        self.p.answers(Whole(200, HELD))
        self.d.answers(Whole(200, ANSWER))
        for key in (None, "Bearer wrong", "Bearer of-instances", "of-clients"):
            self.assertEqual(self.post({"prompt": "x"}, {"Authorization": key} if key else {}).status, 401)
        self.assertEqual((self.p.heard, self.d.heard), ([], []))
        self.assertEqual(self.post({"prompt": "x"}, {"Authorization": "Bearer of-clients"}).status, 200)
        for engine in (self.p, self.d):
            self.assertEqual(engine.heard[0].headers["authorization"], "Bearer of-instances")

    def test_admin_routes_take_the_admin_key_alone(self):
        change = {"type": "decode", "instances": "127.0.0.1:1"}
        for key in ("of-clients", "of-instances", ""):
            self.assertEqual(ask(self.proxy, "POST", "/instances/add", change, {"Authorization": f"Bearer {key}"}).status, 401)
        for path in ("/instances/add", "/instances/remove"):
            answer = ask(self.proxy, "POST", path, change, {"Authorization": "Bearer of-admins"})
            self.assertEqual(answer.status, 200, answer.body)


if __name__ == "__main__":
    unittest.main()
