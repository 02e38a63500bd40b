"""A proxy before a server that fails on purpose: real sockets, real bytes, wrong answers."""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

FAULTS = ("503", "reset", "short", "hang", "flip")
HOP_BY_HOP = ("transfer-encoding", "connection", "content-length")


@dataclass
class Line:
    """What goes wrong on a line, and what went over it.

    Args:
        upstream: `http://HOST:PORT` of the server.
        fault: `503` and `reset` are answered in its stead; of its answer `short` gives the half, `flip` one wrong bit;
            `hang` gives nothing for `hang_seconds`; `lost` passes the request on and no answer back.
        spoilt: how many of the first requests for each path fail.
        only: part that a path must have to fail.
        methods: that fail.
    """

    upstream: str
    fault: str
    spoilt: int
    only: str = ".jpg"
    methods: tuple[str, ...] = ("GET",)
    hang_seconds: float = 3.0
    url: str = ""
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fails(self, method: str, path: str) -> bool:
        """Counts a request, and says whether it is one to spoil."""
        with self._lock:
            self.seen[method, path] += 1
            return method in self.methods and self.only in unquote(path) and self.seen[method, path] <= self.spoilt

    @property
    def requests(self) -> int:
        """How many came."""
        return self.seen.total()


@contextmanager
def failing_line(line: Line) -> Iterator[Line]:
    """Runs the proxy for the length of the block; `line.url` is where it is."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"line": line}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a connection that was cut on purpose
    line.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield line
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    line: Line

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = self.line
        bad = line.fails(self.command, self.path)
        if bad and line.fault == "503":
            self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        if bad and line.fault in ("reset", "hang"):
            time.sleep(line.hang_seconds if line.fault == "hang" else 0)
            self._cut()
            return
        connection = http.client.HTTPConnection(line.upstream.removeprefix("http://"))
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data, headers = answer.read(), answer.getheaders()
        connection.close()
        if bad and line.fault == "lost":
            self._cut()
        elif bad and line.fault == "flip" and data:
            self._answer(answer.status, headers, data[:-1] + bytes([data[-1] ^ 1]))
        else:
            self._answer(answer.status, headers, data, half=bad and line.fault == "short")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, half: bool = False) -> None:
        self.send_response(status)
        length = {name.lower(): value for name, value in headers}.get("content-length", str(len(body)))
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if half else body)
        if half:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)

    def log_message(self, *_: object) -> None:
        """Nothing is said."""
