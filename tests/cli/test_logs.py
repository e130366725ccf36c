from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.files import write_json
from components.operations.run_logs import all_logs, note_run
from components.operations.services.state import Addresses, addresses_file, create_secrets
from components.operations.services.supervision import log_folder
from components.processes.marks import FLOW_RUN, identity
from components.processes.secrets import state_folder
from tests.checkout import ROOT, behave, clean_environment, mmalign, start_mmalign, wait_for, write_secrets

FLOW = "5f0c3c9e-0000-4000-8000-000000000001"


@pytest.fixture(autouse=True)
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FLOW_RUN, raising=False)


def left(root: Path, name: str, mlflow: str = "0123456789abcdef", **stages: str) -> Path:
    """Write the logs of a run of this process."""
    folder = root / "logs" / name
    folder.mkdir(parents=True)
    note_run(folder, mlflow)
    for position, (stage, text) in enumerate(stages.items()):
        (folder / f"{stage}.log").write_text(text)
        os.utime(folder / f"{stage}.log", (1000 + position, 1000 + position))
    return folder


def ended(folder: Path) -> None:
    note = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", {**note, "process": "1:1"})


def shown(root: Path, *arguments: str) -> str:
    completed = mmalign(root, "logs", *arguments)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def refused(root: Path, *arguments: str) -> str:
    completed = mmalign(root, "logs", *arguments)
    assert completed.returncode == 2
    assert len(completed.stderr.strip().splitlines()) == 1
    return completed.stderr


def test_logs_show_last_run_without_progress_bars(checkout: Path) -> None:
    assert "no run has left logs yet" in refused(checkout)
    left(checkout, "20260101-020000", reward="old\n")
    left(checkout, "20260102-020000", reward="10%|\r50%|\r100%|\nstored \x1b[1mwell\x1b[0m\n", align="no end")
    assert shown(checkout).splitlines() == [
        "== logs/20260102-020000/reward.log ==",
        "100%|",
        "stored well",
        "",
        "== logs/20260102-020000/align.log ==",
        "no end",
    ]
    assert "no end" not in shown(checkout, "--stage", "reward")
    assert "align" in refused(checkout, "--stage", "alight")


def test_logs_accept_date_mlflow_run_and_prefixes(checkout: Path) -> None:
    left(checkout, "20260101-020000", "aaaa1111", reward="first\n")
    left(checkout, "20260102-020000", "aaaa2222", reward="second\n")
    for name in ("20260101-020000", "20260101", "aaaa1111", "aaaa1"):
        assert "first" in shown(checkout, name)
    chosen = json.loads(shown(checkout, "aaaa2222", "--json"))
    assert chosen["files"] == [str(checkout / "logs/20260102-020000/reward.log")]
    assert chosen["mlflow_runs"] == ["aaaa2222"]
    assert "several runs (20260101-020000, 20260102-020000)" in refused(checkout, "aaaa")
    assert "the last runs: 20260102-020000, 20260101-020000" in refused(checkout, "20250101-000000")


def test_logs_show_all_attempts_of_deployment_run(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLOW_RUN, FLOW)
    for name in ("20260101-020000", "20260101-023000"):
        left(checkout, name, reward=f"try of {name}\n")
    clone = state_folder(Checkout(checkout)) / "clones" / FLOW
    left(clone, "20260103-020000", reward="in the clone\n")
    text = shown(checkout, FLOW[:8])
    assert text.index("try of 20260101-020000") < text.index("try of 20260101-023000") < text.index("in the clone")
    assert [one.name for one in all_logs(Checkout(checkout))] == ["20260103-020000", "20260101-023000", "20260101-020000"]


def test_run_without_logs_is_reported(checkout: Path) -> None:
    ended(left(checkout, "20260101-020000"))
    assert "no stage was stale" in shown(checkout)
    assert "no stage was stale" in shown(checkout, "-f")


