"""Real processes for a test: instances, a proxy, and the little client that talks to them."""
import contextlib
import http.client
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "models" / "qwen3-moe")
TINY = str(ROOT / "tests" / "golden" / "checkpoints" / "qwen3")
BATON = str(ROOT / "build" / "release" / "baton")
READY_SECONDS = 30


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below the ephemeral range where other tests' connections come from."""
    found: list[int] = []
    while len(found) < count:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes):
        self.status, self.headers, self.body = status, {k.lower(): v for k, v in headers.items()}, body

    def json(self):
        return json.loads(self.body)

    def events(self) -> list:
        """The events of an SSE body; [DONE] as the string."""
        found = []
        for block in self.body.decode().split("\n\n"):
            data = [line.removeprefix("data: ") for line in block.split("\n") if line.startswith("data: ")]
            if data:
                found.append("[DONE]" if data == ["[DONE]"] else json.loads("\n".join(data)))
        return found


def ask(port: int, method: str, path: str, body=None, headers: dict[str, str] | None = None, timeout: float = 60,
        host: str = "127.0.0.1") -> Answer:
    """One exchange. `body` is sent as JSON unless it is bytes or str."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


class Stream:
    """A streamed answer that the test reads event by event, and can leave in the middle."""

    def __init__(self, port: int, path: str, body: dict, headers: dict[str, str] | None = None, timeout: float = 60):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self.connection.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json", **(headers or {})})
        self.answer = self.connection.getresponse()
        self.status = self.answer.status

    def __iter__(self):
        for line in self.answer:
            if line.startswith(b"data: "):
                data = line[6:].strip()
                yield "[DONE]" if data == b"[DONE]" else json.loads(data)

    def leave(self) -> None:
        self.connection.sock.close() if self.connection.sock else None
        self.answer.close()
        self.connection.close()


class Process:
    def __init__(self, name: str, arguments: list[str], folder: pathlib.Path, environment: dict[str, str], inside: list[str] | None = None):
        self.name, self.log_path = name, folder / f"{name}.log"
        self.output = open(self.log_path, "ab")
        self.child = subprocess.Popen([*(inside or []), BATON, *arguments], stdout=self.output, stderr=subprocess.STDOUT, env=environment)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    def freeze(self) -> None:
        self.child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.child.send_signal(signal.SIGCONT)

    def stop(self, seconds: float = 15) -> int:
        """SIGTERM, and the exit code."""
        if self.child.poll() is None:
            self.thaw()
            self.child.terminate()
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.output.close()
        return self.child.returncode


class Cluster(contextlib.AbstractContextManager):
    """Instances by name. `with Cluster() as c: c.serve("P1", role="kv_producer"); c.proxy("proxy", ["P1"], ["D1"])`."""

    def __init__(self, model: str = MODEL):
        self.model = model
        self.flags: tuple[str, ...] = ()  # of every instance
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="baton-test-"))
        secret = self.folder / "secret"
        secret.write_text(secrets.token_hex(32))
        secret.chmod(0o600)
        self.environment = {**os.environ, "BATON_CLUSTER_SECRET_FILE": str(secret), "VLLM_HOST_IP": "127.0.0.1"}
        self.processes: dict[str, Process] = {}
        self.ports: dict[str, int] = {}
        self.environments: dict[str, dict[str, str]] = {}
        self.headers: dict[str, str] = {}  # of what only an administrator may ask
        self.hosts: dict[str, str] = {}  # where an instance is asked, if not on this host
        self.inside: dict[str, list[str]] = {}  # what its command begins with: the namespace in which it runs

    def serve(self, name: str, role: str | None = None, *extra: str, model: str | None = None, wait: bool = True,
              port: int | None = None, kv_port: int | None = None,
              connector: str = "MooncakeConnector") -> int:
        port, kv_port = port or free_ports(1)[0], kv_port or free_ports(1)[0]
        host = "0.0.0.0" if name in self.hosts else "127.0.0.1"
        arguments = ["serve", model or self.model, "--host", host, "--port", str(port), "--served-model-name", "test", "--threads", "1"]
        if role:
            config = {"kv_connector": connector, "kv_role": role, "kv_port": kv_port, "engine_id": name}
            arguments += ["--kv-transfer-config", json.dumps(config)]
        self.processes[name] = Process(name, [*arguments, *self.flags, *extra], self.folder, self.environment_of(name),
                                       self.inside.get(name))
        self.ports[name] = port
        if wait:
            self.wait_ready(name)
        return port

    def environment_of(self, name: str) -> dict[str, str]:
        """Of one process: a test may set some of it by name."""
        return {**self.environment, **self.environments.get(name, {})}

    def host_of(self, name: str) -> str:
        return self.hosts.get(name, "127.0.0.1")

    def proxy(self, name: str, prefill: list[str], decode: list[str], *extra: str, ready: str = "/v1/models") -> int:
        port = free_ports(1)[0]
        arguments = ["proxy", "--host", "127.0.0.1", "--port", str(port)]
        if "--prefill" not in extra:  # else it names its instances itself
            arguments += ["--prefiller-hosts", *map(self.host_of, prefill), "--prefiller-ports", *(str(self.ports[p]) for p in prefill),
                          "--decoder-hosts", *map(self.host_of, decode), "--decoder-ports", *(str(self.ports[d]) for d in decode)]
        # Prompts and models of tests are small: left to itself a proxy would let D compute most of them.
        placed = () if "--local-prefill" in extra else ("--local-prefill", "never")
        self.processes[name] = Process(name, [*arguments, *placed, *extra], self.folder, self.environment)
        self.ports[name] = port
        self.wait_ready(name, ready)
        self.wait_probed(port)
        return port

    def wait_probed(self, port: int) -> None:
        """Until the proxy has looked at each of its instances once, whatever it found."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            health = ask(port, "GET", "/healthcheck", timeout=2)
            if health.status != 200 or all(one["health"] != "unknown" for one in health.json().get("instances", [])):
                return
            time.sleep(0.02)

    def wait_reservations_back(self, name: str) -> None:
        """A proxy's requests are over, and it counts none of them at any instance."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            health = ask(self.ports[name], "GET", "/healthcheck").json()
            if health["request_num"] == 0 and all(one["in_flight"] == 0 for one in health["instances"]):
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} still counts: {health}")
            time.sleep(0.02)

    def wait_ready(self, name: str, path: str = "/health") -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.processes[name].child.poll() is not None:
                raise AssertionError(f"{name} ended with {self.processes[name].child.returncode}:\n{self.processes[name].log}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ask(self.ports[name], "GET", path, timeout=2, host=self.host_of(name)).status == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"{name} is not ready after {READY_SECONDS} s:\n{self.processes[name].log}")

    def blocks(self, name: str) -> dict:
        return self.debug(name)["kv_blocks"]

    def debug(self, name: str) -> dict:
        return ask(self.ports[name], "GET", "/debug/requests", headers=self.headers, host=self.host_of(name)).json()

    def wait_all_free(self, name: str, seconds: float = 5) -> None:
        """Every KV block of an instance is back: the counter that says that nothing leaked."""
        deadline = time.monotonic() + seconds
        while True:
            blocks = self.blocks(name)
            if blocks["free"] == blocks["total"] and blocks["held"] == 0 and blocks["landing"] == 0:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} still keeps blocks after {seconds} s: {blocks}\n{self.processes[name].log[-4000:]}")
            time.sleep(0.02)

    def __exit__(self, *_):
        for process in self.processes.values():
            process.stop()
