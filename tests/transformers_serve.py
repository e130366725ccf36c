"""A real `transformers serve`, and the bundled held-out queries that it is asked about."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

from components.files import digest_bytes
from components.preferences.record import Query
from components.preferences.release import query_from_row
from tests.tiny import remade


class Serve:
    """A `transformers serve` of one folder on one port, which can be killed and started once more."""

    def __init__(self, folder: Path, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder, self.log = folder, log
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.start()

    def start(self) -> None:
        command = [str(Path(sys.executable).parent / "transformers"), "serve", str(self.folder), "--device", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)], env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        until = time.monotonic() + 600
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/health", timeout=30).ok
        except requests.ConnectionError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def heldout(data: Path, count: int) -> list[Query]:
    """The first bundled held-out queries about pictures, of every category in turn."""
    lines = (data / "preferences/heldout.jsonl").read_text().splitlines()
    queries = [query_from_row(json.loads(line), "heldout") for line in lines]
    by_category: dict[str, list[Query]] = {}
    for query in queries:
        if query.kinds == ("image",):
            by_category.setdefault(query.category, []).append(query)
    chosen = [query for group in zip(*by_category.values(), strict=False) for query in group][:count]
    digests = {query.id: digest_bytes((data / "preferences" / query.media[0].path).read_bytes()) for query in chosen}
    return [remade(query, digest=digests[query.id]) for query in chosen]
