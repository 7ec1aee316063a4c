"""What an operator sees of a cluster: `baton top` with real processes in every state, and --shadow, which finds an instance
whose weights are no longer what they were."""
import json
import pathlib
import shutil
import subprocess
import time
import unittest

from tests.system import cluster as parts
from tests.system.cluster import MODEL, Cluster, Stream, ask

LONG = {"model": "test", "prompt": "What is a violin?", "max_tokens": 400, "ignore_eos": True, "temperature": 1, "seed": 3}
PATIENCE = 30


def top(*arguments: str, environment: dict | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([parts.BATON, "top", *arguments], capture_output=True, text=True, timeout=60, env=environment)


def until(holds, what: str):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = holds()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


class Top(unittest.TestCase):
    def setUp(self):
        self.cluster = self.enterContext(Cluster())
        self.cluster.serve("P", "kv_producer")
        self.cluster.serve("D", "kv_consumer")
        self.cluster.serve("D2", "kv_consumer")
        self.cluster.proxy("proxy", ["P"], ["D", "D2"])
        self.address = f"127.0.0.1:{self.cluster.ports['proxy']}"

    def look(self) -> dict:
        answer = top(self.address, "--once", "--json")
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        self.assertEqual(answer.stdout.count("\n"), 1)
        return json.loads(answer.stdout)

    def test_a_request_that_decodes_is_shown_where_it_is(self):
        stream = Stream(self.cluster.ports["proxy"], "/v1/completions", LONG, {"X-Request-Id": "mine"})
        next(iter(stream))
        row = until(lambda: next((row for row in self.look()["requests"] if row["where"].startswith("D ")), None), "a row at D")
        self.assertEqual((row["client_id"], row["phase"], row["waits_for"]), ("mine", "decode", None))
        self.assertGreater(row["age_ms"], 0)
        self.assertGreater(row["output_tokens"], 0)
        table = top(self.address, "--once").stdout
        self.assertIn("REQUEST", table)
        self.assertIn("(mine)", table)
        self.assertNotIn("\x1b", table)
        stream.leave()
        until(lambda: self.look()["requests"] == [], "no row is left")

    def test_an_instance_that_does_not_answer_is_named_and_its_request_is_shown_by_the_proxy(self):
        stream = Stream(self.cluster.ports["proxy"], "/v1/completions", LONG)
        next(iter(stream))
        decoder = stream.answer.getheader("X-Baton-Decode")
        name = next(name for name in ("D", "D2") if decoder.endswith(f":{self.cluster.ports[name]}"))
        self.cluster.processes[name].freeze()
        try:
            seen = self.look()
            self.assertEqual([row["where"] for row in seen["requests"]], ["proxy"])
            self.assertEqual(seen["requests"][0]["waits_for"], f"events of {decoder}")
            self.assertEqual([error for error in seen["errors"] if error.startswith(f"D {decoder}")], seen["errors"])
            self.assertTrue(seen["errors"])
        finally:
            self.cluster.processes[name].thaw()
            stream.leave()

    def test_what_a_proxy_that_is_none_or_asks_for_a_key_leads_to(self):
        answer = top("127.0.0.1:1", "--once")
        self.assertEqual(answer.returncode, 1)
        self.assertIn("baton top: 127.0.0.1:1: ", answer.stderr)
        answer = top(f"127.0.0.1:{self.cluster.ports['P']}", "--once")
        self.assertEqual(answer.returncode, 1)
        self.assertIn("instances: expected a list", answer.stderr)
        self.cluster.proxy("locked", ["P"], ["D"], "--admin-key", "k")
        locked = f"127.0.0.1:{self.cluster.ports['locked']}"
        answer = top(locked, "--once")
        self.assertEqual(answer.returncode, 1)
        self.assertIn("answers 401, expected an --admin-key", answer.stderr)
        self.assertEqual(top(locked, "--once", "--admin-key", "k").returncode, 0)
        self.assertEqual(top(locked, "--once", environment={**self.cluster.environment, "BATON_ADMIN_KEY": "k"}).returncode, 0)

    def test_without_once_it_looks_again_each_second(self):
        child = subprocess.Popen([parts.BATON, "top", self.address, "--json"], stdout=subprocess.PIPE, text=True)
        try:
            looks = [json.loads(child.stdout.readline()) for _ in range(3)]
            self.assertEqual({len(look["instances"]) for look in looks}, {3})
        finally:
            child.terminate()
            self.assertEqual(child.wait(10), 0)
            child.stdout.close()


def counters(port: int) -> dict:
    lines = ask(port, "GET", "/metrics").body.decode().splitlines()
    found = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("baton:parity_")}
    return {name: found[f"baton:parity_{name}_total"] for name in ("checked", "mismatch", "skipped")}


