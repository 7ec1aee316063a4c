#!/usr/bin/env python3
"""Speed as ratios: everything is divided by a limit of this machine, or by a peer, measured in the same run with the same
number of threads. Absolute numbers of a shared machine move by tens of percent within minutes; their ratios hardly do.

  ./dev bench                    all of it, in less than six minutes
  ./dev bench decode proxy       some of it

How it measures: a job waits until nobody else uses the cores, is bracketed by the peaks it is compared with, and is
repeated; medians are reported. A job during which other processes used more than 8 % of a core is run once more, and
marked "disturbed" if that was no better. Prints a table and writes build/bench.json."""
import argparse
import dataclasses
import datetime
import http.client
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPE = "qwen3-0.6b"
CORES = sorted(os.sched_getaffinity(0))
THREADS = min(2, len(CORES))
DISTURBED_CORES = 0.08
CALM_S = 1.5  # this long nobody else may use the cores before a job begins
RETRY_UNTIL_S = 200  # no second try of a disturbed job after this: the whole run stays below six minutes
LAYERWISE_ROUNDS = 7
LAYER_BYTES_PER_TOKEN = 2 * 8 * 128 * 2  # of SHAPE: K and V, heads, width, bytes of a bfloat16
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def fail(sentence: str) -> None:
    print(f"bench: {sentence}", file=sys.stderr)
    sys.exit(1)


# ---- rows -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    name: str
    measured: str
    against: str  # the peak or peer of the same run
    ratio: float | None
    bar: float | None = None  # nothing: no promise, shown for its own sake
    at_most: bool = False  # the ratio must not exceed the bar, else not fall below it
    command: str = ""
    note: str = ""
    others: float = 0  # cores that other processes used meanwhile

    @property
    def verdict(self) -> str:
        if self.bar is None or self.ratio is None:
            return "-"
        met = self.ratio <= self.bar if self.at_most else self.ratio >= self.bar
        disturbed = ", disturbed" if self.others > DISTURBED_CORES else ""
        return ("ok" if met else "above" if self.at_most else "below") + disturbed

    def cells(self) -> list[str]:
        bar = "-" if self.bar is None else f"{'≤' if self.at_most else '≥'} {self.bar:.2f}"
        ratio = "-" if self.ratio is None else f"{self.ratio:.2f}"
        return [self.name, self.measured, self.against, ratio, bar, self.verdict]


