"""The command line: what is accepted, what is refused and with which words and status, and what the small commands write."""
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

from tests.system import cluster
from tests.system.cluster import TINY, Cluster, ask, free_ports

WAIT_SECONDS = 60  # for a process to end; a hang fails the test, slowness does not

# The tutorial's own lines, with what its launcher fills in for $1 to $7. Only the program's name is replaced.
TUTORIAL_VARIABLES = """
VLLM_VERSION=0.11.0 VLLM_RPC_TIMEOUT=3600000 VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS=30000 HCCL_EXEC_TIMEOUT=204 HCCL_CONNECT_TIMEOUT=120
HCCL_IF_IP=192.0.0.1 GLOO_SOCKET_IFNAME=eth0 TP_SOCKET_IFNAME=eth0 HCCL_SOCKET_IFNAME=eth0 OMP_PROC_BIND=false OMP_NUM_THREADS=10
PYTORCH_NPU_ALLOC_CONF=expandable_segments:True VLLM_ASCEND_ENABLE_MLAPO=1 HCCL_BUFFSIZE=256 TASK_QUEUE_ENABLE=1 HCCL_OP_EXPANSION_MODE=AIV
VLLM_TORCH_PROFILER_DIR=./vllm_profile VLLM_TORCH_PROFILER_WITH_STACK=1 VLLM_USE_V1=1 ASCEND_RT_VISIBLE_DEVICES=0 ASCEND_BUFFER_POOL=4:8
LD_LIBRARY_PATH=/usr/local/Ascend/ascend-toolkit/latest/python/site-packages/mooncake
"""
TUTORIAL_PREFILL = r"""
serve /path_to_weight/DeepSeek-V3.1_w8a8mix_mtp \
  --host 0.0.0.0 \
  --port $2 \
  --data-parallel-size $3 \
  --data-parallel-rank $4 \
  --data-parallel-address $5 \
  --data-parallel-rpc-port $6 \
  --tensor-parallel-size $7 \
  --enable-expert-parallel \
  --seed 1024 \
  --served-model-name ds_r1 \
  --max-model-len 40000 \
  --max-num-batched-tokens 16384 \
  --max-num-seqs 8 \
  --enforce-eager \
  --trust-remote-code \
  --gpu-memory-utilization 0.9  \
  --quantization ascend \
  --no-enable-prefix-caching \
  --speculative-config '{"num_speculative_tokens": 1, "method":"deepseek_mtp"}' \
  --additional-config '{"recompute_scheduler_enable":true,"enable_shared_expert_dp": true}' \
  --kv-transfer-config \
  '{"kv_connector": "MooncakeConnector",
  "kv_role": "kv_producer",
  "kv_port": "30000",
  "engine_id": "0",
  "kv_connector_module_path": "vllm_ascend.distributed.mooncake_connector",
  "kv_connector_extra_config": {
            "use_ascend_direct": true,
            "prefill": {
                    "dp_size": 2,
                    "tp_size": 8
             },
             "decode": {
                    "dp_size": 32,
                    "tp_size": 1
             }
      }
  }'
"""
TUTORIAL_DECODE = r"""
serve /path_to_weight/DeepSeek-V3.1_w8a8mix_mtp \
  --host 0.0.0.0 \
  --port $2 \
  --data-parallel-size $3 \
  --data-parallel-rank $4 \
  --data-parallel-address $5 \
  --data-parallel-rpc-port $6 \
  --tensor-parallel-size $7 \
  --enable-expert-parallel \
  --seed 1024 \
  --served-model-name ds_r1 \
  --max-model-len 40000 \
  --max-num-batched-tokens 256 \
  --max-num-seqs 40 \
  --trust-remote-code \
  --gpu-memory-utilization 0.94  \
  --quantization ascend \
  --no-enable-prefix-caching \
  --speculative-config '{"num_speculative_tokens": 1, "method":"deepseek_mtp"}' \
  --compilation-config '{"cudagraph_mode": "FULL_DECODE_ONLY"}' \
  --additional-config '{"recompute_scheduler_enable":true,"multistream_overlap_shared_expert": true,"lm_head_tensor_parallel_size":16}' \
  --kv-transfer-config \
  '{"kv_connector": "MooncakeConnector",
  "kv_role": "kv_consumer",
  "kv_port": "30200",
  "engine_id": "2",
  "kv_connector_module_path": "vllm_ascend.distributed.mooncake_connector",
  "kv_connector_extra_config": {
            "use_ascend_direct": true,
            "prefill": {
                    "dp_size": 2,
                    "tp_size": 8
             },
             "decode": {
                    "dp_size": 32,
                    "tp_size": 1
             }
      }
  }'
"""
TUTORIAL_PROXY = r"""
proxy \
  --port 1999 \
  --host 192.0.0.1 \
  --prefiller-hosts \
    192.0.0.1 \
    192.0.0.1 \
    192.0.0.2 \
    192.0.0.2 \
  --prefiller-ports  \
    7100 7101 7100 7101 \
  --decoder-hosts \
    """ + "".join("192.0.0.3  \\\n    " for _ in range(16)) + "".join("192.0.0.4  \\\n    " for _ in range(16)) + r"""--decoder-ports  \
    7100 7101 7102 7103 7104 7105 7106 7107 7108 7109 7110 7111 7112 7113 7114 7115\
    7100 7101 7102 7103 7104 7105 7106 7107 7108 7109 7110 7111 7112 7113 7114 7115\
"""


