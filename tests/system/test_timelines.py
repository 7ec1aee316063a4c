"""One request, one timeline: in the answer, in /metrics, and as one tree of spans at a collector, with real processes."""
import http.server
import json
import threading
import time
import unittest

from tests.system.cluster import Cluster, ask

PARENT = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{PARENT}-00f067aa0ba902b7-01"
QUESTION = {"model": "test", "prompt": "What is a violin? " * 10, "max_tokens": 12, "ignore_eos": True, "temperature": 0}
PATIENCE = 20


class Collector(http.server.ThreadingHTTPServer):
    """Takes OTLP over HTTP, in JSON."""
    daemon_threads = True

    def __init__(self):
        self.spans: list[dict] = []
        self.resources: list[dict] = []
        self.hold = threading.Event()
        self.hold.set()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.server.hold.wait()
                for resource in body["resourceSpans"]:
                    attributes = values(resource["resource"]["attributes"])
                    self.server.resources.append(attributes)
                    for scope in resource["scopeSpans"]:
                        self.server.spans += [{**span, "service": attributes["service.name"]} for span in scope["spans"]]
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def of_trace(self, trace: str, count: int) -> list[dict]:
        """The spans of a trace, once there are so many and no more come."""
        deadline = time.monotonic() + PATIENCE
        before = -1
        while time.monotonic() < deadline:
            spans = [span for span in self.spans if span["traceId"] == trace]
            if len(spans) >= count and len(spans) == before:
                return spans
            before = len(spans)
            time.sleep(0.7)
        raise AssertionError(f"{before} spans of {trace}, expected {count}")


def values(attributes: list[dict]) -> dict:
    return {entry["key"]: next(iter(entry["value"].values())) for entry in attributes}


