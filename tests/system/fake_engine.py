"""A scripted instance that is no Baton: answers GET /v1/models as vLLM does, and each POST with the next answer of its script."""
import dataclasses
import http.server
import queue
import socket
import threading
import time


@dataclasses.dataclass
class Heard:
    """One request as it arrived."""
    path: str
    headers: dict[str, str]
    body: bytes
    closed: threading.Event  # the other side hung up before it was answered


@dataclasses.dataclass
class Whole:
    """Status, body, then the end."""
    status: int
    body: bytes
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Events:
    """A stream of SSE bytes; a cut one has no end."""
    pieces: list[bytes]
    cut: bool = False


class Silence:
    """No answer: until the other side hangs up."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FakeEngine"

    def do_GET(self):
        if self.path == "/query" and self.server.bootstrap is not None:
            self.whole(self.server.bootstrap)
        else:
            self.whole(Whole(200, b'{"object":"list","data":[{"id":"m","object":"model"}]}'))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        heard = Heard(self.path, {name.lower(): value for name, value in self.headers.items()}, body, threading.Event())
        self.server.heard.append(heard)
        try:
            answer = self.server.script.get_nowait()
        except queue.Empty:
            answer = Whole(500, b'{"error":{"message":"nothing is left in the script"}}')
        if callable(answer):  # says after the request what it answers
            answer = answer(heard)
        if isinstance(answer, Whole):
            self.whole(answer)
        elif isinstance(answer, Events):
            self.events(answer)
        else:
            self.await_hang_up(heard)

    def whole(self, answer: Whole):
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def events(self, answer: Events):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in answer.pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        if answer.cut:
            self.cut()
        else:
            self.wfile.write(b"0\r\n\r\n")

    def await_hang_up(self, heard: Heard):
        self.close_connection = True
        try:
            self.connection.settimeout(60)
            if self.connection.recv(1) == b"":
                heard.closed.set()
        except OSError:
            pass

    def cut(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass


class FakeEngine(http.server.ThreadingHTTPServer):
    """`script` is a queue of answers; `heard` what was asked, in order."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = self.server_address[1]
        self.heard: list[Heard] = []
        self.script: queue.Queue = queue.Queue()
        self.bootstrap: Whole | None = None  # it is a bootstrap server too, with this answer to GET /query
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def answers(self, *script):
        """Begins anew with this script."""
        self.heard.clear()
        self.script = queue.Queue()
        for answer in script:
            self.script.put(answer)

    def wait_heard(self, count: int, seconds: float = 30) -> list[Heard]:
        deadline = time.monotonic() + seconds
        while len(self.heard) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(self.heard)} requests after {seconds} s, expected {count}")
            time.sleep(0.01)
        return self.heard

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
