"""How processes end, and what a proxy that stands still costs: SIGTERM lets what runs end, through the proxy too, and a proxy that
is stopped in the middle keeps nobody's blocks."""
import contextlib
import http.client
import signal
import threading
import time
import unittest

from tests.system.cluster import TINY, Cluster, Stream, ask

WAIT_SECONDS = 30
LONG = {"model": "test", "prompt": [5, 6, 7, 8] * 20, "max_tokens": 1000, "ignore_eos": True, "temperature": 0, "return_token_ids": True}


def ids_of(events) -> list[int]:
    return [token for event in events if event != "[DONE]" for choice in event["choices"] for token in choice.get("token_ids") or []]


class Endings(unittest.TestCase):
    def setUp(self):
        self.cluster = self.enterContext(Cluster(TINY))
        self.cluster.serve("P", "kv_producer")
        self.cluster.serve("D", "kv_consumer")
        self.port = self.cluster.proxy("proxy", ["P"], ["D"])
        self.whole = ask(self.port, "POST", "/v1/completions", LONG).json()["choices"][0]["token_ids"]

    def begun(self, **fields):
        stream = Stream(self.port, "/v1/completions", {**LONG, **fields})
        self.assertEqual(stream.status, 200)
        events = iter(stream)
        return stream, events, next(events)

    def terminate(self, name: str):
        """SIGTERM, until the process has noticed it."""
        process = self.cluster.processes[name]
        process.child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + WAIT_SECONDS
        while "signal 15" not in process.log:
            self.assertLess(time.monotonic(), deadline, process.log)
            time.sleep(0.01)
        return process.child

    def all_are_free(self):
        for name in ("P", "D"):
            self.cluster.wait_all_free(name, WAIT_SECONDS)

    def test_sigterm_lets_the_proxy_end_what_runs_and_begin_nothing_more(self):
        _, events, first = self.begun()
        child = self.terminate("proxy")
        with contextlib.suppress(OSError, http.client.HTTPException):  # it may not listen any more: that is an answer too
            self.assertEqual(ask(self.port, "POST", "/v1/completions", LONG).status, 503)
        rest = list(events)
        self.assertEqual(rest[-1], "[DONE]")
        self.assertEqual(ids_of([first, *rest]), self.whole)
        self.assertEqual(child.wait(WAIT_SECONDS), 0)
        self.all_are_free()

    def test_a_second_sigterm_ends_at_once_with_1(self):
        for name in ("proxy", "D"):
            stream = Stream(self.cluster.ports[name], "/v1/completions", {**LONG, "max_tokens": 3500})
            next(iter(stream))
            child = self.terminate(name)
            child.send_signal(signal.SIGTERM)
            self.assertEqual(child.wait(WAIT_SECONDS), 1)
            stream.leave()

    def test_a_decode_instance_that_drains_ends_what_it_has(self):
        _, events, first = self.begun()
        child = self.terminate("D")
        rest = list(events)
        self.assertEqual((ids_of([first, *rest]), rest[-1]), (self.whole, "[DONE]"))
        self.assertEqual(child.wait(WAIT_SECONDS), 0)
        self.cluster.wait_all_free("P", WAIT_SECONDS)

    def test_a_proxy_that_is_stopped_goes_on_where_it_was(self):
        _, events, first = self.begun()
        self.cluster.processes["proxy"].freeze()
        unanswered = []
        def ask_meanwhile():
            unanswered.append(ask(self.port, "POST", "/v1/completions", LONG, timeout=WAIT_SECONDS).json()["choices"][0]["token_ids"])
        waiting = threading.Thread(target=ask_meanwhile)
        waiting.start()
        self.cluster.wait_all_free("D", WAIT_SECONDS)  # the whole answer fits what D and the sockets may hold
        self.cluster.processes["proxy"].thaw()
        rest = list(events)
        self.assertEqual((ids_of([first, *rest]), rest[-1]), (self.whole, "[DONE]"))
        waiting.join()
        self.assertEqual(unanswered, [self.whole])
        self.cluster.wait_reservations_back("proxy")
        self.all_are_free()

    def test_a_proxy_that_is_stopped_and_then_killed_leaves_no_block_behind(self):
        self.begun(max_tokens=3500, logprobs=20, n=4, temperature=1)
        self.cluster.processes["proxy"].freeze()
        self.cluster.processes["proxy"].kill()
        self.all_are_free()


if __name__ == "__main__":
    unittest.main()