def test_follow_shows_new_lines_until_run_ends(checkout: Path) -> None:
    folder = left(checkout, "20260101-020000", reward="begun\nhal")
    run = subprocess.Popen(["sleep", "600"])
    note = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", {**note, "process": identity(run.pid)})
    command = [sys.executable, "-m", "components.cli.main", "logs", "-f"]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    with (checkout / "seen.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=output)
    seen = checkout / "seen.txt"
    wait_for(lambda: "begun" in seen.read_text())
    assert "hal" not in seen.read_text()
    with (folder / "reward.log").open("a") as stream:
        stream.write("f a line\n")
    wait_for(lambda: "half a line" in seen.read_text())
    (folder / "align.log").write_text("the next stage\n")
    wait_for(lambda: "the next stage" in seen.read_text())
    assert process.poll() is None
    (folder / "align.log").write_text("")  # begun again
    run.kill()
    run.wait()
    assert process.wait(30) == 0


@pytest.mark.slow
def test_logs_show_service_and_refuse_unknown_one(checkout: Path) -> None:
    assert "has no services" in refused(checkout, "--service", "mlflow")
    create_secrets(Checkout(checkout))
    write_json(addresses_file(Checkout(checkout)), asdict(Addresses("127.0.0.1", 1, 2, 3)))
    assert "has not run here" in refused(checkout, "--service", "mlflow")
    log_folder(Checkout(checkout)).mkdir(parents=True)
    (log_folder(Checkout(checkout)) / "mlflow.log").write_text("it serves\n")
    assert shown(checkout, "--service", "mlflow").strip() == "it serves"
    assert "postgres, prefect, mlflow, worker" in refused(checkout, "--service", "mlflaw")
    assert "without a run" in refused(checkout, "last", "--service", "mlflow")


@pytest.mark.slow
def test_follow_of_real_run_shows_every_stage(checkout: Path) -> None:
    behave(checkout, "align", "wait")
    run = start_mmalign(checkout, "run")
    wait_for((checkout / "waiting.align").exists, 400)
    (one,) = all_logs(Checkout(checkout))
    assert one.under_way
    assert re.fullmatch(r"[0-9a-f]{32}", one.mlflow_run or "")
    with (checkout / "seen.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "components.cli.main", "logs", "-f"],
            cwd=checkout,
            env={**clean_environment(), "PYTHONPATH": str(ROOT)},
            stdout=output,
        )
    wait_for(lambda: "align.log" in (checkout / "seen.txt").read_text())
    behave(checkout, "align")
    assert run.wait(400) == 0
    assert process.wait(120) == 0
    assert "evaluate.log" in (checkout / "seen.txt").read_text()


@contextmanager
def prefect(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Addresses]:
    """A real Prefect server as this checkout's."""
    import threading

    from flows.server import own_server, wait_for_server

    before = dict(os.environ)
    log = root / "server.log"
    try:
        with own_server(Checkout(root), log) as process:
            wait_for_server(process, log, threading.Event())
            port = int(os.environ["PREFECT_API_URL"].split(":")[2].split("/")[0])
            write_secrets(Checkout(root), os.environ["PREFECT_API_AUTH_STRING"])
            addresses = Addresses("127.0.0.1", port, 2, 3)
            write_json(addresses_file(Checkout(root)), asdict(addresses))
            yield addresses
    finally:
        for name in set(os.environ) - set(before):
            monkeypatch.delenv(name)
        os.environ.update(before)


def post(addresses: Addresses, path: str, body: Any, patience: float = 60) -> Any:
    """Post, with retries: Prefect answers 503 while its SQLite is locked."""
    who = base64.b64encode(os.environ["PREFECT_API_AUTH_STRING"].encode()).decode()
    request = urllib.request.Request(  # noqa: S310
        f"{addresses.prefect}/api/{path}",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json", "authorization": f"Basic {who}"},
    )
    until = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                text = response.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > until:
                raise
            time.sleep(1)


@pytest.mark.slow
def test_flow_log_comes_from_prefect_by_run_name(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with prefect(checkout, monkeypatch) as addresses:
        flow = post(addresses, "flows/", {"name": "scheduled-run"})
        run = post(addresses, "flow_runs/", {"flow_id": flow["id"], "name": "green-fox", "state": {"type": "RUNNING"}})
        line = {"name": "prefect", "level": 40, "flow_run_id": run["id"], "timestamp": "2026-01-01T02:00:00Z"}
        lines = [
            {**line, "message": f"line {number}", "timestamp": f"2026-01-01T02:{number // 60:02}:{number % 60:02}Z"}
            for number in range(250)
        ]
        post(addresses, "logs/", lines)
        monkeypatch.setenv(FLOW_RUN, run["id"])
        left(checkout, "20260101-020000", reward="of the stage\n")
        wait_for(lambda: len(post(addresses, "logs/filter", {"limit": 200, "offset": 200})) == 50)
        for name in ("green-fox", run["id"], run["id"][:8], "20260101"):
            text = shown(checkout, name)
            assert text.startswith("== the run ==\n2026-01-01T02:00:00 ERROR    line 0\n")
            assert "line 249" in text
            assert "of the stage" in text
        assert json.loads(shown(checkout, "green-fox", "--json"))["under_way"] is True
        post(addresses, f"flow_runs/{run['id']}/set_state", {"state": {"type": "COMPLETED"}, "force": True})
        began = time.monotonic()
        assert "of the stage" in shown(checkout, "green-fox", "-f")
        assert time.monotonic() - began < 30, "it ended with the run"
        assert "no run has the name 'blue-fox'" in refused(checkout, "blue-fox")