class Timelines(unittest.TestCase):
    orders = [("MooncakeConnector", "P", "D", "proxy"), ("MooncakeLayerwiseConnector", "LP", "LD", "layerwise")]

    @classmethod
    def setUpClass(cls):
        cls.collector = Collector()
        cls.addClassCleanup(cls.collector.shutdown)
        cls.cluster = cls.enterClassContext(Cluster())
        traced = ["--otlp-traces-endpoint", cls.collector.url]
        for connector, p, d, proxy in cls.orders:
            cls.cluster.serve(p, "kv_producer", *traced, connector=connector)
            cls.cluster.serve(d, "kv_consumer", *traced, connector=connector)
            cls.cluster.proxy(proxy, [p], [d], *traced)
        cls.cluster.serve("single", None, *traced)

    def check_sum(self, timings: dict) -> list[tuple[str, str]]:
        self.assertEqual(sum(part["ns"] for part in timings["parts"]), timings["total_ns"])
        return [(part["at"], part["phase"]) for part in timings["parts"]]

    def test_a_client_gets_one_timeline_of_proxy_p_and_d(self):
        for number, (connector, _, _, proxy) in enumerate(self.orders):
            for stream in (False, True):
                with self.subTest(connector=connector, stream=stream):
                    body = {**QUESTION, "prompt": f"{number}{stream} " + QUESTION["prompt"], "timings": True, "stream": stream}
                    begun = time.monotonic_ns()
                    answer = ask(self.cluster.ports[proxy], "POST", "/v1/completions", body)
                    took = time.monotonic_ns() - begun
                    self.assertEqual(answer.status, 200, answer.body)
                    timings = answer.events()[-2]["timings"] if stream else answer.json()["timings"]
                    parts = self.check_sum(timings)
                    self.assertLessEqual(timings["total_ns"], took)
                    expected = [("prefill", "tokenise"), ("prefill", "prefill"), ("decode", "tokenise"), ("decode", "decode"), ("proxy", "gap")]
                    if proxy == "proxy":  # layer by layer P's answer may be the later one: then nothing of D's wait is left
                        expected.append(("decode", "handover"))
                    for part in expected:
                        self.assertIn(part, parts)
                    if stream:
                        self.assertEqual([event for event in answer.events()[:-2] if "timings" in event], [])

    def test_a_request_is_one_tree_of_spans_whose_children_lie_within_their_parents(self):
        for number, (connector, p, d, proxy) in enumerate(self.orders):
            with self.subTest(connector=connector):
                trace = f"{number + 1:032x}"
                headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "tracestate": "vendor=opaque"}
                answer = ask(self.cluster.ports[proxy], "POST", "/v1/completions", {**QUESTION, "prompt": "tree" * 9 + trace}, headers)
                self.assertEqual(answer.status, 200, answer.body)
                spans = self.collector.of_trace(trace, 3 + 2 + 3 + 4)
                by_id = {span["spanId"]: span for span in spans}
                self.assertEqual(len(by_id), len(spans))
                tops = [span for span in spans if span["parentSpanId"] not in by_id]
                self.assertEqual([(span["name"], span["parentSpanId"]) for span in tops], [("proxy_request", "00f067aa0ba902b7")])
                self.assertEqual({span["traceState"] for span in spans}, {"vendor=opaque"})
                self.assertEqual(sorted(span["service"] for span in spans if span["name"] == "llm_request"), ["baton-serve"] * 2)
                for span in spans:
                    if span in tops:
                        continue
                    parent = by_id[span["parentSpanId"]]
                    self.assertGreaterEqual(int(span["startTimeUnixNano"]), int(parent["startTimeUnixNano"]), (span, parent))
                    self.assertLessEqual(int(span["endTimeUnixNano"]), int(parent["endTimeUnixNano"]), (span, parent))
                for whole in (span for span in spans if span["name"] == "llm_request"):
                    self.assertEqual(whole["parentSpanId"], tops[0]["spanId"])
                    self.check_partition(whole, [span for span in spans if span["parentSpanId"] == whole["spanId"]])
                    self.assertEqual(values(whole["attributes"])["gen_ai.response.model"], "test")

    def check_partition(self, whole: dict, parts: list[dict]) -> None:
        parts = sorted(parts, key=lambda span: int(span["startTimeUnixNano"]))
        moments = [whole["startTimeUnixNano"], *(span["endTimeUnixNano"] for span in parts)]
        self.assertEqual([span["startTimeUnixNano"] for span in parts], moments[:-1])
        self.assertEqual(moments[-1], whole["endTimeUnixNano"])

    def test_an_instance_takes_its_senders_trace_and_begins_one_where_that_is_not_good(self):
        single = self.cluster.ports["single"]
        for header, taken in [(TRACEPARENT, True), (TRACEPARENT + "-x", False), (TRACEPARENT.replace("00-", "ff-", 1), False), ("", False)]:
            with self.subTest(header=header):
                name = f"trace-{header}".replace(" ", "")
                answer = ask(single, "POST", "/v1/completions", {**QUESTION, "request_id": name}, {"traceparent": header} if header else {})
                self.assertEqual(answer.status, 200, answer.body)
                deadline = time.monotonic() + PATIENCE
                found: list[dict] = []
                while not found and time.monotonic() < deadline:
                    found = [span for span in self.collector.spans if values(span["attributes"]).get("gen_ai.request.id") == name]
                    time.sleep(0.05)
                self.assertEqual(len(found), 1)
                self.assertEqual(found[0]["traceId"] == PARENT, taken)
                self.assertEqual(found[0].get("parentSpanId"), "00f067aa0ba902b7" if taken else None)

    def test_a_collector_that_hangs_costs_spans_and_nothing_else(self):
        self.collector.hold.clear()
        self.addCleanup(self.collector.hold.set)
        for _ in range(20):
            self.assertEqual(ask(self.cluster.ports["proxy"], "POST", "/v1/completions", QUESTION, timeout=10).status, 200)

    def test_metrics_have_every_phase_and_their_sum_is_the_latency(self):
        ask(self.cluster.ports["single"], "POST", "/v1/completions", QUESTION)
        text = ask(self.cluster.ports["single"], "GET", "/metrics").body.decode()
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        phases = [float(value) for name, value in samples.items() if name.startswith("baton:request_phase_seconds_sum")]
        whole = [float(value) for name, value in samples.items() if name.startswith("vllm:e2e_request_latency_seconds_sum")]
        self.assertEqual(len(phases), 9)
        self.assertAlmostEqual(sum(phases), sum(whole), places=9)


if __name__ == "__main__":
    unittest.main()
