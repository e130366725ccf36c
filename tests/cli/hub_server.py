"""A model hub on a port of this machine, with the replies that a fetch needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "1" * 40


class Hub(ThreadingHTTPServer):
    """Serves folders as models, and records its requests (method, path, range).

    It changes the last byte of the file `corrupt`.
    """

    def __init__(self, models: dict[str, Path], corrupt: str | None) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.models, self.corrupt = models, corrupt
        self.requests: list[str] = []


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        """Send the headers of a reply."""
        self._answer()

    def do_GET(self) -> None:
        """Send a reply."""
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def _answer(self) -> None:
        path, byte_range = self.path.partition("?")[0], self.headers.get("Range", "")
        self.server.requests.append(f"{self.command} {path} {byte_range}".strip())
        for name, folder in self.server.models.items():
            if path.startswith(f"/api/models/{name}"):
                self._send(200, json.dumps(_info(name, folder)).encode(), {})
                return
            if path.startswith(f"/{name}/resolve/"):
                self._file(folder / path.rsplit("/", 1)[-1], byte_range)
                return
        self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

    def _file(self, path: Path, byte_range: str) -> None:
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if path.name == self.server.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if byte_range:
            start = int(byte_range.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content = content[start:]
        self._send(206 if byte_range else 200, content, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def serve(models: dict[str, Path], *, corrupt: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve folders as models; yields the address and the requests so far."""
    server = Hub(models, corrupt)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _info(name: str, folder: Path) -> dict[str, Any]:
    siblings = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        entry: dict[str, Any] = {"rfilename": path.name, "size": len(content)}
        if path.suffix in {".safetensors", ".bin"}:
            entry |= {"blobId": "0" * 40, "lfs": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 130}}
        else:
            entry["blobId"] = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
        siblings.append(entry)
    return {"_id": "0", "id": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False, "downloads": 0, "likes": 0}