def print_rows(rows: list[Row]) -> None:
    table = [["what", "measured", "beside", "ratio", "bar", "verdict"], *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    for row in rows:
        if row.note:
            print(f"  {row.name}: {row.note}")


# ---- who uses the cores -----------------------------------------------------------------------------------------------

children: list[subprocess.Popen] = []


def busy_cores_s() -> float:
    """Seconds that all processes and other guests of the host used; interrupts, which nobody owns, are left out."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, steal = fields[0], fields[1], fields[2], fields[7]
    return (user + nice + system + steal) * TICK_S


def own_cores_s() -> float:
    """Seconds used by this program, by what it started, and by what of that has ended."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in children:
        if child.returncode is None:
            try:
                fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            total += (int(fields[11]) + int(fields[12])) * TICK_S
    return total


class Watch:
    """Cores that others used since it was made."""

    def __init__(self):
        self.at, self.busy, self.own = time.monotonic(), busy_cores_s(), own_cores_s()

    def others(self) -> float:
        taken = max(time.monotonic() - self.at, 1e-3)
        return max(0.0, (busy_cores_s() - self.busy - (own_cores_s() - self.own)) / taken)


def wait_for_calm(at_most_s: float) -> None:
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline:
        watch = Watch()
        time.sleep(CALM_S)
        if watch.others() <= DISTURBED_CORES:
            return


# ---- processes --------------------------------------------------------------------------------------------------------


def start(command: list[str], log: pathlib.Path, cores: list[int] | None = None) -> subprocess.Popen:
    pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    child = subprocess.Popen(command, stdout=open(log, "wb"), stderr=subprocess.STDOUT, preexec_fn=pin)
    children.append(child)
    return child


def stop(child: subprocess.Popen) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def stop_all() -> None:
    for child in reversed(children):
        stop(child)


def output_of(command: list[str], cores: list[int] | None = None, environment: dict | None = None) -> str:
    pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=pin, env={**os.environ, **(environment or {})})
    if done.returncode != 0:
        fail(f"{shlex.join(command)[:200]} ended with exit code {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, child: subprocess.Popen, log: pathlib.Path, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.01)
    fail(f"nothing listens on port {port}; the end of {log}:\n" + log.read_text(errors="replace")[-600:])


# ---- the run ----------------------------------------------------------------------------------------------------------


class Run:
    def __init__(self, build: pathlib.Path):
        self.build = build
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="baton-bench-"))
        self.baton = build / "baton"
        self.kernels = build / "src/kernels/bench_kernels"
        self.server: subprocess.Popen | None = None
        self.port = 0

    # Peaks with the threads of the kernels: bytes/s and flop/s.
    def peaks(self) -> dict:
        report = json.loads(output_of([str(self.kernels), f"--benchmark_filter=^peaks/{THREADS}/", "--benchmark_format=json"]))
        return report["benchmarks"][0]

    def google_benchmark(self, program: str, pattern: str, repetitions: int, *options: str) -> dict[str, list[dict]]:
        report = json.loads(output_of([str(self.build / program), f"--benchmark_filter={pattern}", "--benchmark_format=json",
                                       f"--benchmark_repetitions={repetitions}", *options]))
        by_name: dict[str, list[dict]] = {}
        for entry in report["benchmarks"]:
            if entry["run_type"] == "iteration":
                by_name.setdefault(entry["run_name"], []).append(entry)
        return by_name

    def model(self) -> pathlib.Path:
        """Random weights of the shape; made once."""
        folder = ROOT / "build/bench-models" / SHAPE
        if not (folder / "config.json").exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            print(f"bench: writing random weights of {SHAPE} to {folder}", file=sys.stderr)
            made = folder.with_suffix(".new")
            output_of([str(self.baton), "random-checkpoint", SHAPE, str(made), "--tokenizer", str(ROOT / "tests/golden/tokenizers/qwen3")])
            made.rename(folder)
        return folder

    def weights(self) -> tuple[int, int]:
        """Bytes that one token reads (the tied embedding once, as the head), and parameters of the layers."""
        read = layers = 0
        for file in self.model().glob("*.safetensors"):
            with open(file, "rb") as stream:
                header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
            for name, tensor in header.items():
                if name == "__metadata__":
                    continue
                begin, end = tensor["data_offsets"]
                read += end - begin
                if ".layers." in name:
                    layers += (end - begin) // 2
        return read, layers

    def serve_command(self, port: int) -> list[str]:
        return [str(self.baton), "serve", str(self.model()), "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "bench",
                "--max-model-len", "4096", "--max-num-seqs", "4", "--kv-cache-memory-bytes", str(1 << 30), "--threads", str(THREADS)]

    def serve(self) -> int:
        if self.server is None:
            self.port = free_port()
            self.server = start(self.serve_command(self.port), self.folder / "serve.log")
            first_answer(self.port, self.server, self.folder / "serve.log", 30)
        return self.port

    def end_serve(self) -> None:
        if self.server is not None:
            stop(self.server)
            self.server = None


# ---- talking to an instance -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    first_s: float  # until the first token
    tokens: int
    tokens_per_s: float  # after the first


def prompt_ids(count: int) -> list[int]:
    return [random.randrange(1000, 100_000) for _ in range(count)]


def body(prompt: list[int], max_tokens: int) -> str:
    return json.dumps({"model": "bench", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                       "return_token_ids": True})


