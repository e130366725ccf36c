"""A real receiver of notices on the loopback, for apprise's json:// address."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """The received notices, and the status of the next replies."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status = 200
        self.tries = 0
        self.refusals = 0  # of the next tries
        self.address = ""

    @property
    def titles(self) -> list[str]:
        """The titles in the order of arrival."""
        return [str(entry["title"]) for entry in self.got]


@contextmanager
def receiving(prefix: str = "") -> Iterator[Receiver]:
    """A receiver whose address has the path `prefix`."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.tries += 1
            body = self.rfile.read(int(self.headers["content-length"]))
            refused = receiver.tries <= receiver.refusals
            if receiver.status == 200 and not refused:
                receiver.got.append(json.loads(body))
            self.send_response(503 if refused else receiver.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        receiver.address = f"json://127.0.0.1:{server.server_port}/{prefix}"
        yield receiver
        server.shutdown()
        thread.join()
