from __future__ import annotations

import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.operations.doctor import services
from components.processes.marks import identity
from components.tracking import store


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers /api/health and /health."""

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.endswith("/health") else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def test_silent_store_is_problem_without_wait(checkout: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:secret@127.0.0.1:{closed_port}")
    began = time.monotonic()
    finding = services.mlflow_store(Checkout(checkout))
    assert finding.state == "problem"
    assert f"http://127.0.0.1:{closed_port} does not answer" in finding.text
    assert "secret" not in finding.text
    assert time.monotonic() - began < services.ANSWER_SECONDS + 2


def test_checkout_database_is_ok_and_damaged_one_is_problem(checkout: Path) -> None:
    assert services.mlflow_store(Checkout(checkout)).state == "ok"
    assert not (checkout / "mlflow.db").exists(), "looking makes no database"
    (checkout / "mlflow.db").write_bytes(b"no database" * 100)
    finding = services.mlflow_store(Checkout(checkout))
    assert finding.state == "problem"
    assert "mlflow.db can't be used" in finding.text


def test_checkout_without_store_has_no_registered_models(checkout: Path) -> None:
    assert services.registered_models(Checkout(checkout)).text == "no model is registered yet"
    assert not (checkout / "mlflow.db").exists()


def test_allowed_pickles_are_warning(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert services.pickled_models(Checkout(checkout)).state == "ok"
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "True")
    assert services.pickled_models(Checkout(checkout)).state == "warning"


def test_prefect_server_is_checked_only_where_configured(
    checkout: Path, server: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "starts its own server" in services.prefect(Checkout(checkout)).text
    monkeypatch.setenv("PREFECT_API_URL", f"{server}/api")
    assert services.prefect(Checkout(checkout)).state == "ok"
    for wrong in (f"http://127.0.0.1:{closed_port}/api", "prefect.example/api"):
        monkeypatch.setenv("PREFECT_API_URL", wrong)
        assert services.prefect(Checkout(checkout)).state == "problem"


def test_waiting_records_count_except_of_live_run(checkout: Path) -> None:
    folder = store.state_folder(Checkout(checkout))
    folder.mkdir(parents=True)
    assert services.waiting_records(Checkout(checkout)).state == "ok"
    alive = json.dumps({"op": "create", "tags": {"mmalign.process": identity(os.getpid())}})
    (folder / "pending-live.jsonl").write_text(alive + "\n")
    assert services.waiting_records(Checkout(checkout)).state == "ok"
    (folder / "pending-dead.jsonl").write_text(json.dumps({"op": "create", "tags": {"mmalign.process": "1:1"}}) + "\n")
    finding = services.waiting_records(Checkout(checkout))
    assert finding.state == "warning"
    assert finding.text.startswith("1 record of runs")
