"""TLS between instances, with certificates as an operator makes them with `openssl`: the same bits in both orders, nothing readable on the
wire, and whoever has no certificate of this cluster's authority gets no KV."""
import concurrent.futures
import json
import pathlib
import random
import socket
import subprocess
import threading
import unittest

from tests.system.cluster import Cluster, ask, free_ports
from tests.system.handovers import CONNECTORS, SEED
from tests.system.test_parity import differences, outcome, random_request

REQUEST = {"model": "test", "prompt": "What is a violin? " * 20, "max_tokens": 8, "temperature": 0, "logprobs": 2, "ignore_eos": True}


class Authority:
    """The commands of docs/handover.md."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        folder.mkdir()
        self.openssl("req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "30", "-subj", "/CN=cluster", "-keyout", "ca.key", "-out", "ca.pem")

    def openssl(self, *words: str):
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)

    def flags(self, name: str) -> list[str]:
        self.openssl("req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "30", "-subj", f"/CN={name}", "-CA", "ca.pem", "-CAkey", "ca.key",
                     "-addext", "basicConstraints=CA:FALSE", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        return ["--kv-tls-certfile", str(self.folder / f"{name}.pem"), "--kv-tls-keyfile", str(self.folder / f"{name}.key"),
                "--kv-tls-ca-certs", str(self.folder / "ca.pem"), "--kv-transport", "tcp"]


class Tap:
    """A port that passes every connection on to another one and keeps what it saw."""

    def __init__(self, to: int):
        self.to, self.seen = to, bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            other = socket.create_connection(("127.0.0.1", self.to))
            for source, target in ((one, other), (other, one)):
                threading.Thread(target=self.copy, args=(source, target), daemon=True).start()

    def copy(self, source, target):
        try:
            while read := source.recv(65536):
                self.seen += read
                target.sendall(read)
        except OSError:
            pass
        finally:
            for end in (source, target):
                end.close()


class Bits(unittest.TestCase):
    requests = 30

    def check(self, order: str):
        print(f"BATON_TEST_SEED={SEED}", flush=True)
        draw = random.Random(f"{SEED} tls {order}")
        with Cluster() as cluster:
            authority = Authority(cluster.folder / "authority")
            connector = CONNECTORS[order]
            cluster.serve("P", "kv_producer", *authority.flags("P"), "--max-num-batched-tokens", "160", connector=connector)
            cluster.serve("D1", "kv_consumer", *authority.flags("D1"), connector=connector)
            cluster.serve("D2", "kv_consumer", *authority.flags("D2"), "--block-size", "48", connector=connector)
            single = cluster.serve("single")
            proxy = cluster.proxy("proxy", ["P"], ["D1", "D2"])
            requests = [random_request(draw, 4096) for _ in range(self.requests)]

            def both(request):
                return [ask(port, "POST", *request, timeout=120) for port in (proxy, single)]

            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                for (path, content), (through, alone) in zip(requests, pool.map(both, requests)):
                    streams = bool(content.get("stream"))
                    with self.subTest(path=path, body=json.dumps(content)[:600]):
                        found = differences(outcome(through, streams), outcome(alone, streams))
                        self.assertFalse(found, "\n".join(found[:6]))
            for name in ("D1", "D2"):
                recent = cluster.debug(name)["recent"]
                self.assertTrue(any(r["remote"] and not r["recomputed"] for r in recent), f"{name} took no KV")
                self.assertEqual([r["request_id"] for r in recent if r["recomputed"]], [], cluster.processes[name].log[-3000:])
                self.assertIn("KV travels by tcp, encrypted", cluster.processes[name].log)
            for name in ("P", "D1", "D2"):
                cluster.wait_all_free(name)

    def test_pull(self):
        self.check("pull")

    def test_layer_by_layer(self):
        self.check("layerwise")


class Strangers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster()
        cls.addClassCleanup(cls.cluster.__exit__, None, None, None)
        cls.authority = Authority(cls.cluster.folder / "authority")
        cls.side = free_ports(1)[0]
        cls.cluster.serve("P", "kv_producer", *cls.authority.flags("P"), kv_port=cls.side)
        cls.cluster.serve("single")

    def computes_itself(self, name: str, says: str, *flags: str):
        """A D that P has no reason to believe answers as a single instance does, and its log says why no KV came."""
        self.cluster.serve(name, "kv_consumer", *flags)
        proxy = self.cluster.proxy(f"proxy-{name}", ["P"], [name])
        through, alone = (ask(port, "POST", "/v1/completions", REQUEST) for port in (proxy, self.cluster.ports["single"]))
        self.assertEqual((through.status, through.json()["choices"]), (200, alone.json()["choices"]))
        self.assertTrue(self.cluster.debug(name)["recent"][0]["recomputed"])
        self.assertIn(says, self.cluster.processes[name].log)
        self.cluster.wait_all_free(name)
        self.cluster.wait_all_free("P", 40)

    def test_a_d_without_a_certificate(self):
        self.computes_itself("plain", "TLS: the peer does not speak it, expected --kv-tls-certfile there too")

    def test_a_d_of_another_authority(self):
        other = Authority(self.cluster.folder / "other")
        self.computes_itself("stranger", "expected one of this cluster's authority", *other.flags("stranger"))

    def test_a_p_without_a_certificate(self):
        self.cluster.serve("plain-P", "kv_producer")
        self.cluster.serve("D", "kv_consumer", *self.authority.flags("D"))
        proxy = self.cluster.proxy("proxy-plain-P", ["plain-P"], ["D"])
        self.assertEqual(ask(proxy, "POST", "/v1/completions", REQUEST).status, 200)
        self.assertIn("TLS: the peer does not speak TLS", self.cluster.processes["D"].log)
        self.assertIn("TLS: the peer speaks it, expected --kv-tls-certfile here too", self.cluster.processes["plain-P"].log)

    def test_garbage_and_half_handshakes_cost_nobody_anything(self):
        for first in (b"", b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(400), b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", self.side)) as stranger:
                stranger.sendall(first)
                if first[:1] == b"\x16":
                    continue
                stranger.settimeout(10)
                try:
                    while stranger.recv(4096):
                        pass
                except ConnectionError:
                    pass
        self.cluster.serve("D4", "kv_consumer", *self.authority.flags("D4"))
        proxy = self.cluster.proxy("proxy-D4", ["P"], ["D4"])
        self.assertEqual(ask(proxy, "POST", "/v1/completions", REQUEST).status, 200)
        self.assertFalse(self.cluster.debug("D4")["recent"][0]["recomputed"])


class Wire(unittest.TestCase):
    """What somebody between P and D reads. P's parameters are changed on their way to D, so that D calls the tap."""

    def seen(self, *flags: str) -> bytes:
        with Cluster() as cluster:
            authority = Authority(cluster.folder / "authority") if "tls" in flags else None
            of = authority.flags if authority else lambda _: ["--kv-transport", "tcp"]
            side = free_ports(1)[0]
            p = cluster.serve("P", "kv_producer", *of("P"), kv_port=side)
            d = cluster.serve("D", "kv_consumer", *of("D"))
            tap = Tap(side)
            ask_p = {**REQUEST, "max_tokens": 1, "stream": False, "kv_transfer_params": {
                "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None,
                "remote_host": None, "remote_port": None}}
            parameters = ask(p, "POST", "/v1/completions", ask_p).json()["kv_transfer_params"]
            parameters["remote_port"] = tap.port
            answer = ask(d, "POST", "/v1/completions", {**REQUEST, "kv_transfer_params": parameters})
            self.assertEqual(answer.status, 200)
            self.assertFalse(cluster.debug("D")["recent"][0]["recomputed"], cluster.processes["D"].log[-2000:])
            tap.listener.close()
            return bytes(tap.seen)

    def test_is_readable_without_tls_and_not_with_it(self):
        plain, encrypted = self.seen(), self.seen("tls")
        boot_id = pathlib.Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()  # of each handshake
        self.assertTrue(boot_id in plain and bytes(8) in plain)
        self.assertGreater(len(encrypted), len(plain))
        self.assertFalse(boot_id in encrypted)
        self.assertFalse(bytes(8) in encrypted[2000:], "beyond the handshake of TLS every record is encrypted")



if __name__ == "__main__":
    unittest.main()
