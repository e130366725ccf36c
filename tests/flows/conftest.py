"""A checkout a test, and one server of a run for all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkout import checkout, checkout_template

__all__ = ["RunServer", "checkout", "checkout_template", "run_server"]


@dataclass(frozen=True)
class RunServer:
    """A server as a run starts it: its password as user:password, its log, its folder."""

    url: str
    auth: str
    log: Path
    home: Path

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].partition("/")[0])


@pytest.fixture(scope="session")
def run_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunServer]:
    """A server that answers. This process's environment stays as it was."""
    from components.checkout import Checkout
    from flows.server import own_server, wait_for_server

    folder = tmp_path_factory.mktemp("server")
    log = folder / "server.log"
    before = dict(os.environ)
    try:
        with own_server(Checkout(folder), log) as process:
            wait_for_server(process, log, threading.Event())
            url, auth, home = (os.environ[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME"))
            os.environ.clear()
            os.environ.update(before)
            yield RunServer(url, auth, log, Path(home))
    finally:
        os.environ.clear()
        os.environ.update(before)
