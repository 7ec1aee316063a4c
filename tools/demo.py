#!/usr/bin/env python3
"""The demonstration: two prefill instances, two decode instances and the proxy on loopback, a small trained model, a
few questions answered as they stream, who did what in how many milliseconds, and the proof that one instance alone
gives the same tokens with the same log-probabilities, bit for bit. With --model deepseek the model has DeepSeek-V3's latent
attention and experts, and KV moves layer by layer while P computes. With --chaos there is a second act: a decode instance
is killed in the middle of an answer, which goes on to its end at the other one."""
import argparse
import http.client
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUESTIONS = ["What is a violin?", "Define volcano.", "what does glacier mean", "Who are you?", "What is a telescope?", "I need the meaning of raven."]
READY_SECONDS = 30
PORT_BASE_MAX = 65535 - 42  # D2's side channel is the last of its ports
CHAOS_TRIES = 5
# Of a model: its folder below models/, and the connector of its instances.
MODELS = {"qwen3-moe": ("qwen3-moe", "MooncakeConnector"), "deepseek": ("deepseek-v3", "MooncakeLayerwiseConnector")}


def fail(sentence: str) -> None:
    print(f"demo: {sentence}", file=sys.stderr)
    sys.exit(1)


def require_free(port: int, purpose: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            fail(f"port {port} ({purpose}) is in use; stop what listens there (ss -ltnp sport = :{port}) or choose other ports: ./dev demo --port-base 18000")


class Process:
    """One baton process with its log in a file."""

    def __init__(self, name: str, command: list[str], log: pathlib.Path, environment: dict[str, str]):
        self.name, self.log = name, log
        self.output = open(log, "wb")
        self.child = subprocess.Popen(command, stdout=self.output, stderr=subprocess.STDOUT, env=environment)

    def require_alive(self) -> None:
        if self.child.poll() is not None:
            tail = self.log.read_text(errors="replace").splitlines()[-5:]
            fail(f"{self.name} ended with exit code {self.child.returncode}; its last lines:\n  " + "\n  ".join(tail))

    def stop(self) -> None:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)


