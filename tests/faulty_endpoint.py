"""An OpenAI-compatible server with faults: 429, 5xx, silence, cut connections, pages that are no completion, refusals, death.

It answers a text by a rule that a test can compute itself, and notes every request.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal["crowded", "failed", "silent", "cut", "page", "refused", "unknown", "none"]
STATUS = {"crowded": 429, "failed": 503, "refused": 400, "unknown": 404, "denied": 401}
SILENT_SECONDS = 3.0
MODEL = "writer"
KEY = "sk-secret-of-the-tests"


def text_for(prompt: str) -> str:
    """The server's answer to a prompt."""
    return f"On {hashlib.sha256(prompt.encode()).hexdigest()[:8]}: right."


class Endpoint:
    """The server's behavior and what it has seen. `faults` are spent one a request; `fault_of` decides for a prompt, before them."""

    def __init__(self, faults: Sequence[str] = (), *, fault_of: Callable[[str], str] | None = None, seconds: float = 0.0) -> None:
        self.faults, self.fault_of, self.seconds = list(faults), fault_of, seconds
        self.message = ""  # of refused requests, in place of the fault's name
        self.silent_seconds = SILENT_SECONDS
        self.headers: dict[str, str] = {}  # of refused requests
        self.answer = text_for
        self.forward: Callable[[dict[str, Any]], tuple[int, str]] | None = None  # to a real server
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.authorizations: list[str] = []
        self.times: list[float] = []
        self.answered: list[str] = []
        self.most_at_once = 0
        self.dead = False
        self._at_once = 0
        self._lock = threading.Lock()

    @property
    def requests(self) -> int:
        return len(self.bodies)

    def enter(self, body: dict[str, Any], authorization: str) -> str:
        """Note a request; its fault."""
        with self._lock:
            self.bodies.append(body)
            self.authorizations.append(authorization)
            self.times.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault = self.fault_of(prompt_of(body)) if self.fault_of is not None else "none"
            return fault if fault != "none" or not self.faults else self.faults.pop(0)

    def leave(self, prompt: str | None) -> None:
        with self._lock:
            self._at_once -= 1
            if prompt is not None:
                self.answered.append(prompt)


def prompt_of(body: dict[str, Any]) -> str:
    """The text of a request's last message."""
    return str(body["messages"][-1]["content"][-1]["text"])


@contextmanager
def serving(endpoint: Endpoint, port: int = 0) -> Iterator[Endpoint]:
    """The server on a local port, a free one unless `port` is named."""
    handler = type("Handler", (_Handler,), {"endpoint": endpoint})
    with _Server(("127.0.0.1", port), handler) as server:
        endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield endpoint
        finally:
            endpoint.dead = True
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint

    def do_GET(self) -> None:
        """The list of models, or below another path than /v1 what some servers have in its place."""
        models = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        pages = {"v1": (200, models), "refusing": (401, "{}"), "broken": (200, "<html>a proxy</html>"), "plain": (200, '["a list"]')}
        self._send(*pages.get(self.path.split("/")[1], (404, "{}")), {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.endpoint.enter(body, self.headers.get("Authorization", ""))
        prompt, answered = prompt_of(body), None
        try:
            time.sleep(self.endpoint.silent_seconds if fault == "silent" else self.endpoint.seconds)
            if fault in STATUS:
                self._send(
                    STATUS[fault], json.dumps({"error": {"message": self.endpoint.message or f"{fault} ({KEY})"}}), self.endpoint.headers
                )
            elif fault == "page":
                self._send(200, "<html>a proxy</html>", {"Content-Type": "text/html"})
            elif fault != "silent" and not self.endpoint.dead:
                came = self._complete(prompt, body, cut=fault == "cut")
                answered = prompt if came and fault == "none" else None
        except OSError:
            pass  # the client has left
        finally:
            self.endpoint.leave(answered)

    def _complete(self, prompt: str, body: dict[str, Any], *, cut: bool) -> bool:
        """Answer; whether the client got an answer."""
        if self.endpoint.forward is not None:
            status, text = self.endpoint.forward(body)
            self._send(status, text, {}, cut=cut)
            return status == 200
        usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
        message = {"role": "assistant", "content": self.endpoint.answer(prompt)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        completion = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice], "usage": usage}
        self._send(200, json.dumps(completion), {}, cut=cut)
        return True

    def _send(self, status: int, text: str, headers: dict[str, str], *, cut: bool = False) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()

    def log_message(self, *_: object) -> None:
        """Write nothing."""