def run(*words: str, environment: dict[str, str] | None = None):
    """A command that ends by itself: its status, and what it said."""
    return subprocess.run([cluster.BATON, *words], capture_output=True, text=True, timeout=WAIT_SECONDS,
                          env={**os.environ, **(environment or {})}, check=False)


def run_line(line: str, *filled_in: str, environment: dict[str, str] | None = None):
    """A line as a shell reads it; `filled_in` are its $1, $2, ..."""
    script = f'exec "$BATON" {line.strip()}\n'
    return subprocess.run(["bash", "-c", script, "bash", *filled_in], capture_output=True, text=True, timeout=WAIT_SECONDS,
                          env={**os.environ, **(environment or {}), "BATON": cluster.BATON}, check=False)


class Folder(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="baton-cli-")))

    def copy_of_model(self, name: str, source: str = TINY) -> pathlib.Path:
        shutil.copytree(source, self.folder / name)
        return self.folder / name

    def refused(self, answer, status: int, words: list[str], lines: int = 1):
        """The status, and `words` in a complaint of `lines` lines beside the log."""
        said = [line for line in answer.stderr.splitlines() if line.startswith("baton")]
        self.assertEqual(answer.returncode, status, (answer.args, answer.stderr))
        self.assertEqual(len(said), lines, answer.stderr)
        for word in words:
            self.assertIn(word, said[0])


