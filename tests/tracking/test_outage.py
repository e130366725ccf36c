from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.processes.marks import FLOW_RUN
from components.tracking import store
from components.tracking.recorder import PARENT_TAG, Recorder, replay
from components.tracking.runs import close_parent, open_parent, record_summary
from tests.tracking.conftest import runs_of


@pytest.fixture
def away(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose store is a server that does not answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    return checkout


def record_a_run(root: Path) -> tuple[Recorder, Recorder]:
    parent = Recorder.attach(Checkout(root), open_parent(Checkout(root), "mmalign run"))
    child = Recorder.create(Checkout(root), "reward", parent=parent.run_id, tags={"mmalign.stage": "reward"})
    child.params({"reward.epochs": "4"})
    child.points(("loss", 1 / step, step) for step in range(1, 4))
    plot = root / "artifacts" / "plot.txt"
    plot.parent.mkdir(exist_ok=True)
    plot.write_text("a plot")
    child.artifact(plot)
    plot.unlink()
    child.end("FINISHED")
    close_parent(Checkout(root), parent.run_id, "FINISHED")
    return parent, child


def test_record_reaches_store_after_outage(away: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checkout = away
    parent, child = record_a_run(checkout)
    assert parent.run_id.startswith("pending-")
    assert child.run_id.startswith("pending-")
    assert "the run continues" in capsys.readouterr().err

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    replay(Checkout(checkout))
    replay(Checkout(checkout))
    client, _ = store.connect(Checkout(checkout))
    first, second = runs_of(checkout)
    assert second.data.tags[PARENT_TAG] == first.info.run_id
    assert (first.info.status, second.info.status) == ("FINISHED", "FINISHED")
    assert second.data.params == {"reward.epochs": "4"}
    assert [(p.step, p.value) for p in client.get_metric_history(second.info.run_id, "loss")] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert Path(client.download_artifacts(second.info.run_id, "plot.txt")).read_text() == "a plot"
    assert list(store.state_folder(Checkout(checkout)).glob("pending-*")) == []


def test_outage_within_run_loses_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder.create(Checkout(checkout), "reward", parent=None, tags={})
    recorder.params({"reward.epochs": "4"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/nowhere.db")
    recorder.metrics({"acc": 0.75})
    recorder.end("FINISHED")
    assert runs_file_operations(checkout) == ["attach", "metrics", "end"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    replay(Checkout(checkout))
    (run,) = runs_of(checkout)
    assert run.data.metrics == {"acc": 0.75}
    assert run.info.status == "FINISHED"


def runs_file_operations(root: Path) -> list[str]:
    (file,) = store.state_folder(Checkout(root)).glob("pending-*.jsonl")
    return [json.loads(line)["op"] for line in file.read_text().splitlines()]


def test_summary_becomes_artifact_and_metrics(checkout: Path) -> None:
    parent = open_parent(Checkout(checkout), "mmalign run")
    summary = checkout / "summary.json"
    summary.write_text(json.dumps({"status": "ok", "reward": {"acc": 0.8, "pairs": 10, "blank": None}}))
    record_summary(Checkout(checkout), parent, summary)
    client, _ = store.connect(Checkout(checkout))
    assert client.get_run(parent).data.metrics == {"reward.acc": 0.8, "reward.pairs": 10.0}
    assert "summary.json" in {item.path for item in client.list_artifacts(parent)}


def test_run_of_deployment_names_flow_run(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLOW_RUN, "0f5a9c1e-0000-4000-8000-000000000000")
    client, _ = store.connect(Checkout(checkout))
    assert (
        client.get_run(open_parent(Checkout(checkout), "mmalign run")).data.tags["prefect.flow_run"]
        == "0f5a9c1e-0000-4000-8000-000000000000"
    )


def test_run_with_lost_reply_is_created_once(checkout: Path) -> None:
    recorder = Recorder.create(Checkout(checkout), "reward", parent=None, tags={})
    (made,) = runs_of(checkout)
    # The file of a recorder that never got the reply.
    header = {"op": "create", "name": "reward", "parent": None, "tags": made.data.tags, "time": made.info.start_time}
    file = store.state_folder(Checkout(checkout)) / f"{made.data.tags['mmalign.pending']}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in (header, {"op": "end", "status": "FINISHED", "time": 1})))
    replay(Checkout(checkout))
    assert [run.info.run_id for run in runs_of(checkout)] == [recorder.run_id]
    assert runs_of(checkout)[0].info.status == "FINISHED"


def test_truncated_line_is_skipped_and_rest_is_sent(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder.create(Checkout(checkout), "reward", parent=None, tags={})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/nowhere.db")
    recorder.metrics({"acc": 0.75})
    recorder.metrics({"loss": 0.5})
    assert capsys.readouterr().err.count("can't be written") <= 1
    (file,) = store.state_folder(Checkout(checkout)).glob("pending-*.jsonl")
    file.write_text(file.read_text()[:-20])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    replay(Checkout(checkout))
    assert runs_of(checkout)[0].data.metrics == {"acc": 0.75}
    recorder.metrics({"loss": 0.25})  # after another process has sent its file
    assert runs_of(checkout)[0].data.metrics == {"acc": 0.75, "loss": 0.25}


class Server:
    """A real MLflow server on the loopback that can be killed and started again with the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as bound:
            self.port = bound.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        until = time.monotonic() + 300
        while not store.answers(self.uri):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_record_reaches_real_server_after_outage(checkout: Path, server: Server) -> None:
    parent = open_parent(Checkout(checkout), "mmalign run")
    recorder = Recorder.create(Checkout(checkout), "reward", parent=parent, tags={})
    recorder.points(("loss", 1.0 + step, step) for step in range(100))
    server.kill()

    began = time.monotonic()
    for chunk in range(1, 4):
        recorder.points(("loss", 1.0 + step, step) for step in range(100 * chunk, 100 * chunk + 100))
    plot = checkout / "plot.txt"
    plot.write_text("a plot")
    recorder.artifact(plot)
    late = Recorder.create(Checkout(checkout), "critique", parent=parent, tags={})
    late.metrics({"queries": 3.0})
    assert time.monotonic() - began < 15
    assert late.run_id.startswith("pending-")

    server.start()
    recorder.points(("loss", 1.0 + step, step) for step in range(400, 500))
    recorder.end("FINISHED")
    client, _ = store.connect(Checkout(checkout))
    history = client.get_metric_history(recorder.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(step, 1.0 + step) for step in range(500)]
    assert Path(client.download_artifacts(recorder.run_id, "plot.txt")).read_text() == "a plot"
    # The end of the run sends the pending operations of its other parts.
    close_parent(Checkout(checkout), parent, "FINISHED")
    assert list(store.state_folder(Checkout(checkout)).glob("pending-*")) == []
    by_name = {run.info.run_name: run for run in runs_of(checkout)}
    assert len(runs_of(checkout)) == 3
    assert by_name["critique"].data.metrics == {"queries": 3.0}
    assert by_name["critique"].data.tags[PARENT_TAG] == parent
    assert by_name["mmalign run"].info.status == "FINISHED"


@pytest.mark.slow
def test_kill_while_sending_neither_loses_nor_doubles(checkout: Path, server: Server) -> None:
    recorder = Recorder.create(Checkout(checkout), "reward", parent=None, tags={})
    server.kill()
    for chunk in range(30):
        recorder.points(("loss", 0.5, step) for step in range(500 * chunk, 500 * chunk + 500))
    recorder.end("FINISHED")
    server.start()
    client, _ = store.connect(Checkout(checkout))
    code = (
        "import sys; from pathlib import Path; from components.checkout import Checkout; from components.tracking.recorder import replay;"
    )
    code += "replay(Checkout(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(checkout)]
    sending = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    until = time.monotonic() + 120
    while not client.get_run(recorder.run_id).data.metrics:
        assert time.monotonic() < until
    sending.kill()
    sending.wait()
    sent = len(client.get_metric_history(recorder.run_id, "loss"))
    assert 0 < sent < 15_000
    assert runs_file_operations(checkout)[-1] == "end"

    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
    history = client.get_metric_history(recorder.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(15_000))
    assert client.get_run(recorder.run_id).info.status == "FINISHED"
    assert list(store.state_folder(Checkout(checkout)).glob("pending-*")) == []


@pytest.mark.slow
def test_hanging_server_is_detected_in_seconds(checkout: Path, server: Server) -> None:
    recorder = Recorder.create(Checkout(checkout), "reward", parent=None, tags={})
    assert server.process is not None
    os.killpg(server.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    recorder.metrics({"acc": 0.5})
    assert time.monotonic() - began < 3 * store.PROBE_SECONDS
    os.killpg(server.process.pid, signal.SIGCONT)
    recorder.end("FINISHED")
    (run,) = runs_of(checkout)
    assert run.data.metrics == {"acc": 0.5}