def ask(port: int, prompt: list[int], max_tokens: int) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    begin = time.monotonic()
    connection.request("POST", "/v1/completions", body(prompt, max_tokens), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise ConnectionError(f"{answer.status}: {answer.read().decode(errors='replace')[:300]}")
    arrivals: list[tuple[float, int]] = []  # of the events with tokens, and how many so far
    count = 0
    for line in answer:
        now = time.monotonic()
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            fail(f"the instance answered with an error event: {event['error']}")
        count += sum(len(choice.get("token_ids") or []) for choice in event["choices"])
        if count > (arrivals[-1][1] if arrivals else 0):
            arrivals.append((now, count))
    connection.close()
    if count != max_tokens:
        fail(f"an answer has {count} tokens, expected {max_tokens}")
    (first, had), (last, total) = arrivals[0], arrivals[-1]
    return Answer(first - begin, count, (total - had) / (last - first) if last > first else 0)


def first_answer(port: int, child: subprocess.Popen, log: pathlib.Path, seconds: float) -> None:
    """Asks for one token until the instance gives one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and child.poll() is None:
        try:
            ask(port, prompt_ids(8), 1)
            return
        except (OSError, http.client.HTTPException):
            time.sleep(0.002)
    fail(f"no first token within {seconds} s; the end of {log}:\n" + log.read_text(errors="replace")[-600:])


def median(values) -> float:
    return statistics.median(list(values))


# ---- jobs -------------------------------------------------------------------------------------------------------------


def shares(entries: list[dict]) -> tuple[float, float, float]:
    """Median rate, median peak, and the median of each repetition's rate over the mean of the peaks before and after it (the
    one after it is the next repetition's)."""
    rates = [entry["rate"] for entry in entries]
    peaks = [entry["peak"] for entry in entries]
    beside = [(peak + after) / 2 for peak, after in zip(peaks, peaks[1:] + peaks[-1:])]
    return median(rates), median(peaks), median(rate / peak for rate, peak in zip(rates, beside))


def kernel_rows(run: Run, prefix: str, bar: float, unit: float, unit_name: str, limit: str) -> list[Row]:
    pattern = f"^{prefix}/.*/{THREADS}/"
    rows = []
    for name, entries in run.google_benchmark("src/kernels/bench_kernels", pattern, 3, "--benchmark_min_time=0.3").items():
        rate, peak, share = shares(entries)
        if "of_read" in entries[0]:  # the two took turns
            share = median(entry["of_read"] for entry in entries)
        rows.append(Row(" ".join(name.split("/")[:2]), f"{rate / unit:.1f} {unit_name}", f"{limit} {peak / unit:.1f} {unit_name}", share, bar,
                        command=f"bench_kernels --benchmark_filter='{pattern}'", note=f"{THREADS} threads"))
    return rows


def job_gemv(run: Run) -> list[Row]:
    return kernel_rows(run, "gemv", 0.80, 1e9, "GB/s", "read")


def job_gemm(run: Run) -> list[Row]:
    return kernel_rows(run, "gemm", 0.60, 1e9, "GFLOP/s", "dpbf16")


def job_decode(run: Run) -> list[Row]:
    port, (bytes_per_token, _) = run.serve(), run.weights()
    ask(port, prompt_ids(16), 16)
    peaks, rates = [run.peaks()["read"]], []
    for _ in range(4):
        rates.append(ask(port, prompt_ids(16), 64).tokens_per_s)
        peaks.append(run.peaks()["read"])
    share = median(rate * bytes_per_token / ((before + after) / 2) for rate, before, after in zip(rates, peaks, peaks[1:]))
    rate = median(rates)
    return [Row(f"decode {SHAPE}, batch 1", f"{rate:.1f} tok/s = {rate * bytes_per_token / 1e9:.1f} GB/s", f"read {median(peaks) / 1e9:.1f} GB/s", share,
                0.80, command=shlex.join(run.serve_command(8000)),
                note=f"{THREADS} threads, over HTTP, {bytes_per_token / 1e9:.3f} GB of weights per token, KV not counted")]


def job_prefill(run: Run) -> list[Row]:
    port, (_, layers) = run.serve(), run.weights()
    config = json.loads((run.model() / "config.json").read_text())
    width = config["num_attention_heads"] * config["head_dim"]
    head = config["vocab_size"] * config["hidden_size"]
    rows = []
    for tokens in (512, 2048):
        flop = 2 * layers * tokens + 2 * tokens * tokens * width * config["num_hidden_layers"] + 2 * head
        peaks, times = [run.peaks()["bf16"]], []
        for _ in range(3):
            times.append(ask(port, prompt_ids(tokens), 1).first_s)
            peaks.append(run.peaks()["bf16"])
        share = median(flop / taken / ((before + after) / 2) for taken, before, after in zip(times, peaks, peaks[1:]))
        rows.append(Row(f"prefill {SHAPE}, {tokens} tokens", f"{tokens / median(times):.0f} tok/s = {flop / median(times) / 1e9:.0f} GFLOP/s",
                        f"dpbf16 {median(peaks) / 1e9:.0f} GFLOP/s", share, command=shlex.join(run.serve_command(8000)),
                        note=f"{THREADS} threads, over HTTP, time to first token; random ids, nothing is cached"))
    return rows


def job_busy(run: Run) -> list[Row]:
    port = run.serve()
    ask(port, prompt_ids(16), 16)
    quiet, busy = [], []
    for _ in range(3):
        quiet.append(ask(port, prompt_ids(16), 48).tokens_per_s)
        spinner = start([sys.executable, "-c", "while True: pass"], run.folder / "spinner.log")
        time.sleep(0.2)
        busy.append(ask(port, prompt_ids(16), 48).tokens_per_s)
        stop(spinner)
    share = median(b / q for b, q in zip(busy, quiet))
    return [Row("decode beside a busy process", f"{median(busy):.1f} tok/s", f"quiet {median(quiet):.1f} tok/s", share, 0.40,
                command=shlex.join(run.serve_command(8000)) + "  # and: python3 -c 'while True: pass'",
                note=f"{THREADS} threads on {len(CORES)} cores, one endless loop beside them")]


def resident(pid: int, weights: pathlib.Path) -> tuple[dict[str, float], float]:
    """MB of each kind of mapping, and their sum: the weights' files, the KV arena, and everything else."""
    kinds = {"weights": 0.0, "KV": 0.0, "other": 0.0}
    kind = "other"
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0] and not fields[0].endswith(":"):
            name = fields[5] if len(fields) > 5 else ""
            kind = "weights" if name.startswith(str(weights)) else "KV" if "memfd:baton-kv" in name else "other"
        elif fields[0] == "Rss:":
            kinds[kind] += int(fields[1]) * 1024 / 1e6
    return kinds, sum(kinds.values())


