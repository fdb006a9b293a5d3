"""A proxy in front of an S3 server that breaks what it is told to break."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["pass", "503", "drop", "truncate upload", "truncate answer", "hang"]
Plan = Callable[[str, str, int], Fault]
"""(method, key, how many requests came before) → what happens to the request."""


class FaultyS3:
    """Forwards requests to a server, except where `plan` says otherwise; notes what came."""

    def __init__(self, target: str) -> None:
        self.plan: Plan = lambda method, key, number: "pass"
        self.requests: list[tuple[str, str, Fault]] = []
        self._lock = threading.Lock()
        self._released = threading.Event()
        proxy = self

        class Handler(_Handler):
            faulty = proxy
            upstream = urlsplit(target).netloc

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def decide(self, method: str, path: str) -> Fault:
        key = path.partition("?")[0]
        with self._lock:
            fault = self.plan(method, key, len(self.requests))
            self.requests.append((method, key, fault))
        return fault

    def hang(self) -> None:
        self._released.wait(30)

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    faulty: FaultyS3
    upstream: str
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.faulty.decide(self.command, self.path)
        if fault == "hang":
            self.faulty.hang()
            self.close_connection = True
            return
        if fault == "503":
            self.answer(503, {}, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
            return
        if fault == "drop":  # as if it were stored
            self.answer(200, {"ETag": '"0"'}, b"")
            return
        if fault == "truncate upload":
            body = body[: len(body) // 2]
        status, headers, content = self.ask(body)
        self.answer(status, headers, content, cut=fault == "truncate answer")

    def ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in {"content-length", "content-md5", "host"}}
        headers["Host"] = self.upstream
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
        for name, value in headers.items():
            if name.lower() not in {"content-length", "connection", "transfer-encoding", "server", "date"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass
