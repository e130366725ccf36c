from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

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
    parent = Recorder.attach(root, open_parent(root, "mmalign run"))
    child = Recorder.create(root, "reward", parent=parent.run_id, tags={"mmalign.stage": "reward"})
    child.params({"reward.epochs": "4"})
    child.points(("loss", 1 / step, step) for step in range(1, 4))
    plot = root / "artifacts" / "plot.txt"
    plot.parent.mkdir(exist_ok=True)
    plot.write_text("a plot")
    child.artifact(plot)
    plot.unlink()
    child.end("FINISHED")
    close_parent(root, parent.run_id, "FINISHED")
    return parent, child


def test_a_store_that_is_away_stops_nothing_and_is_written_when_it_is_back(
    away: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout = away
    parent, child = record_a_run(checkout)
    assert parent.run_id.startswith("pending-")
    assert child.run_id.startswith("pending-")
    assert "the run goes on" in capsys.readouterr().err

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    replay(checkout)
    replay(checkout)
    client, _ = store.connect(checkout)
    first, second = runs_of(checkout)
    assert second.data.tags[PARENT_TAG] == first.info.run_id
    assert (first.info.status, second.info.status) == ("FINISHED", "FINISHED")
    assert second.data.params == {"reward.epochs": "4"}
    assert [(p.step, p.value) for p in client.get_metric_history(second.info.run_id, "loss")] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert Path(client.download_artifacts(second.info.run_id, "plot.txt")).read_text() == "a plot"
    assert list(store.state_folder(checkout).glob("pending-*")) == []


def test_a_store_that_goes_away_in_the_middle_loses_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder.create(checkout, "reward", parent=None, tags={})
    recorder.params({"reward.epochs": "4"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/nowhere.db")
    recorder.metrics({"acc": 0.75})
    recorder.end("FINISHED")
    assert runs_file_operations(checkout) == ["attach", "metrics", "end"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    replay(checkout)
    (run,) = runs_of(checkout)
    assert run.data.metrics == {"acc": 0.75}
    assert run.info.status == "FINISHED"


def runs_file_operations(root: Path) -> list[str]:
    (file,) = store.state_folder(root).glob("pending-*.jsonl")
    return [json.loads(line)["op"] for line in file.read_text().splitlines()]


def test_a_summary_becomes_an_artifact_and_figures(checkout: Path) -> None:
    parent = open_parent(checkout, "mmalign run")
    summary = checkout / "summary.json"
    summary.write_text(json.dumps({"status": "ok", "reward": {"acc": 0.8, "pairs": 10, "blank": None}}))
    record_summary(checkout, parent, summary)
    client, _ = store.connect(checkout)
    assert client.get_run(parent).data.metrics == {"reward.acc": 0.8, "reward.pairs": 10.0}
    assert "summary.json" in {item.path for item in client.list_artifacts(parent)}