def job_start(run: Run) -> list[Row]:
    model = run.model()
    for file in model.glob("*.safetensors"):
        with open(file, "rb", buffering=0) as stream:
            while stream.read(16 << 20):
                pass
    times = []
    for i in range(3):
        port, log = free_port(), run.folder / f"start-{i}.log"
        begin = time.monotonic()
        child = start(run.serve_command(port), log)
        first_answer(port, child, log, 30)
        times.append(time.monotonic() - begin)
        if i < 2:
            stop(child)
    for _ in range(2):
        ask(port, prompt_ids(2048), 32)
    kinds, total = resident(child.pid, model)
    stop(child)
    return [Row(f"start of {SHAPE} to first token", f"{median(times):.2f} s", "limit 1 s", median(times), 1.0, at_most=True,
                command=shlex.join(run.serve_command(8000)), note="from starting the process to the end of its first answer of one token, page cache warm"),
            Row("resident beyond weights and KV", f"{kinds['other']:.0f} MB", "limit 300 MB", kinds["other"] / 300, 1.0, at_most=True,
                command="/proc/PID/smaps after two prompts of 2048 tokens",
                note=f"{total:.0f} MB resident = weights {kinds['weights']:.0f} (mapped file) + KV {kinds['KV']:.0f} (touched pages of the arena) + all else")]


def job_handover(run: Run) -> list[Row]:
    rows = []
    # Of UCX's own transports reference/transfer-engines.md measured 0.63 of memcpy for writes of registered memory, 0.71 of a socket.
    for case, name, limit, bar in [("local_against_memcpy", "hand-over 132 MB, one host", "memcpy", 0.90),
                                   ("tcp_against_raw_socket", "hand-over 132 MB, TCP", "socket + checksum", 0.85),
                                   ("four_tcp_against_raw_sockets", "hand-over 132 MB, TCP, 4 connections", "4 sockets + checksum", 0.85),
                                   ("ucx_shared_memory_against_memcpy", "hand-over 132 MB, UCX shared memory", "memcpy", 0.63),
                                   ("ucx_tcp_against_raw_socket", "hand-over 132 MB, UCX TCP", "socket", 0.71)]:
        [entries] = run.google_benchmark("src/transfer/bench_transfer", f"^{case}/", 3).values()
        mover, peak = (median(entry[key] for entry in entries) for key in ("mover_GB/s", "limit_GB/s"))
        rows.append(Row(name, f"{mover:.2f} GB/s", f"{limit} {peak:.2f} GB/s", median(entry["ratio"] for entry in entries), bar,
                        command=f"bench_transfer --benchmark_filter=^{case}/", note="mover and limit take turns; 28 layers of 72 blocks"))
    return rows