def request(port: int, method: str, path: str, body=None, timeout: float = 60):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def wait_ready(process: Process, port: int, path: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        process.require_alive()
        try:
            if request(port, "GET", path, timeout=2)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    fail(f"{process.name} is not ready after {READY_SECONDS} s; its log is {process.log}")


def chat(question: str) -> dict:
    return {"model": "baton-demo", "messages": [{"role": "user", "content": question}], "max_tokens": 48, "temperature": 0.3,
            "seed": 7, "logprobs": True, "top_logprobs": 2, "return_token_ids": True, "stream": True,
            "stream_options": {"include_usage": True}}


def ask(port: int, question: str, show, headed=lambda headers: None) -> dict:
    """Streams one answer; returns its text, tokens, log-probabilities, usage and the headers that say who did it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    start = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(chat(question)), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        fail(f"'{question}' was answered with {answer.status}: {answer.read().decode(errors='replace')}")
    result = {"text": "", "tokens": [], "logprobs": [], "usage": None, "first_ms": None, "headers": dict(answer.getheaders())}
    headed(result["headers"])
    for line in answer:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        event = json.loads(line[6:])
        if "error" in event:
            fail(f"'{question}' ended with an error: {event['error']}")
        result["id"] = event["id"]
        result["usage"] = event.get("usage") or result["usage"]
        for choice in event["choices"]:
            text = choice["delta"].get("content") or ""
            if text and result["first_ms"] is None:
                result["first_ms"] = (time.monotonic() - start) * 1e3
            result["text"] += text
            result["tokens"] += choice.get("token_ids") or []
            result["logprobs"] += ((choice.get("logprobs") or {}).get("content") or [])
            show(text)
    result["total_ms"] = (time.monotonic() - start) * 1e3
    connection.close()
    return result


def stages(port: int, answer_id: str) -> dict:
    """What an instance remembers of a finished request: milliseconds by stage."""
    request_id = answer_id.split("-", 1)[1]
    _, _, body = request(port, "GET", "/debug/requests")
    for entry in json.loads(body)["recent"]:
        if entry["request_id"].endswith(request_id):
            return entry
    return {}


class Demo:
    def __init__(self, baton: str, base: int, model: str):
        self.baton, self.base = baton, base
        self.model, self.connector = MODELS[model]
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="baton-demo-"))
        secret = self.folder / "cluster.secret"
        secret.write_text(secrets.token_hex(32))
        secret.chmod(0o600)
        self.environment = {**os.environ, "BATON_CLUSTER_SECRET_FILE": str(secret), "VLLM_HOST_IP": "127.0.0.1"}
        self.processes: list[Process] = []

    def start(self, name: str, arguments: list[str]) -> Process:
        process = Process(name, [self.baton, *arguments], self.folder / f"{name}.log", self.environment)
        self.processes.append(process)
        return process

    def serve(self, name: str, port: int, transfer: dict | None) -> Process:
        arguments = ["serve", str(ROOT / "models" / self.model), "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "baton-demo",
                     "--max-num-seqs", "16", "--threads", "1"]
        if transfer:
            arguments += ["--kv-transfer-config", json.dumps({"kv_connector": self.connector, "engine_id": name, **transfer})]
        return self.start(name, arguments)

    def run(self, chaos: bool = False) -> None:
        base = self.base
        prefill = {"P1": base + 1, "P2": base + 2}
        decode = {"D1": base + 11, "D2": base + 12}
        for port, purpose in [(base, "proxy"), *((p, n) for n, p in prefill.items()), *((p, n) for n, p in decode.items()),
                              (base + 21, "hand-over of P1"), (base + 22, "hand-over of P2"), (base + 31, "single instance")]:
            require_free(port, purpose)
        started = time.monotonic()
        waiting = [(self.serve(name, port, {"kv_role": "kv_producer", "kv_port": base + 20 + i}), port)
                   for i, (name, port) in enumerate(prefill.items(), 1)]
        waiting += [(self.serve(name, port, {"kv_role": "kv_consumer", "kv_port": base + 40 + i}), port)
                    for i, (name, port) in enumerate(decode.items(), 1)]
        for process, port in waiting:
            wait_ready(process, port, "/health")
        proxy = self.start("proxy", ["proxy", "--host", "127.0.0.1", "--port", str(base),
                                     "--prefiller-hosts", *["127.0.0.1"] * 2, "--prefiller-ports", *map(str, prefill.values()),
                                     "--decoder-hosts", *["127.0.0.1"] * 2, "--decoder-ports", *map(str, decode.values()),
                                     "--local-prefill", "never"])  # questions this short would be answered without a hand-over
        wait_ready(proxy, base, "/v1/models")
        print(f"2 prefill, 2 decode instances and the proxy are up after {time.monotonic() - started:.1f} s (logs in {self.folder})\n")
        names = {f"127.0.0.1:{port}": name for name, port in {**prefill, **decode}.items()}
        answers = []
        for question in QUESTIONS:
            print(f"  {question}\n    ", end="", flush=True)
            answers.append(ask(base, question, lambda text: print(text, end="", flush=True)))
            print()
        self.table(answers, names, {**prefill, **decode})
        single = self.serve("single", base + 31, None)
        wait_ready(single, base + 31, "/health")
        self.proof(answers)
        if chaos:
            self.chaos(names)
        single.stop()

    def table(self, answers: list[dict], names: dict[str, str], ports: dict[str, int]) -> None:
        print(f"\n  {'':34}{'prefill':>9}{'decode':>8}{'queue':>9}{'prefill':>9}{'hand-over':>11}{'decode':>9}{'first':>9}{'total':>9}  tokens")
        print(f"  {'':34}{'on':>9}{'on':>8}{'ms':>9}{'ms':>9}{'ms':>11}{'ms':>9}{'ms':>9}{'ms':>9}")
        for question, answer in zip(QUESTIONS, answers):
            headers = {key.lower(): value for key, value in answer["headers"].items()}
            who = [names.get(headers.get(f"x-baton-{role}", ""), "?") for role in ("prefill", "decode")]
            at_p = stages(ports[who[0]], answer["id"]) if who[0] in ports else {}
            at_d = stages(ports[who[1]], answer["id"]) if who[1] in ports else {}
            queue = at_p.get("queue_ms", 0) + at_d.get("queue_ms", 0)
            usage = answer["usage"]
            print(f"  {question:34}{who[0]:>9}{who[1]:>8}{queue:9.2f}{at_p.get('prefill_ms', 0):9.2f}{at_d.get('handover_ms', 0):11.2f}"
                  f"{at_d.get('decode_ms', 0):9.2f}{answer['first_ms']:9.1f}{answer['total_ms']:9.1f}"
                  f"  {usage['prompt_tokens']} + {usage['completion_tokens']}")
            if len(set(who)) != 2 or "?" in who:
                fail(f"'{question}' was not prefilled on one process and decoded on another: {who}")

    def proof(self, answers: list[dict]) -> None:
        compared = 0
        for question, answer in zip(QUESTIONS, answers):
            alone = ask(self.base + 31, question, lambda text: None)
            for what in ("text", "tokens", "logprobs"):
                if alone[what] != answer[what]:
                    fail(f"PARITY BROKEN for '{question}': {what} through the proxy and from one instance differ:\n  {answer[what]}\n  {alone[what]}")
            compared += len(answer["tokens"])
        print(f"\n  the same {len(QUESTIONS)} questions to one instance alone: {compared} tokens and their log-probabilities are equal to the bit")

    def resumed(self) -> int:
        metrics = request(self.base, "GET", "/metrics")[2].decode()
        return int(next(line.split()[1] for line in metrics.splitlines() if line.startswith("baton:proxy_resumptions_total ")))

    def killed_in_the_middle(self, question: str, names: dict[str, str]) -> tuple[str, dict]:
        """Asks, kills whoever decodes at the third piece of text, and reads on. Returns the name and the answer."""
        decoder, pieces = [], []

        def headed(headers: dict[str, str]) -> None:
            decoder.append(names[next(value for key, value in headers.items() if key.lower() == "x-baton-decode")])

        def show(text: str) -> None:
            if text:
                pieces.append(text)
            if len(pieces) == 3 and text:
                victim = next(process for process in self.processes if process.name == decoder[0])
                victim.child.kill()
                victim.child.wait()
                self.processes.remove(victim)
                text += f" [kill -9 {victim.name}] "
            print(text, end="", flush=True)

        print(f"  {question}\n    ", end="", flush=True)
        answer = ask(self.base, question, show, headed)
        print()
        return decoder[0], answer

    def revive(self, name: str) -> None:
        """The same decode instance again, once the proxy has found it."""
        number = int(name[1:])
        port = self.base + 10 + number
        wait_ready(self.serve(name, port, {"kv_role": "kv_consumer", "kv_port": self.base + 40 + number}), port, "/health")
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            instances = json.loads(request(self.base, "GET", "/healthcheck")[2])["instances"]
            if all(one["health"] == "up" for one in instances):
                return
            time.sleep(0.05)
        fail(f"the proxy does not find {name} again within {READY_SECONDS} s")

    def chaos(self, names: dict[str, str]) -> None:
        """The second act. A killed process says nothing more: what follows comes from somebody else."""
        question = QUESTIONS[1]
        print("\n  second act: the decode instance is killed in the middle of an answer")
        for _ in range(CHAOS_TRIES):
            before = self.resumed()
            victim, answer = self.killed_in_the_middle(question, names)
            if self.resumed() > before:
                break
            print(f"  {victim} had said all of it before it died; once more")
            self.revive(victim)
        else:
            fail(f"{CHAOS_TRIES} answers were faster than the kill: is this machine very busy?")
        alone = ask(self.base + 31, question, lambda text: None)
        for what in ("text", "tokens", "logprobs"):
            if alone[what] != answer[what]:
                fail(f"PARITY BROKEN after the kill: {what} differ:\n  {answer[what]}\n  {alone[what]}")
        survivor = next(name for name in ("D1", "D2") if name != victim)
        print(f"  {victim} began the answer, {survivor} ended it: {len(answer['tokens'])} tokens and their log-probabilities are equal to the bit\n"
              "  to those of one instance that nothing disturbed; the client saw no error")

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()
        for process in self.processes:
            try:
                process.child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.child.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev demo")
    parser.add_argument("--baton", default=str(ROOT / "build/release/baton"), help="the binary")
    parser.add_argument("--port-base", type=int, default=8100, help="the proxy's port; the others follow it (default 8100)")
    parser.add_argument("--model", choices=list(MODELS), default="qwen3-moe", help="which trained model answers (default qwen3-moe)")
    parser.add_argument("--chaos", action="store_true", help="then kill a decode instance in the middle of an answer")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    args = parser.parse_args()
    if not 1 <= args.port_base <= PORT_BASE_MAX:
        fail(f"--port-base: {args.port_base}, expected 1 to {PORT_BASE_MAX}")
    if not os.access(args.baton, os.X_OK):
        fail(f"{args.baton} is not there; build it with ./dev build")
    demo = Demo(args.baton, args.port_base, args.model)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        demo.run(args.chaos)
        if args.keep:
            print(f"""
  still running; talk to it:
    curl -N http://127.0.0.1:{args.port_base}/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{{"model": "baton-demo", "stream": true, "messages": [{{"role": "user", "content": "What is a cello?"}}]}}'
  Ctrl-C stops everything.""", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print()
    finally:
        demo.stop()


if __name__ == "__main__":
    main()