REQUESTS = [
    {"prompt": "What is a violin?", "max_tokens": 12},
    {"prompt": "b " * 60, "max_tokens": 7, "n": 3, "logprobs": 1, "seed": 3},
    {"prompt": "c", "max_tokens": 1},
    {"prompt": "What is a raven?", "max_tokens": 9, "stream": True},
    {"prompt": "What is a raven?", "max_tokens": 9, "stream": True, "stream_options": {"include_usage": True}, "stop": ["e"]},
]


class Shadow(unittest.TestCase):
    def start(self, connector: str, model: str | None = None, *extra: str) -> int:
        self.cluster = self.enterContext(Cluster())
        self.cluster.environment["TMPDIR"] = str(self.cluster.folder)
        self.cluster.serve("P", "kv_producer", connector=connector)
        self.cluster.serve("D", "kv_consumer", connector=connector)
        if model:
            self.cluster.serve("changed", "kv_consumer", model=model, connector=connector)
        return self.cluster.proxy("proxy", ["P"], ["D", *(["changed"] if model else [])], *extra)

    def test_answers_of_both_orders_are_the_same_on_one_instance_and_clients_see_nothing_of_it(self):
        for connector in ("MooncakeConnector", "MooncakeLayerwiseConnector"):
            with self.subTest(connector=connector):
                port = self.start(connector, None, "--shadow", "100%")
                for body in REQUESTS:
                    answer = ask(port, "POST", "/v1/completions", {"model": "test", **body})
                    self.assertEqual(answer.status, 200, answer.body)
                    self.assertNotIn(b"receipt", answer.body)
                    if body.get("stream"):
                        last = answer.events()[-2]
                        self.assertEqual("usage" in last, "stream_options" in body)
                        self.assertEqual(last["choices"] == [], "stream_options" in body)
                until(lambda: counters(port)["checked"] == len(REQUESTS), f"all are checked: {counters(port)}")
                self.assertEqual(counters(port), {"checked": len(REQUESTS), "mismatch": 0, "skipped": 0})
                answer = ask(port, "POST", "/v1/completions", {"model": "test", "receipt": True, **REQUESTS[0]})
                self.assertIn("receipt", answer.json())

    def test_an_instance_whose_weights_have_changed_is_found_and_the_flight_records_replay(self):
        model = pathlib.Path(self.enterContext(Cluster()).folder) / "model"
        shutil.copytree(MODEL, model)
        port = self.start("MooncakeConnector", str(model), "--shadow", "1")
        weights = sorted(model.glob("*.safetensors"))[0]
        with open(weights, "r+b") as file:  # in place: it is mapped, as when a disk or memory has lost bits
            file.seek(weights.stat().st_size // 2)
            file.write(bytes(1 << 16))
        for number in range(6):
            answer = ask(port, "POST", "/v1/completions", {"model": "test", "prompt": f"What is {number}?", "max_tokens": 16})
            self.assertEqual(answer.status, 200, answer.body)
        until(lambda: counters(port)["checked"] == 6, "all are checked")
        self.assertGreater(counters(port)["mismatch"], 0)
        log = until(lambda: self.cluster.processes["proxy"].log if "flight record of" in self.cluster.processes["proxy"].log else None, "records")
        self.assertRegex(log, r"parity: [0-9a-f]+ answered by .* and recomputed as [0-9a-f]+-shadow by .*: prompts\[0\]\.choices\[0\]\.")
        records = until(lambda: len({path.name.split("-")[1] for path in self.cluster.folder.glob("*.record")}) >= 2 and list(self.cluster.folder.glob("*.record")),
                        "two instances have written their records")
        self.assertGreaterEqual(len(records), 2)

    def test_a_share_that_is_none_is_refused(self):
        for share in ("101%", "-1", "much", "2", "1e-3", ""):
            answer = subprocess.run([parts.BATON, "proxy", f"--shadow={share}"], capture_output=True, text=True, timeout=30)
            self.assertEqual(answer.returncode, 2, share)
            self.assertIn("--shadow", answer.stderr)


if __name__ == "__main__":
    unittest.main()