class Layerwise:
    """One P and one D of the layer-wise order behind a proxy, a thread for each, on the cores of this machine."""

    def __init__(self, run: Run, transport: str):
        self.ports = {name: free_port() for name in ("P", "D", "proxy")}
        self.processes: dict[str, tuple[subprocess.Popen, pathlib.Path]] = {}  # and their logs
        for name, role in (("P", "kv_producer"), ("D", "kv_consumer")):
            config = {"kv_connector": "MooncakeLayerwiseConnector", "kv_role": role, "kv_port": free_port(), "engine_id": name}
            command = run.serve_command(self.ports[name])
            command[command.index("--threads") + 1] = "1"
            self.begin(run, name, ["env", "VLLM_HOST_IP=127.0.0.1", *command, "--no-enable-prefix-caching", "--kv-transport", transport,
                                   "--kv-transfer-config", compact(config)])
        self.command = [str(run.baton), "proxy", "--host", "127.0.0.1", "--port", str(self.ports["proxy"]), "--prefiller-hosts", "127.0.0.1",
                        "--prefiller-ports", str(self.ports["P"]), "--decoder-hosts", "127.0.0.1", "--decoder-ports", str(self.ports["D"])]
        for name in ("P", "D"):
            first_answer(self.ports[name], *self.processes[name], 30)
        self.begin(run, "proxy", self.command)
        first_answer(self.ports["proxy"], *self.processes["proxy"], 30)

    def begin(self, run: Run, name: str, command: list[str]) -> None:
        log = run.folder / f"layerwise-{name}-{self.ports[name]}.log"
        self.processes[name] = (start(command, log), log)

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["P"], timeout=10)
        connection.request("GET", path)
        return connection.getresponse().read()

    def exposed_s(self) -> tuple[float, int]:
        """P's histogram: the sum, and of how many hand-overs."""
        found = {line.split("{")[0].split(" ")[0]: float(line.rsplit(" ", 1)[1]) for line in self.get("/metrics").decode().splitlines()
                 if line.startswith("baton:handover_exposed_seconds_")}
        return found["baton:handover_exposed_seconds_sum"], int(found["baton:handover_exposed_seconds_count"])

    def prefill_s(self) -> float:
        """Of P's last request."""
        return json.loads(self.get("/debug/requests"))["recent"][-1]["prefill_ms"] / 1e3

    def hand_over(self, tokens: int) -> tuple[float, float]:
        """Exposed time and P's prefill of one request."""
        sum_before, count = self.exposed_s()
        ask(self.ports["proxy"], prompt_ids(tokens), 2)
        deadline = time.monotonic() + 10
        while (now := self.exposed_s())[1] == count:
            if time.monotonic() > deadline:
                fail("P has handed nothing over; the end of its log:\n" + self.processes["P"][1].read_text(errors="replace")[-600:])
            time.sleep(0.01)
        return now[0] - sum_before, self.prefill_s()

    def alone(self, tokens: int) -> float:
        """P's prefill of a request that stays there."""
        ask(self.ports["P"], prompt_ids(tokens), 1)
        return self.prefill_s()

    def stop(self) -> None:
        for child, _ in self.processes.values():
            stop(child)


def job_layerwise(run: Run) -> list[Row]:
    tokens, rows = 512, []
    for transport in ("local", "tcp"):
        cluster = Layerwise(run, transport)
        cluster.hand_over(tokens)
        exposed, slowdowns = [], []
        for i in range(LAYERWISE_ROUNDS):  # in turn, and which comes first in turn
            before = cluster.alone(tokens) if i % 2 == 0 else None
            wait, with_transfer = cluster.hand_over(tokens)
            slowdowns.append(with_transfer - (before or cluster.alone(tokens)))
            exposed.append(wait)
        cluster.stop()
        case = {"local": "local_against_memcpy", "tcp": "tcp_against_raw_socket"}[transport]
        [entries] = run.google_benchmark("src/transfer/bench_transfer", f"^{case}/", 3).values()
        layer = tokens * LAYER_BYTES_PER_TOKEN / median(entry["mover_GB/s"] * 1e9 for entry in entries)
        wait, slower = median(exposed), median(slowdowns)
        noise = median(abs(one - slower) for one in slowdowns)
        command = shlex.join(cluster.command)
        rows.append(Row(f"layer-wise, last layer to Done, {transport}", f"{wait * 1e3:.2f} ms", f"one layer {layer * 1e3:.2f} ms", wait / layer, 1.5,
                        at_most=True, command=command, note=f"{SHAPE}, prompts of {tokens} tokens, 2.1 MB a layer; median of {LAYERWISE_ROUNDS}"))
        rows.append(Row(f"layer-wise, slower prefill, {transport}", f"{slower * 1e3:.1f} ms", f"its own spread {noise * 1e3:.1f} ms", None,
                        command=command, note="P's prefill with the transfer beside it less one without, in turn; median, and median deviation"))
    return rows


# ---- the proxy against nginx --------------------------------------------------------------------------------------------

NGINX = """daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      client_body_buffer_size 64k;
    }}
  }}
}}
"""
PROMPT = "what a client asks of a model, " * 16 + "................"  # 512 bytes
TO_PREFILL = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None, "remote_host": None,
              "remote_port": None}