class CommandLines(Folder):
    def test_a_wrong_command_line_exits_with_2_and_names_thing_value_and_expectation(self):
        rows = [  # words, what the one line on stderr must hold
            (["serve", TINY, "--max-model-length", "5"], ["--max-model-length", "did you mean --max-model-len?"]),
            (["serve", TINY, "--prot", "1"], ["--prot", "did you mean --port?"]),
            (["serve", TINY, "--xyzzy"], ["unknown flag --xyzzy", "baton serve --help"]),
            (["serve", TINY, "--max-num"], ["--max-num", "--max-num-batched-tokens", "--max-num-seqs"]),
            (["serve", TINY, "--port", "65536"], ["--port: 65536", "0 to 65535"]),
            (["serve", TINY, "--port", "http"], ["--port: http", "integer"]),
            (["serve", TINY, "--port"], ["--port: no value"]),
            (["serve", TINY, "--api-key", ""], ["--api-key: empty", "at least one character"]),
            (["proxy", "--api-key", ""], ["--api-key: empty", "at least one character"]),
            (["serve", TINY, "--dtype", "int4"], ["--dtype: int4", "bfloat16"]),
            (["serve", TINY, "--block-size", "24"], ["--block-size: 24", "multiple of 16"]),
            (["serve", TINY, "--max-model-len", "1.5K"], ["--max-model-len", "1.5K"]),
            (["serve", TINY, "--warmup=maybe"], ["--warmup: maybe", "true or false"]),
            (["serve", TINY, "--kv-transfer-config"], ["--kv-transfer-config", "backslash"]),
            (["serve", TINY, "--kv-transfer-config", "{"], ["--kv-transfer-config", "JSON"]),
            (["serve", TINY, "--kv-transfer-config", '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'], ["NixlConnector", "MooncakeConnector"]),
            (["serve", TINY, "--kv-transfer-config", '{"kv_connector":"MooncakeConnector","kv_role":"decode"}'], ["kv_role", "decode", "kv_consumer"]),
            (["serve", TINY, "--kv-transfer-config.kv_prot", "1", "--kv-transfer-config.kv_connector", "MooncakeConnector"], ["kv_prot", "did you mean kv_port?"]),
            (["serve", TINY, "--strict-config", "--additional-config", '{"recompute_scheduler_enabled":true}'],
             ["recompute_scheduler_enabled", "did you mean recompute_scheduler_enable?"]),
            (["serve", TINY, "--tensor-parallel-size", "8"], ["not yet supported", "--tensor-parallel-size 8"]),
            (["serve", TINY, "--reasoning-parser", "deepseek_r1"], ["--reasoning-parser", "not yet supported"]),
            (["serve", TINY, "another"], ["MODEL: another", "one directory"]),
            (["serve"], ["MODEL: missing"]),
            (["serve", TINY, "--config", "/nowhere.yaml"], ["/nowhere.yaml"]),
            (["proxy", "--prefiler-hosts", "a"], ["--prefiler-hosts", "did you mean --prefiller-hosts?"]),
            (["proxy", "--prefiller-hosts", "a", "b", "--prefiller-ports", "1"], ["--prefiller-ports", "1", "2"]),
            (["proxy", "--decoder-hosts", "192.0.0.3192.0.0.3", "--decoder-ports", "1"], ["192.0.0.3192.0.0.3", "backslash"]),
            (["proxy", "--decoder-hosts", "a", "--decoder-ports", "70000"], ["70000", "65535"]),
            (["proxy", "--policy", "random"], ["--policy: random", "least-tokens"]),
            (["replay", "file"], ["--model: missing"]),
            (["replay", "file", "--modle", "x"], ["--modle", "did you mean --model?"]),
            (["random-checkpoint", "tiny"], ["DIRECTORY: missing"]),
            (["man", "server"], ["server", "did you mean serve?"]),
            (["completion", "tcsh"], ["tcsh", "bash"]),
            (["sevre", TINY], ["sevre", "did you mean serve?"]),
        ]
        for words, expected in rows:
            with self.subTest(words=words):
                self.refused(run(*words), 2, expected)

    def test_variables_are_checked_like_flags(self):
        rows = [({"OMP_NUM_THREADS": "many"}, ["OMP_NUM_THREADS: many"]), ({"VLLM_USE_V1": "0"}, ["VLLM_USE_V1: 0"]),
                ({"VLLM_CPU_KVCACHE_SPACE": "-1"}, ["VLLM_CPU_KVCACHE_SPACE: -1"])]
        for environment, expected in rows:
            with self.subTest(environment=environment):
                self.refused(run("serve", TINY, environment=environment), 2, expected)

    def test_help_and_version_go_to_stdout_and_exit_with_0(self):
        rows = [(["--help"], "random-checkpoint"), (["-h"], "proxy"), (["--version"], "baton "), (["serve", "--help"], "--kv-transfer-config"),
                (["serve", TINY, "-h"], "--warmup"), (["proxy", "--help"], "--prefiller-hosts-num"), (["replay", "--help"], "--model"),
                (["random-checkpoint", "--help"], "qwen3-0.6b"), (["man"], ".TH BATON"), (["man", "serve"], "EXIT STATUS"), (["completion", "bash"], "complete ")]
        for words, expected in rows:
            with self.subTest(words=words):
                answer = run(*words)
                self.assertEqual((answer.returncode, answer.stderr), (0, ""))
                self.assertIn(expected, answer.stdout)
        self.assertEqual(run().returncode, 2)

    def test_the_tutorials_serve_lines_are_read_and_only_what_is_missing_is_refused_by_name(self):
        variables = dict(pair.split("=", 1) for pair in TUTORIAL_VARIABLES.split())
        rows = [(TUTORIAL_PREFILL, ["0,1,2,3,4,5,6,7", "7100", "2", "1", "192.0.0.1", "12321", "8"],
                 ["--tensor-parallel-size 8", "--data-parallel-size 2", "--enable-expert-parallel", "--quantization ascend", "--speculative-config"]),
                (TUTORIAL_DECODE, ["0", "7100", "32", "31", "192.0.0.3", "12321", "1"],
                 ["--data-parallel-size 32", "--enable-expert-parallel", "--quantization ascend", "--speculative-config"])]
        for line, filled_in, missing in rows:
            answer = run_line(line, *filled_in, environment=variables)
            self.refused(answer, 2, [])
            self.assertEqual(answer.stderr.strip(), "baton serve: not yet supported: " + ", ".join(missing))

    def test_the_tutorials_serve_line_without_what_is_missing_serves_a_model(self):
        variables = dict(pair.split("=", 1) for pair in TUTORIAL_VARIABLES.split())
        variables |= {"HCCL_IF_IP": "127.0.0.1"}
        with Cluster() as instances:
            instances.environment.pop("VLLM_HOST_IP")
            instances.environment |= variables
            for name, role in (("P", "kv_producer"), ("D", "kv_consumer")):
                instances.serve(name, role, "--data-parallel-size", "1", "--data-parallel-rank", "0", "--data-parallel-address", "127.0.0.1",
                                "--data-parallel-rpc-port", "12321", "--tensor-parallel-size", "1", "--seed", "1024", "--max-model-len", "4k",
                                "--max-num-batched-tokens", "256", "--max-num-seqs", "40", "--enforce-eager", "--trust-remote-code",
                                "--gpu-memory-utilization", "0.94", "--no-enable-prefix-caching", "--compilation-config",
                                '{"cudagraph_mode": "FULL_DECODE_ONLY"}', "--additional-config", '{"recompute_scheduler_enable":true}', wait=False)
            for name in ("P", "D"):
                instances.wait_ready(name)
            notices = instances.processes["D"].log
            self.assertIn("recompute_scheduler_enable: a request that finds no KV block is given back to a proxy that says X-Baton-Resume, for others recomputed here", notices)
            folded = [line for line in notices.splitlines() if "accepted, no effect here" in line]
            self.assertEqual(len(folded), 1, notices)
            for word in ("--trust-remote-code", "--enforce-eager", "VLLM_VERSION", "ASCEND_BUFFER_POOL", "HCCL_BUFFSIZE"):
                self.assertIn(word, folded[0])
            self.assertIn("recompute_scheduler_enable", next(line for line in instances.processes["P"].log.splitlines() if "no effect" in line))
            proxy = instances.proxy("proxy", ["P"], ["D"])
            answer = ask(proxy, "POST", "/v1/completions", {"model": "test", "prompt": "What is a violin?", "max_tokens": 4})
            self.assertEqual(answer.status, 200, answer.body)
            self.assertEqual(ask(instances.ports["D"], "GET", "/v1/models").json()["data"][0]["max_model_len"], 4000)

    def serve_proxy(self, *words: str) -> dict:
        """/healthcheck of a proxy that was started with these words."""
        port = free_ports(1)[0]
        log = open(self.folder / "proxy.log", "wb")
        child = subprocess.Popen([cluster.BATON, "proxy", *words, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while True:
                try:
                    return ask(port, "GET", "/healthcheck").json()
                except OSError:
                    self.assertIsNone(child.poll(), (self.folder / "proxy.log").read_text())
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.02)
        finally:
            child.kill()
            child.wait()
            log.close()

    def test_the_tutorials_proxy_line_gives_four_prefill_and_thirty_two_decode_instances(self):
        words = subprocess.run(["bash", "-c", f"printf '%s\\n' {TUTORIAL_PROXY.strip()}\n"], capture_output=True, text=True, check=True).stdout.split()
        health = self.serve_proxy(*words[1:])
        self.assertEqual((health["prefill_instances"], health["decode_instances"]), (4, 32))
        self.assertEqual(health["instances"][3]["address"], "192.0.0.2:7101")

    def test_the_old_num_and_inc_spellings_expand_hosts_and_ports(self):
        health = self.serve_proxy("--prefiller-hosts", "127.0.0.1", "127.0.0.2", "--prefiller-hosts-num", "2", "1", "--prefiller-ports", "9000", "9100",
                                  "--prefiller_ports_inc", "2", "1", "--decoder-hosts", "127.0.0.3:9200")
        self.assertEqual([i["address"] for i in health["instances"]], ["127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.2:9100", "127.0.0.3:9200"])

    def test_spellings_of_one_meaning_are_one_command_line(self):
        """--config, `_` for `-`, `--x=y`, a unique beginning and dotted JSON; the command line wins over the file, the last word over the first."""
        config = self.folder / "serve.yaml"
        config.write_text("served-model-name: [from-file, second]\nmax_model_len: 1k\nenable-prefix-caching: false\nport: 1\n"
                          "kv-transfer-config:\n  kv_connector: MooncakeConnector\n  kv_role: kv_producer\n  kv_port: 1\n")
        kv_port = free_ports(1)[0]
        with Cluster(TINY) as instances:
            port = instances.serve("any", None, "--config", str(config), "--max_num_seqs=7", "--max-num-batched", "64", f"--kv_transfer_config.kv_port={kv_port}",
                                   "--kv-transfer-config.engine_id", "spelled", "--served_model_name", "first", "--served-model-name=last")
            cards = ask(port, "GET", "/v1/models").json()
            self.assertEqual([card["id"] for card in cards["data"]], ["last"])
            self.assertEqual(cards["data"][0]["max_model_len"], 1000)
            identity = json.dumps(cards)
            for expected in ("spelled", str(kv_port)):
                self.assertIn(expected, identity)
            self.assertIn("--served-model-name given twice, using the last", instances.processes["any"].log)
        config.write_text("max-model-length: 5\n")
        self.refused(run("serve", TINY, "--config", str(config)), 2, [str(config), "max-model-length", "did you mean --max-model-len?"])
        config.write_text("port: [1\n")
        self.refused(run("serve", TINY, f"--config={config}"), 2, [str(config)])

    def test_a_port_in_use_is_said_at_once_with_its_holder(self):
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
            for words in (["serve", TINY], ["proxy", "--prefiller-hosts", "127.0.0.1:1", "--decoder-hosts", "127.0.0.1:2"]):
                self.refused(run(*words, "--host", "127.0.0.1", "--port", str(port)), 1, [f"port {port} on 127.0.0.1", f"pid {os.getpid()}", "expected a free port"])

    def test_the_cluster_secret_is_the_flags_else_the_variables_else_the_one_below_etc(self):
        """Each is a file that others may read, so the refusal names the one that was taken. /etc is this test's own, in a mount namespace."""
        for name in ("flag", "variable", "etc/baton/cluster-secret"):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("0" * 32)
            path.chmod(0o644)
        (self.folder / "work").mkdir()
        script = f'mount -t overlay overlay -o lowerdir=/etc,upperdir={self.folder}/etc,workdir={self.folder}/work /etc && exec "$@"'
        inside = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else []), "sh", "-c", script, "sh"]
        if subprocess.run([*inside, "test", "-f", "/etc/baton/cluster-secret"], capture_output=True, check=False).returncode != 0:
            self.skipTest("this machine lets nobody mount an /etc of his own")
        line = [cluster.BATON, "serve", TINY, "--host", "127.0.0.1", "--port", "0", "--kv-transfer-config",
                '{"kv_connector":"MooncakeConnector","kv_role":"kv_consumer"}']
        flag, variable = ["--cluster-secret-file", str(self.folder / "flag")], {"BATON_CLUSTER_SECRET_FILE": str(self.folder / "variable")}
        clean = {name: value for name, value in os.environ.items() if name != "BATON_CLUSTER_SECRET_FILE"}
        for words, added, taken in ((flag, variable, "flag"), ([], variable, "variable"), ([], {}, "/etc/baton/cluster-secret")):
            answer = subprocess.run([*inside, *line, *words], capture_output=True, text=True, timeout=WAIT_SECONDS, env={**clean, **added}, check=False)
            self.refused(answer, 1, [f"cluster secret {self.folder / taken}: mode is 644", "chmod 600"])

    def test_without_a_cluster_secret_it_serves_and_names_the_addresses_that_are_exposed(self):
        if pathlib.Path("/etc/baton/cluster-secret").exists():
            self.skipTest("this machine has a cluster secret")
        with Cluster(TINY) as instances:
            instances.environment.pop("BATON_CLUSTER_SECRET_FILE")
            rows = [("P", "kv_producer", "127.0.0.1", "whoever reaches 127.0.0.1:{} can read and claim KV"),
                    ("wide", "kv_producer", "0.0.0.0", "127.0.0.1:{}"), ("D", "kv_consumer", "127.0.0.1", "need not prove who they are")]
            for name, role, host, words in rows:
                side = free_ports(1)[0]
                instances.serve(name, role, "--host", host, kv_port=side)
                warnings = [line for line in instances.processes[name].log.splitlines() if "no --cluster-secret-file" in line]
                self.assertEqual(len(warnings), 1, instances.processes[name].log)
                self.assertIn(words.format(side), warnings[0])

    def test_what_is_installed_is_what_the_binary_says(self):
        """`cmake --install` of the build that made the binary under test."""
        build = pathlib.Path(cluster.BATON).parent
        if not (build / "cmake_install.cmake").exists():
            self.skipTest("the binary lies in no build folder")
        prefix = self.folder / "prefix"
        subprocess.run(["cmake", "--install", str(build), "--prefix", str(prefix)], check=True, capture_output=True, timeout=WAIT_SECONDS)
        rows = [("share/man/man1/baton.1", ["man"]), ("share/man/man1/baton-serve.1", ["man", "serve"]), ("share/man/man1/baton-proxy.1", ["man", "proxy"]),
                ("share/man/man1/baton-top.1", ["man", "top"]), ("share/man/man1/baton-replay.1", ["man", "replay"]), ("share/man/man1/baton-random-checkpoint.1", ["man", "random-checkpoint"]),
                ("share/bash-completion/completions/baton", ["completion", "bash"]), ("share/zsh/site-functions/_baton", ["completion", "zsh"]),
                ("share/fish/vendor_completions.d/baton.fish", ["completion", "fish"])]
        for path, words in rows:
            self.assertEqual((prefix / path).read_text(), run(*words).stdout, path)
        self.assertTrue(os.access(prefix / "bin" / "baton", os.X_OK))

    def test_dev_install_puts_a_binary_that_runs_below_a_prefix(self):
        """Relative to where it is called from, not to the script."""
        dev = cluster.ROOT / "dev"
        answer = subprocess.run([dev, "install"], capture_output=True, text=True, cwd=self.folder, timeout=WAIT_SECONDS, check=False)
        self.assertEqual((answer.returncode, answer.stderr), (1, "dev: usage: ./dev install --prefix P\n"))
        if pathlib.Path(cluster.BATON) != cluster.ROOT / "build" / "release" / "baton":
            self.skipTest("./dev install installs the release build, and the binary under test is another")
        for words, prefix in ((["--prefix", "here"], self.folder / "here"), ([f"--prefix={self.folder}/there"], self.folder / "there")):
            subprocess.run([dev, "install", *words], check=True, capture_output=True, cwd=self.folder, timeout=WAIT_SECONDS)
            files = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if path.is_file()}
            manuals = {f"share/man/man1/baton{name}.1" for name in ("", "-serve", "-proxy", "-top", "-replay", "-random-checkpoint")}
            self.assertEqual(files, manuals | {"bin/baton", "share/bash-completion/completions/baton", "share/zsh/site-functions/_baton",
                                               "share/fish/vendor_completions.d/baton.fish"})
        installed = subprocess.run([self.folder / "here" / "bin" / "baton", "random-checkpoint", "tiny", "weights", "--tokenizer", TINY],
                                   capture_output=True, text=True, cwd=self.folder, timeout=WAIT_SECONDS, check=False)
        self.assertEqual((installed.returncode, (self.folder / "weights" / "model.safetensors").exists()), (0, True), installed.stderr)

    def test_zsh_completes_commands_flags_choices_and_directories(self):
        if shutil.which("zsh") is None:
            self.skipTest("zsh is not installed")
        (self.folder / "weights").mkdir()
        (self.folder / "_baton").write_text(run("completion", "zsh").stdout)
        rows = [("baton rep", "baton replay "), ("baton serve --kv-transfer-c", "baton serve --kv-transfer-config "), ("baton serve --dtype bf", "baton serve --dtype bfloat16 "),
                ("baton proxy --policy lea", "baton proxy --policy least-tokens "), ("baton replay --model weig", "baton replay --model weights/"),
                ("baton serve --no-warm", "baton serve --no-warmup "), ("baton man ser", "baton man ser")]
        script = f"""fpath=({self.folder} $fpath); autoload -Uz compinit; compinit -u -D; PROMPT=''; LISTMAX=0
            show() {{ print -r -- "<<$BUFFER>>"; BUFFER=''; zle reset-prompt }}; zle -N show; bindkey '^X' show; bindkey '^I' complete-word; echo ready\n"""
        (self.folder / ".zshrc").write_text(script)
        master, slave = pty.openpty()
        environment = {**os.environ, "ZDOTDIR": str(self.folder), "TERM": "dumb", "HOME": str(self.folder)}
        child = subprocess.Popen(["zsh", "-i"], stdin=slave, stdout=slave, stderr=slave, cwd=self.folder, env=environment, start_new_session=True)
        os.close(slave)
        said = b""
        def read_until(mark: bytes, times: int) -> None:
            nonlocal said
            deadline = time.monotonic() + WAIT_SECONDS
            while said.count(mark) < times and time.monotonic() < deadline and select.select([master], [], [], 5)[0]:
                said += os.read(master, 65536)
        try:
            read_until(b"ready", 1)
            for count, (typed, _) in enumerate(rows, 1):
                os.write(master, typed.encode() + b"\t\x18")
                read_until(b">>", count)
        finally:
            child.kill()
            child.wait()
            os.close(master)
        self.assertEqual(re.findall(r"<<(.*?)>>", said.decode(errors="replace")), [expected for _, expected in rows], said)

    def test_fish_completes_commands_flags_choices_and_directories(self):
        if shutil.which("fish") is None:
            self.skipTest("fish is not installed")
        (self.folder / "weights").mkdir()
        (self.folder / "baton.fish").write_text(run("completion", "fish").stdout)
        rows = [("baton rep", ["replay"]), ("baton serve --kv-tr", ["--kv-transfer-config", "--kv-transport"]), ("baton serve --dtype bf", ["bfloat16"]),
                ("baton proxy --policy lea", ["least-tokens"]), ("baton replay --model weig", ["weights/"]), ("baton serve --no-warm", ["--no-warmup"])]
        for typed, expected in rows:
            answer = subprocess.run(["fish", "--no-config", "-c", f"source baton.fish; complete -C '{typed}'"], capture_output=True, text=True, cwd=self.folder,
                                    timeout=WAIT_SECONDS, env={**os.environ, "HOME": str(self.folder)}, check=True)
            self.assertEqual(([line.split("\t")[0] for line in answer.stdout.splitlines()], answer.stderr), (expected, ""), typed)

    def test_bash_completes_commands_flags_choices_and_directories(self):
        (self.folder / "weights").mkdir()
        rows = [(["baton", "re"], "replay"), (["baton", "serve", "--kv-tr"], "--kv-transfer-config --kv-transport"), (["baton", "serve", "--dtype", "fl"], "float32 float float16"),
                (["baton", "proxy", "--pol"], "--policy"), (["baton", "proxy", "--policy", "least"], "least-tokens"), (["baton", "replay", "--model", "weig"], "weights"),
                (["baton", "serve", "--port", "1"], "")]
        for words, expected in rows:
            script = f'source <("$BATON" completion bash); COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _baton; echo "${{COMPREPLY[*]}}"'
            answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=self.folder, timeout=WAIT_SECONDS,
                                    env={**os.environ, "BATON": cluster.BATON}, check=True)
            self.assertEqual((answer.stdout.strip(), answer.stderr), (expected, ""), words)


