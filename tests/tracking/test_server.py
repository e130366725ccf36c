from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.tracking.runs import close_parent, open_parent
from components.tracking.store import connect

SETTINGS = Path(__file__).parents[2] / "mlflow" / "server.env"


def settings() -> dict[str, str]:
    lines = [line for line in SETTINGS.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server that runs with the repository's settings, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, **settings(), "MLFLOW_PORT": str(port)}
    folder = tmp_path / "server"
    folder.mkdir()
    command = [str(Path(sys.executable).parent / "mlflow"), "server"]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 600
        while not answers(address):
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < until, (tmp_path / "server.log").read_text()
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as response:  # noqa: S310 - our own server
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_server_with_shipped_settings_takes_runs(checkout: Path, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    run_id = open_parent(Checkout(checkout), "mmalign run")
    close_parent(Checkout(checkout), run_id, "FINISHED")
    client, _ = connect(Checkout(checkout))
    assert client.get_run(run_id).info.status == "FINISHED"
    stored = client.download_artifacts(run_id, "params.yaml", str(tmp_path))
    assert Path(stored).read_text() == (checkout / "params.yaml").read_text()
    assert list((tmp_path / "server" / "mlruns").rglob("params.yaml"))