TO_DECODE = {"do_remote_prefill": True, "do_remote_decode": False, "remote_block_ids": [[1, 2, 3, 4, 5, 6, 7, 8]], "remote_engine_id": "fake",
             "remote_host": "127.0.0.1", "remote_port": 5600, "remote_request_id": "cmpl-0123456789abcdef0123456789abcdef", "last_token_id": 42}


def compact(value: dict) -> str:
    return json.dumps(value, separators=(",", ":"))


class Relays:
    """The proxy and nginx on one core; the engines and the load on another."""

    def __init__(self, run: Run):
        self.bench = run.build / "src/proxy/bench_proxy"
        self.load_cores, self.relay_cores = CORES[:1], CORES[-1:]
        prefill, decode, self.nginx_port, self.proxy_port = (free_port() for _ in range(4))
        self.engine_port = decode
        for port in (prefill, decode):
            log = run.folder / f"engine-{port}.log"
            wait_for_port(port, start([str(self.bench), "engine", str(port)], log, self.load_cores), log)
        config = run.folder / "nginx.conf"
        config.write_text(NGINX.format(folder=run.folder, engine=decode, port=self.nginx_port))
        nginx = next((str(path) for path in (pathlib.Path(folder) / "nginx" for folder in [*os.environ["PATH"].split(":"), "/usr/sbin"]) if path.exists()), "")
        if not nginx:
            fail("nginx is not installed (package nginx-light); run ./dev setup")
        log = run.folder / "nginx.log"
        self.nginx = start([nginx, "-e", str(run.folder / "nginx.error.log"), "-c", str(config)], log, self.relay_cores)
        wait_for_port(self.nginx_port, self.nginx, log)
        log = run.folder / "proxy.log"
        self.command = [str(run.baton), "proxy", "--host", "127.0.0.1", "--port", str(self.proxy_port), "--prefiller-hosts", "127.0.0.1",
                        "--prefiller-ports", str(prefill), "--decoder-hosts", "127.0.0.1", "--decoder-ports", str(decode)]
        self.proxy = start(self.command, log, self.relay_cores)
        wait_for_port(self.proxy_port, self.proxy, log)
        time.sleep(0.5)  # its first probe

    def load(self, port: int, relay: subprocess.Popen, content: dict, connections: int, seconds: float, burst: bool = False) -> dict:
        command = [str(self.bench), "load", str(port), "/v1/completions", compact(content), str(connections), "0.4", str(seconds), str(relay.pid),
                   *(["burst"] if burst else [])]
        result = json.loads(output_of(command, self.load_cores))
        if result["failures"] > 0 or result["events" if content["stream"] else "requests"] == 0:
            fail(f"{result['failures']} of {result['requests']} requests failed: {shlex.join(command)}")
        return result

    def through_proxy(self, content: dict, connections: int = 32, seconds: float = 1.2) -> dict:
        return self.load(self.proxy_port, self.proxy, content, connections, seconds)

    def through_nginx(self, content: dict, connections: int = 32, seconds: float = 1.2) -> dict:
        return self.load(self.nginx_port, self.nginx, content, connections, seconds)

    def direct(self, content: dict, connections: int = 1, seconds: float = 0.6) -> dict:
        return self.load(self.engine_port, self.nginx, content, connections, seconds)

    def bursts(self, port: int, relay: subprocess.Popen, content: dict) -> float:
        """Milliseconds to the first event, median over bursts of 32 requests; to the whole answer if it is no stream."""
        found = self.load(port, relay, content, 32, 1.0, burst=True)
        return found["first_p50_us" if content["stream"] else "whole_p50_us"] / 1e3

    def stop(self) -> None:
        stop(self.proxy)
        stop(self.nginx)


def cpu_us(result: dict, what: str) -> float:
    return result["cpu_s"] * 1e6 / result[what]


def request_body(tokens: int, gap_us: int = 0, **more) -> dict:
    return {"model": "fake", "prompt": PROMPT, "max_tokens": tokens, "stream": True, "gap_us": gap_us, **more}


def plain_body(**more) -> dict:
    return {**request_body(1, kv_transfer_params=TO_PREFILL, **more), "stream": False}