class ModelFiles(Folder):
    def serve_refuses(self, model: pathlib.Path, words: list[str]):
        self.refused(run("serve", str(model), "--host", "127.0.0.1", "--port", "0", "--threads", "1"), 1, words)

    def test_a_missing_file_is_named(self):
        rows = [("config.json", ["config.json"]), ("model.safetensors", ["no weights", "model.safetensors"]), ("tokenizer.json", ["tokenizer.json"])]
        for file, words in rows:
            with self.subTest(file=file):
                model = self.copy_of_model(file.replace(".", "-"))
                (model / file).unlink()
                self.serve_refuses(model, [str(model), *words])
        self.serve_refuses(self.folder / "nowhere", ["nowhere", "no such directory"])

    def test_a_missing_shard_is_named(self):
        model = self.copy_of_model("sharded", TINY + "-sharded")
        shard = sorted(model.glob("*.safetensors"))[-1]
        shard.unlink()
        self.serve_refuses(model, [shard.name])

    def rewrite_header(self, model: pathlib.Path, change) -> None:
        path = model / "model.safetensors"
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + size])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])

    def test_a_header_that_lies_is_refused_with_file_tensor_and_expectation(self):
        norm, gate = "model.norm.weight", "model.layers.0.mlp.gate_proj.weight"
        def overlap(header):
            header[norm]["data_offsets"] = [n - 256 for n in header[norm]["data_offsets"]]
        file = "model.safetensors"
        rows = [  # what is done to the header, what must be said
            (lambda h: h[gate].update(shape=[512, 128]), [file, gate, "65536", "131072"]),
            (lambda h: h[gate].update(shape=[128, 256]), [file, gate, "[128, 256]", "[256, 128]"]),
            (lambda h: h[gate].update(dtype="BF17"), [file, gate, "BF17"]),
            (lambda h: h[norm].update(data_offsets=[0, 1 << 62]), [file, norm, str(1 << 62)]),
            (overlap, [file, norm]),
            (lambda h: h.pop(norm), [file]),
            (lambda h: h.update({"model.layers.9.mlp.up_proj.weight": h.pop(norm)}), [norm, "missing", "config.json"]),
        ]
        for i, (change, words) in enumerate(rows):
            with self.subTest(row=i):
                model = self.copy_of_model(f"lie{i}")
                self.rewrite_header(model, change)
                self.serve_refuses(model, words)

    def test_a_truncated_file_is_refused_with_the_tensor_that_is_cut(self):
        for size, words in ((-100, ["model.norm.weight", "truncated?"]), (4, ["8"]), (100, ["header"]), (0, [])):
            with self.subTest(size=size):
                model = self.copy_of_model(f"cut{size}")
                path = model / "model.safetensors"
                os.truncate(path, path.stat().st_size + size if size < 0 else size)
                self.serve_refuses(model, ["model.safetensors", *words])

    def test_a_config_that_disagrees_with_the_weights_is_refused(self):
        rows = [(dict(hidden_size=256), ["model.embed_tokens.weight", "[1024, 128]", "[1024, 256]", "config.json"]), (dict(num_attention_heads="8x"), ["config.json", "num_attention_heads", "8x"]),
                (dict(architectures=["GPT2LMHeadModel"]), ["config.json", "GPT2LMHeadModel", "Qwen3ForCausalLM"]), (dict(vocab_size=-1), ["config.json", "vocab_size", "-1"])]
        for i, (fields, words) in enumerate(rows):
            with self.subTest(fields=fields):
                model = self.copy_of_model(f"config{i}")
                config = json.loads((model / "config.json").read_text())
                (model / "config.json").write_text(json.dumps({**config, **fields}))
                self.serve_refuses(model, words)

    def test_a_file_truncated_while_mapped_ends_the_process_with_74_and_names_the_tensor(self):
        model = self.copy_of_model("mapped")
        with Cluster(str(model)) as instances:
            port = instances.serve("cut")
            os.truncate(model / "model.safetensors", 8192)
            try:
                answer = ask(port, "POST", "/v1/completions", {"model": "test", "prompt": [1, 2, 3], "max_tokens": 4})
                self.fail(f"{answer.status} {answer.body}")
            except (OSError, cluster.http.client.HTTPException):
                pass
            self.assertEqual(instances.processes["cut"].child.wait(WAIT_SECONDS), 74)
            log = instances.processes["cut"].log
            for word in ("model.safetensors: truncated while mapped", "of tensor model.", "expected a file of"):
                self.assertIn(word, log)


