"""A faulty proxy before moto's S3 server: status 503, silence, cut and flipped bodies, unknown keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import requests
from moto.server import ThreadedMotoServer

Fault = Literal["none", "busy", "silent", "cut", "flipped"]
SILENT_SECONDS = 5.0
DENIED = b'<?xml version="1.0"?><Error><Code>InvalidAccessKeyId</Code><Message>The key is not known.</Message></Error>'
BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'


class FaultyS3:
    """The proxy's behavior: `fault` for the next `times` requests of `method` (None: any) whose path contains `of`."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.address = ""
        self.seen: list[str] = []
        self._fault: Fault = "none"
        self._left = 0
        self._method: str | None = None
        self._of = ""
        self._lock = threading.Lock()

    def fail(self, fault: Fault, *, times: int = 1_000_000, method: str | None = None, of: str = "") -> None:
        """Fail from now on."""
        with self._lock:
            self._fault, self._left, self._method, self._of = fault, times, method, of

    def next_fault(self, method: str, path: str) -> Fault:
        """The fault of the next request."""
        with self._lock:
            self.seen.append(f"{method} {path}")
            if self._left <= 0 or (self._method not in {None, method}) or self._of not in path:
                return "none"
            self._left -= 1
            return self._fault


@contextmanager
def faulty_s3(key: str) -> Iterator[FaultyS3]:
    """A server with one access key, on a free local port."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    # moto's state belongs to the process, and another test may have left objects.
    requests.post("http://{}:{}/moto-api/reset".format(*moto.get_host_and_port()), timeout=30).raise_for_status()
    state = FaultyS3(key)
    proxy = type("Proxy", (_Proxy,), {"state": state, "upstream": moto.get_host_and_port()})
    try:
        with ThreadingHTTPServer(("127.0.0.1", 0), proxy) as server:
            server.daemon_threads = True
            state.address = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield state
            server.shutdown()
            thread.join()
    finally:
        moto.stop()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FaultyS3
    upstream: tuple[str, int]

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = self.state.next_fault(self.command, self.path)
        if f"Credential={self.state.key}/" not in self.headers.get("authorization", ""):
            self.reply(403, {}, DENIED)
        elif fault == "busy":
            self.reply(503, {}, BUSY)
        elif fault == "silent":
            time.sleep(SILENT_SECONDS)
            self.close_connection = True
        else:
            self.pass_on(body, fault)

    def pass_on(self, body: bytes, fault: Fault) -> None:
        upstream = HTTPConnection(*self.upstream, timeout=30)
        upstream.request(self.command, self.path, body, dict(self.headers.items()))
        answer = upstream.getresponse()
        content = answer.read()
        headers = dict(answer.getheaders())
        upstream.close()
        if fault == "flipped" and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.reply(answer.status, headers, content, cut=fault == "cut" and bool(content))

    def reply(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "date", "server", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
        self.send_header("content-length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

    def log_message(self, *_: object) -> None:
        pass
