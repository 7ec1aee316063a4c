"""The two scripts of the house as somebody meets them who has just cloned it: ./dev on a machine that lacks something, and the
demonstration, whole and in the way of others."""
import json
import pathlib
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

from tests.system import cluster

WAIT_SECONDS = 120  # for something that must end; slowness does not fail a test
DEV = cluster.ROOT / "dev"
DEMO = cluster.ROOT / "tools" / "demo.py"
DEMO_PORTS = (0, 1, 2, 11, 12, 21, 22, 31)  # behind --port-base: proxy, P, D, hand-over of P, the single instance


class Machine(unittest.TestCase):
    """./dev with a PATH on which only what a test puts there is found."""

    def setUp(self):
        self.bin = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="baton-path-")))
        for name in ("bash", "env", "dirname", "sed", "grep", "date", "mkdir", "cat", "rm"):
            self.bin.joinpath(name).symlink_to(shutil.which(name))
        self.program("dpkg-query", "echo 'install ok installed'")
        self.program("id", "echo 0")
        self.called = self.bin / "called"

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)

    def dev(self, *words: str):
        return subprocess.run([DEV, *words], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False,
                              env={"PATH": str(self.bin), "HOME": str(self.bin)})

    def test_nothing_is_said_or_installed_where_nothing_is_missing(self):
        self.program("apt-get", f"echo \"$@\" >> {self.called}")
        answer = self.dev("setup")
        self.assertEqual((answer.returncode, answer.stdout, answer.stderr, self.called.exists()), (0, "", "", False))

    def test_what_is_missing_is_named_and_installed(self):
        self.program("dpkg-query", "case \"$*\" in *ninja-build*|*ccache*) exit 1 ;; *) echo 'install ok installed' ;; esac")
        self.program("apt-get", f"echo \"$@\" >> {self.called}")
        answer = self.dev("setup")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertIn("installing 2 missing packages: ninja-build ccache", answer.stdout)
        self.assertEqual(self.called.read_text().splitlines(), ["update -qq", "install -y -qq --no-install-recommends ninja-build ccache"])

    def test_a_machine_without_network_is_told_what_it_needs(self):
        self.program("dpkg-query", "case \"$*\" in *ninja-build*) exit 1 ;; *) echo 'install ok installed' ;; esac")
        self.program("apt-get", "exit 100")
        answer = self.dev("demo")
        self.assertEqual((answer.returncode, answer.stderr), (1, "dev: apt-get update failed; is this machine online? Needed: ninja-build\n"))

    def test_who_is_not_root_and_has_no_sudo_is_given_the_line_for_root(self):
        self.program("dpkg-query", "case \"$*\" in *ninja-build*) exit 1 ;; *) echo 'install ok installed' ;; esac")
        self.program("id", "echo 1000")
        answer = self.dev("setup")
        self.assertEqual((answer.returncode, answer.stderr), (1, "dev: not root and no sudo; run as root: apt-get install ninja-build\n"))

    def test_a_missing_compiler_is_named(self):
        answer = self.dev("demo")
        self.assertEqual(answer.returncode, 1)
        self.assertEqual(answer.stderr, "dev: clang++-19 is missing although the package is installed; is /usr/bin in PATH?\n")

    def test_words_that_are_no_command_have_the_usage_or_the_choices(self):
        for words in ([], ["demoo"]):
            answer = self.dev(*words)
            self.assertEqual((answer.returncode, answer.stderr.splitlines()[0]), (2, "usage: ./dev COMMAND"))
        help_text = self.dev("--help")
        self.assertEqual((help_text.returncode, help_text.stderr), (0, ""))
        for command in ("setup", "build", "demo", "test", "lint", "bench", "fuzz", "soak", "install"):
            self.assertRegex(help_text.stdout, rf"(?m)^  {command}\b")


class Demonstration(unittest.TestCase):
    def free_base(self) -> int:
        while True:
            base = 20000 + secrets.randbelow(11000)
            try:
                for offset in DEMO_PORTS:
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", base + offset))
                return base
            except OSError:
                continue

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-u", str(DEMO), "--baton", cluster.BATON, *words]

    def test_each_question_is_answered_by_two_processes_and_the_proof_holds(self):
        for more in ([], ["--model", "deepseek", "--chaos"]):
            with self.subTest(more=more):
                self.run_whole(more)

    def run_whole(self, more: list[str]):
        words = self.words("--port-base", str(self.free_base()), *more)
        answer = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
        self.assertEqual((answer.returncode, answer.stderr), (0, ""), answer.stdout)
        rows = re.findall(r"(?m)^  (\S.*?) {2,}(P[12]) +(D[12])((?: +[\d.]+){6})  (\d+) \+ (\d+)$", answer.stdout)
        self.assertEqual(len(rows), 6, answer.stdout)
        self.assertEqual({row[1] for row in rows} | {row[2] for row in rows}, {"P1", "P2", "D1", "D2"})
        self.assertIn("A violin is a bowed stringed instrument", answer.stdout)
        self.assertRegex(answer.stdout, r"to one instance alone: [1-9]\d+ tokens and their log-probabilities are equal to the bit")
        if "--chaos" in more:
            self.assertRegex(answer.stdout, r"D[12] began the answer, D[12] ended it: [1-9]\d* tokens")

    def test_a_port_in_use_is_named_with_what_to_do(self):
        base = self.free_base()
        for offset, purpose in ((0, "proxy"), (12, "D2"), (21, "hand-over of P1"), (31, "single instance")):
            with socket.create_server(("127.0.0.1", base + offset)):
                answer = subprocess.run(self.words("--port-base", str(base)), capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
            self.assertEqual((answer.returncode, answer.stdout), (1, ""))
            for word in (f"demo: port {base + offset} ({purpose}) is in use", "--port-base"):
                self.assertIn(word, answer.stderr)

    def test_what_cannot_be_run_is_said_in_a_sentence(self):
        rows = [(["--port-base", "65500"], "--port-base: 65500, expected 1 to 65493"), (["--port-base", "0"], "--port-base: 0, expected"),
                (["--baton", "/nowhere/baton"], "/nowhere/baton is not there; build it with ./dev build")]
        for words, sentence in rows:
            answer = subprocess.run(self.words(*words), capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
            self.assertEqual((answer.returncode, answer.stdout), (1, ""))
            self.assertIn(sentence, answer.stderr)
            self.assertEqual(len(answer.stderr.splitlines()), 1, answer.stderr)

    def test_kept_running_it_prints_a_curl_that_works_and_ends_with_ctrl_c(self):
        child = subprocess.Popen(self.words("--port-base", str(self.free_base()), "--keep"), stdout=subprocess.PIPE, text=True)
        try:
            said = ""
            for line in child.stdout:
                said += line
                if "Ctrl-C" in line:
                    break
            command = said[said.index("curl "):said.index("Ctrl-C")]
            self.assertEqual(shlex.split(command)[0], "curl")
            stream = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=WAIT_SECONDS, check=True).stdout
            events = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
            self.assertEqual(events[-1], "[DONE]")
            self.assertIn("instrument", "".join(c["delta"].get("content") or "" for e in events[:-1] for c in json.loads(e)["choices"]))
            child.send_signal(signal.SIGINT)
            self.assertEqual(child.wait(WAIT_SECONDS), 0)
        finally:
            child.kill()
            child.stdout.close()
            child.wait()


if __name__ == "__main__":
    unittest.main()