def proxy_round(relays: Relays) -> dict[str, float]:
    """One round of every load, the relays in turn."""
    short, hop = request_body(1), request_body(1, kv_transfer_params=TO_DECODE)
    proxy, stream, plain = relays.through_proxy(short), relays.through_nginx(hop), relays.through_nginx(plain_body())
    found = {"proxy short": cpu_us(proxy, "requests"), "nginx stream": cpu_us(stream, "requests"), "nginx plain": cpu_us(plain, "requests")}
    big = {"prompt": PROMPT * 60}
    found["proxy big"] = cpu_us(relays.through_proxy(request_body(1, **big)), "requests")
    found["nginx big"] = cpu_us(relays.through_nginx(request_body(1, kv_transfer_params=TO_DECODE, **big)), "requests") + \
        cpu_us(relays.through_nginx(plain_body(**big)), "requests")
    for name, tokens, gap, seconds in [("paced", 128, 10_000, 2.0), ("back-to-back", 128, 0, 1.2)]:
        loads = {"proxy": relays.through_proxy(request_body(tokens, gap), seconds=seconds),
                 "nginx": relays.through_nginx(request_body(tokens, gap, kv_transfer_params=TO_DECODE), seconds=seconds)}
        for relay, load in loads.items():
            found[f"{relay} {name}"] = cpu_us(load, "events")
            found[f"{relay} {name} p99 ms"] = load["event_p99_us"] / 1e3
    direct = relays.bursts(relays.engine_port, relays.nginx, plain_body()) + relays.bursts(relays.engine_port, relays.nginx, hop)
    found["burst ms"] = relays.bursts(relays.proxy_port, relays.proxy, short) - direct
    found["nginx burst ms"] = relays.bursts(relays.nginx_port, relays.nginx, plain_body()) + relays.bursts(relays.nginx_port, relays.nginx, hop) - direct
    found["direct ms"] = (relays.direct(hop)["whole_p50_us"] + relays.direct(plain_body())["whole_p50_us"]) / 1e3
    found["nginx ms"] = (relays.through_nginx(hop, 1, 0.6)["whole_p50_us"] + relays.through_nginx(plain_body(), 1, 0.6)["whole_p50_us"]) / 1e3
    found["proxy ms"] = relays.through_proxy(short, 1, 0.6)["whole_p50_us"] / 1e3
    return found


def job_proxy(run: Run) -> list[Row]:
    if len(CORES) < 2:
        return [Row("proxy", "-", "-", None, note="needs two cores: the relay has one for itself")]
    relays = Relays(run)
    rounds = [proxy_round(relays) for _ in range(3)]
    command = shlex.join(relays.command)
    relays.stop()

    def of(name: str) -> float:
        return median(found[name] for found in rounds)

    def ratio(value) -> float:
        return median(value(found) for found in rounds)

    two_hops = "nginx plain + stream"
    rows = [Row("proxy, CPU per short request", f"{of('proxy short'):.0f} us", f"{two_hops} {of('nginx plain'):.0f} + {of('nginx stream'):.0f} us",
                ratio(lambda r: r["proxy short"] / (r["nginx plain"] + r["nginx stream"])), 1.3, at_most=True, command=command,
                note="32 connections, keep-alive, prompt of 512 bytes, one event; both legs; relay alone on a core"),
            Row("proxy, CPU per request of 30 kB", f"{of('proxy big'):.0f} us", f"{two_hops} {of('nginx big'):.0f} us",
                ratio(lambda r: r["proxy big"] / r["nginx big"]), 1.3, at_most=True, command=command, note="the same with a prompt of 30,720 bytes")]
    for name in ("paced", "back-to-back"):
        rows.append(Row(f"proxy, CPU per event, {name}", f"{of(f'proxy {name}'):.1f} us", f"nginx {of(f'nginx {name}'):.1f} us",
                        ratio(lambda r, n=name: r[f"proxy {n}"] / r[f"nginx {n}"]), 1.2, at_most=True, command=command,
                        note="32 streams of 128 events" + (", 10 ms apart" if name == "paced" else ", as fast as they go")))
    rows.append(Row("proxy, an event's way, p99", f"{of('proxy paced p99 ms'):.2f} ms", f"nginx {of('nginx paced p99 ms'):.2f} ms + 0.1 ms",
                    ratio(lambda r: r["proxy paced p99 ms"] / (r["nginx paced p99 ms"] + 0.1)), 1.0, at_most=True, command=command,
                    note="32 streams, all events of a step at once, 10 ms apart; from the engine's write to the client's read"))
    rows.append(Row("proxy, burst of 32, added to the first event", f"{of('burst ms'):.2f} ms", f"limit 1.5 ms ({two_hops} {of('nginx burst ms'):.2f} ms)",
                    ratio(lambda r: r["burst ms"] / 1.5), 1.0, at_most=True, command=command, note="median, beyond both legs asked directly in bursts"))
    rows.append(Row("proxy, added latency p50", f"{of('proxy ms') - of('direct ms'):.2f} ms", f"{two_hops} {of('nginx ms') - of('direct ms'):.2f} ms",
                    ratio(lambda r: (r["proxy ms"] - r["direct ms"]) / max(r["nginx ms"] - r["direct ms"], 1e-3)), command=command,
                    note="1 connection, beyond both legs asked directly"))
    return rows