class Commands(Folder):
    def test_a_random_checkpoint_is_served_and_the_same_seed_writes_the_same_bytes(self):
        for name in ("one", "two"):
            answer = run("random-checkpoint", "tiny", str(self.folder / name), "--tokenizer", TINY)
            self.assertEqual(answer.returncode, 0, answer.stderr)
        weights = [(self.folder / name / "model.safetensors").read_bytes() for name in ("one", "two")]
        self.assertTrue(weights[0] == weights[1])
        answer = run("random-checkpoint", "tiny", str(self.folder / "three"), f"--tokenizer={TINY}", "--seed", "1")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertFalse(weights[0] == (self.folder / "three" / "model.safetensors").read_bytes())
        with Cluster(str(self.folder / "one")) as instances:
            port = instances.serve("random")
            answer = ask(port, "POST", "/v1/completions", {"model": "test", "prompt": [1, 2, 3], "max_tokens": 3, "ignore_eos": True, "return_token_ids": True})
            self.assertEqual(answer.status, 200, answer.body)
            self.assertEqual(len(answer.json()["choices"][0]["token_ids"]), 3)
        self.refused(run("random-checkpoint", "gpt", str(self.folder / "x"), "--tokenizer", TINY), 1, ["gpt", "qwen3-0.6b"])
        self.refused(run("random-checkpoint", "tiny", str(self.folder / "x"), "--tokenizer", "/nowhere"), 1, ["/nowhere"])

    def test_a_flight_record_replays_to_the_bit_and_a_changed_one_does_not(self):
        with Cluster(TINY) as instances:
            instances.environment["TMPDIR"] = str(self.folder)
            port = instances.serve("recorded")
            for seed in range(3):
                self.assertEqual(ask(port, "POST", "/v1/completions", {"model": "test", "prompt": [5, 6, 7 + seed], "max_tokens": 6, "temperature": 1, "seed": seed, "n": 2}).status, 200)
            record = ask(port, "POST", "/debug/record").json()["file"]
        answer = run("replay", record, "--model", TINY)
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        self.assertRegex(answer.stdout, r"^[1-9]\d* steps, [1-9]\d* tokens: equal to the bit$")
        other = self.folder / "other"
        run("random-checkpoint", "tiny", str(other), "--tokenizer", TINY)
        self.refused(run("replay", record, "--model", str(other)), 1, [])
        os.truncate(record, 20)
        self.refused(run("replay", record, "--model", TINY), 1, [])
        self.refused(run("replay", str(self.folder / "nowhere.record"), "--model", TINY), 1, ["nowhere.record"])

    def resident(self, pid: int, part: str) -> tuple[int, int]:
        """Size and resident bytes of the mappings whose name holds `part` (proc(5), smaps)."""
        size = resident = 0
        matches = False
        for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
            first = line.split()[0]
            if "-" in first and not first.endswith(":"):
                matches = part in line
            elif matches and first in ("Size:", "Rss:"):
                size += int(line.split()[1]) if first == "Size:" else 0
                resident += int(line.split()[1]) if first == "Rss:" else 0
        return size, resident

    def test_warmup_faults_in_weights_and_kv_and_answers_the_same(self):
        body = {"model": "test", "prompt": "What is a violin?", "max_tokens": 6, "temperature": 0, "logprobs": 3}
        answers = []
        with Cluster() as instances:
            for name, extra in (("cold", []), ("warm", ["--warmup"])):
                port = instances.serve(name, None, "--kv-cache-memory-bytes", "16M", *extra)
                pid = instances.processes[name].child.pid
                kv, kv_resident = self.resident(pid, "memfd:")
                if extra:
                    weights, weights_resident = self.resident(pid, "model.safetensors")
                    self.assertEqual((weights_resident, kv_resident), (weights, kv))
                    self.assertIn("warmed up", instances.processes[name].log)
                else:
                    self.assertLess(kv_resident, kv)
                answers.append(ask(port, "POST", "/v1/completions", body).json()["choices"])
        self.assertEqual(answers[0], answers[1])

    def test_requests_without_a_seed_draw_theirs_from_the_servers(self):
        body = {"model": "test", "prompt": [5, 6, 7], "max_tokens": 12, "temperature": 2, "ignore_eos": True, "return_token_ids": True}
        with Cluster(TINY) as instances:
            ports = [instances.serve(name, None, "--seed", seed, "--generation-config", "vllm") for name, seed in (("one", "7"), ("same", "7"), ("other", "8"))]
            answers = [[ask(port, "POST", "/v1/completions", body).json()["choices"][0]["token_ids"] for _ in range(2)] for port in ports]
        self.assertEqual(answers[0], answers[1])
        self.assertNotEqual(answers[0][0], answers[0][1])
        self.assertNotEqual(answers[0], answers[2])

    def test_generation_config_names_whose_defaults_count(self):
        """Of a file that asks for greedy answers of at most three tokens."""
        (self.folder / "generation_config.json").write_text('{"temperature": 0.0, "max_new_tokens": 3}')
        body = {"model": "test", "prompt": [5, 6, 7], "max_tokens": 8, "ignore_eos": True, "return_token_ids": True}
        with Cluster(TINY) as instances:
            port = instances.serve("theirs", None, "--generation-config", str(self.folder))
            answers = [ask(port, "POST", "/v1/completions", body).json()["choices"][0] for _ in range(2)]
            greedy = ask(instances.serve("neutral", None, "--generation-config", "vllm"), "POST", "/v1/completions", {**body, "temperature": 0}).json()["choices"][0]
        self.assertEqual(answers[0]["token_ids"], answers[1]["token_ids"])
        self.assertEqual((answers[0]["token_ids"], answers[0]["finish_reason"]), (greedy["token_ids"][:3], "length"))
        self.assertEqual(len(greedy["token_ids"]), 8)
        self.refused(run("serve", TINY, "--host", "127.0.0.1", "--port", "0", "--generation-config", "/nowhere"), 1, ["--generation-config: /nowhere", "generation_config.json"])

    def test_any_model_name_is_served_only_when_asked_for(self):
        body = {"model": "whatever", "prompt": [1, 2], "max_tokens": 1}
        with Cluster(TINY) as instances:
            strict, lax = instances.serve("strict"), instances.serve("lax", None, "--accept-any-model")
            refused = ask(strict, "POST", "/v1/completions", body)
            self.assertEqual(refused.status, 404)
            for word in ("whatever", "test"):
                self.assertIn(word, refused.json()["error"]["message"])
            answer = ask(lax, "POST", "/v1/completions", body)
            self.assertEqual((answer.status, answer.json()["model"]), (200, "whatever"))

    def test_sigint_ends_like_sigterm_with_0(self):
        with Cluster(TINY) as instances:
            instances.serve("one")
            instances.processes["one"].child.send_signal(signal.SIGINT)
            self.assertEqual(instances.processes["one"].child.wait(WAIT_SECONDS), 0)


if __name__ == "__main__":
    unittest.main()
