"""The page of a run on Prefect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.files import write_json
from components.operations.services.state import free_port
from components.processes.faults import RunOutcome
from components.report.summary import RunRecord, StageRecord, summarize
from flows.run_page import Page

REPOSITORY = Path(__file__).resolve().parents[2]


def summary(tmp_path: Path, status: str = "ok") -> dict[str, Any]:
    record = RunRecord(status, {"validate": StageRecord("skipped"), "reward": StageRecord("ran", 62.5)}, mlflow_run_id="run1")  # type: ignore[arg-type]
    record.verdicts = {
        "gate": {"mm-policy": {"verdict": "refused", "reasons": ["unsafe: 12 % <script>alert(1)</script> | *x*", "acc: fine"]}},
        "registry": {"mm-policy": {"version": 3, "aliases": [], "digest": "d"}},
    }
    return summarize(record, tmp_path)


def test_progress_follows_stages_and_never_shrinks(tmp_path: Path) -> None:
    page = Page(Checkout(tmp_path), Checkout(tmp_path))
    running = summary(tmp_path, "running")
    assert page.finished_share(running) == (2 / 6, "2 of 6 stages are finished")

    logs = tmp_path / "logs/20261125-020000"
    logs.mkdir(parents=True)
    (logs / "align.log").write_bytes(b"start\n\r 10%|#    | 1/10\r 50%|##   | 5/10, loss 0.3")
    assert page.finished_share(running) == (4.5 / 6, "stage align: 50%|##   | 5/10, loss 0.3")

    (logs / "align.log").write_bytes(b"0%|")
    assert page.finished_share(running)[0] == 4.5 / 6


def test_summary_of_earlier_run_shows_no_progress(tmp_path: Path) -> None:
    messages: list[str] = []

    Page(Checkout(tmp_path), Checkout(tmp_path), messages.append).progress(summary(tmp_path, "ok"))

    assert messages == []  # no write was even tried


def test_verdict_has_all_reasons_as_text_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "canary-9")

    text = Page(Checkout(tmp_path), Checkout(tmp_path)).verdict(summary(tmp_path), RunOutcome("ok"), ["pushed with canary-9"], {})

    assert "## mm-policy version 3: refused" in text
    assert "&lt;script&gt;alert\\(1\\)&lt;/script&gt; \\| \\*x\\*" in text
    assert "- acc: fine" in text
    assert "- pushed with \\*\\*\\*" in text
    assert "<script" not in text
    assert "canary-9" not in text


def test_failed_run_shows_end_of_log_in_closed_block(tmp_path: Path) -> None:
    (tmp_path / "align.log").write_text("```\n# not a heading\nloss is NaN\n")

    text = Page(Checkout(tmp_path), Checkout(tmp_path)).verdict(None, RunOutcome("training", "loss is NaN", "align", "align.log"), [], {})

    assert "**training** (stage align): loss is NaN" in text
    assert "````text\n```\n# not a heading\nloss is NaN\n````" in text


@pytest.mark.slow
def test_unreachable_server_is_logged_once(tmp_path: Path) -> None:
    code = (
        "import sys, json; from pathlib import Path; from components.checkout import Checkout;"
        "from flows.run_page import Page; from components.processes.faults import RunOutcome;"
        "summary = json.load(open('summary.json')); page = Page(Checkout(Path('.')), Checkout(Path('.')));"
        "page.progress({**summary, 'status': 'running'}); page.finish(summary, RunOutcome('ok'))"
    )
    write_json(tmp_path / "summary.json", summary(tmp_path))
    environment = {**os.environ, **_client(tmp_path, 9), "PREFECT_CLIENT_MAX_RETRIES": "0", "PYTHONPATH": str(REPOSITORY)}

    completed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    messages = [line for line in completed.stdout.splitlines() if line]
    assert completed.returncode == 0, completed.stderr
    assert len(messages) == 1
    assert "can't be written" in messages[0]


def _client(tmp_path: Path, port: int) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_PROFILES_PATH": str(tmp_path / "profiles.toml"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_ENABLED": "false",
    }


FLOW = """
import json, threading, time
from contextvars import copy_context
from pathlib import Path
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from components.checkout import Checkout
from components.processes.faults import RunOutcome
from flows.run_page import Page

@flow
def scheduled_run():
    summary = json.loads(Path("summary.json").read_text())
    page = Page(Checkout(Path(".")), Checkout(Path(".")))
    # from a thread, as the flow does it
    thread = threading.Thread(target=copy_context().run, args=(page.progress, {**summary, "status": "running"}))
    thread.start()
    thread.join()
    page.finish(summary, RunOutcome("ok"), ["pushed"])
    return str(flow_run.id)

with get_client(sync_client=True) as client:
    until = time.monotonic() + 180
    while client.api_healthcheck() is not None:
        assert time.monotonic() < until
        time.sleep(0.5)
run_id = scheduled_run()
import urllib.request
from prefect.settings import PREFECT_API_URL
request = urllib.request.Request(f"{PREFECT_API_URL.value()}/artifacts/filter", data=b"{}", headers={"content-type": "application/json"})
artifacts = json.load(urllib.request.urlopen(request))
print("ARTIFACTS " + json.dumps([one for one in artifacts if one["flow_run_id"] == run_id]))
"""


@pytest.mark.slow
def test_real_server_shows_progress_stages_and_verdict(tmp_path: Path) -> None:
    port = free_port(set())
    environment = {**os.environ, **_client(tmp_path, port), "PYTHONPATH": str(REPOSITORY)}
    write_json(tmp_path / "summary.json", summary(tmp_path))
    with (tmp_path / "server.log").open("wb") as log:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        completed = subprocess.run(
            [sys.executable, "-c", FLOW], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
        )
        assert completed.returncode == 0, completed.stderr
        assert "can't be written" not in completed.stdout
        printed = next(line for line in completed.stdout.splitlines() if line.startswith("ARTIFACTS "))
    finally:
        server.terminate()
        server.wait(30)
    by_key = {one["key"]: one for one in json.loads(printed.removeprefix("ARTIFACTS "))}
    assert sorted(by_key) == ["progress", "stages", "verdict"]
    assert by_key["progress"]["data"] == 100
    rows = json.loads(by_key["stages"]["data"])
    assert rows[:2] == [
        {"stage": "validate", "status": "skipped", "seconds": "", "MLflow run": ""},
        {"stage": "reward", "status": "ran", "seconds": 62.5, "MLflow run": ""},
    ]
    assert "mm-policy version 3: refused" in by_key["verdict"]["data"]