def job_text(run: Run) -> list[Row]:
    program, pattern = "src/text/bench_text", "Encode(English|RandomWords|OneWordOf10kB)/0$"
    rates = {name.split("/")[0]: median(entry["bytes_per_second"] for entry in entries)
             for name, entries in run.google_benchmark(program, pattern, 3, "--benchmark_min_time=0.3").items()}
    english, words, word = (rates[f"Encode{name}"] / 1e6 for name in ("English", "RandomWords", "OneWordOf10kB"))
    command = f"bench_text --benchmark_filter='{pattern}'"
    return [Row("tokenizer of Qwen3, English", f"{english:.0f} MB/s", "10 MB/s", english / 10, 1.0, command=command, note="one core, a megabyte of prose"),
            Row("tokenizer of Qwen3, a word of 10 kB", f"{word:.1f} MB/s", f"words of 2 to 10 letters {words:.1f} MB/s", word / words, command=command,
                note="random letters, which no cache knows: time that is quadratic in a word's length would make this 0.001")]


JOBS = {"gemv": job_gemv, "gemm": job_gemm, "decode": job_decode, "prefill": job_prefill, "busy": job_busy, "start": job_start,
        "handover": job_handover, "layerwise": job_layerwise, "proxy": job_proxy, "text": job_text}
SERVED = ("decode", "prefill", "busy")  # share one instance


def measure(name: str, run: Run, begin: float, calm_wait_s: float) -> list[Row]:
    """The job's rows: of its second try if the first one was disturbed and the second less."""
    rows: list[Row] = []
    others = float("inf")
    for attempt in range(2):
        if name not in SERVED:
            run.end_serve()
        wait_for_calm(calm_wait_s)
        watch = Watch()
        tried = JOBS[name](run)
        seen = watch.others()
        if seen < others:
            rows, others = tried, seen
        if others <= DISTURBED_CORES or time.monotonic() - begin > RETRY_UNTIL_S:
            break
    for row in rows:
        row.others = others
    return rows


def commit() -> str:
    done = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def cpu_model() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of " + ", ".join(JOBS) + "; default: all")
    parser.add_argument("--build", default=str(ROOT / "build/release"), help="folder of a release build")
    parser.add_argument("--json", default=str(ROOT / "build/bench.json"), help="where the numbers go")
    parser.add_argument("--calm-wait", type=float, default=20, metavar="SECONDS", help="how long a job may wait for calm before it begins anyway (default 20)")
    args = parser.parse_args()
    for name in args.names:
        if name not in JOBS:
            fail(f"unknown name '{name}'; expected {', '.join(JOBS)}")
    run = Run(pathlib.Path(args.build).resolve())
    for program in (run.baton, run.kernels, *(run.build / f"src/{room}/bench_{room}" for room in ("transfer", "proxy", "text"))):
        if not os.access(program, os.X_OK):
            fail(f"{program} is not there; build it with ./dev build release")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.monotonic()
    rows: list[Row] = []
    interrupted = False
    try:
        for name in args.names or JOBS:
            print(f"bench: {name} …", file=sys.stderr, flush=True)
            rows += measure(name, run, begin, args.calm_wait)
    except KeyboardInterrupt:
        interrupted = True
        print("bench: interrupted; what was measured so far:", file=sys.stderr)
    finally:
        stop_all()
    print(f"\n{cpu_model()}, {len(CORES)} cores, {THREADS} threads; {commit()}; {time.monotonic() - begin:.0f} s\n")
    print_rows(rows)
    report = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "commit": commit(), "cpu": cpu_model(),
              "cores": len(CORES), "threads": THREADS, "rows": [{**dataclasses.asdict(row), "verdict": row.verdict} for row in rows]}
    pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(args.json).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(f"\ncommands and numbers: {args.json}")
    shutil.rmtree(run.folder)  # logs stay only when something failed
    if interrupted:
        sys.exit(130)


if __name__ == "__main__":
    main()
