from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from components.checkout import Checkout
from components.cli.run.status import _grouped, render
from components.files import write_json
from components.operations.doctor import state
from components.operations.doctor.state import read_status
from components.processes.marks import RUN_MARK, new_run_mark
from components.report.summary import RunRecord, StageRecord, summarize
from components.stages import STAGE_NAMES
from components.storage.copies import fill_copy, workspace_of
from components.tracking import store
from components.tracking.recorder import Recorder
from components.tracking.runs import close_parent, open_parent, record_stages
from tests.checkout import ROOT, STAGE_INPUTS, behave, clean_environment, mmalign, wait_for

KEYS = {"running", "workspaces", "slots", "runs", "registry", "plan", "summary", "notes"}
DIGEST = "0123456789abcdef" * 4


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables and nothing in it: making the tables takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def recorded(checkout: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout with a store that has no run yet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(database, checkout / "mlflow.db")
    yield checkout
    store._failures.clear()
    store._connect.cache_clear()


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def shown(status: dict[str, Any], width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(render(status))
    return stream.getvalue()


def start_stage(folder: Path, stage: str) -> subprocess.Popen[bytes]:
    """Start a stage that waits for `behave`."""
    behave(folder, stage, "wait")
    command = [sys.executable, "stage.py", stage, *(source for source in STAGE_INPUTS[stage] if source != "data/truth")]
    process = subprocess.Popen(command, cwd=folder, env=clean_environment())
    wait_for((folder / f"waiting.{stage}").exists)
    return process


def test_status_of_fresh_clone_is_stale_and_writes_nothing(checkout: Path) -> None:
    status = read_status(Checkout(checkout))
    assert status.keys() == KEYS
    assert status["running"] == {"run": None, "stages": [], "processes": []}
    assert status["runs"] == []
    assert status["registry"] == {name: {"versions": 0, "aliases": {}} for name in ("mm-policy", "mm-reward")}
    assert list(status["plan"]) == list(STAGE_NAMES)
    assert status["plan"]["validate"] == {"action": "run", "reason": "has no record in dvc.lock"}
    assert status["summary"] is None
    assert status["notes"] == []
    assert not (checkout / "mlflow.db").exists()
    text = shown(status)
    assert "nothing runs in this checkout" in text
    assert "no run is recorded yet" in text


def test_last_runs_show_status_of_stages(recorded: Path) -> None:
    first = open_parent(Checkout(recorded), "mmalign run")
    record_stages(
        Checkout(recorded),
        first,
        {name: {"status": "ran" if name == "align" else "skipped", "mlflow_run_id": None} for name in STAGE_NAMES},
    )
    close_parent(Checkout(recorded), first, "FINISHED")
    second = open_parent(Checkout(recorded), "mmalign run")
    close_parent(Checkout(recorded), second, "FAILED")
    runs = read_status(Checkout(recorded))["runs"]
    assert [run["mlflow_run_id"] for run in runs] == [second, first]
    assert [run["status"] for run in runs] == ["FAILED", "FINISHED"]
    assert runs[1]["stages"] == {**dict.fromkeys(STAGE_NAMES, "skipped"), "align": "ran"}
    assert runs[1]["seconds"] >= 0
    assert runs[0].keys() == {"mlflow_run_id", "status", "started", "seconds", "stages"}


def test_running_and_killed_runs_are_shown(recorded: Path) -> None:
    parent = open_parent(Checkout(recorded), "mmalign run")
    Recorder.create(Checkout(recorded), "validate", parent=parent, tags={"mmalign.stage": "validate"}).end("FINISHED")
    Recorder.create(Checkout(recorded), "reward", parent=parent, tags={"mmalign.stage": "reward"})
    (run,) = read_status(Checkout(recorded))["runs"]
    assert run["status"] == "RUNNING"
    assert run["stages"] == {"validate": "ran", "reward": "running"}
    client, _ = store.connect(Checkout(recorded))
    client.set_tag(parent, "mmalign.process", "1:1")  # no live process has this pid and start
    (run,) = read_status(Checkout(recorded))["runs"]
    assert run["status"] == "KILLED"


def test_shared_server_shows_runs_of_this_checkout(recorded: Path) -> None:
    ours = open_parent(Checkout(recorded), "mmalign run")
    client, experiment = store.connect(Checkout(recorded))
    client.create_run(experiment, tags={"mmalign.origin": "mmalign run", "mmalign.checkout": "another"})
    assert len(state._runs(Checkout(recorded), client, experiment, everybody=True)) == 2
    assert [run["mlflow_run_id"] for run in state._runs(Checkout(recorded), client, experiment, everybody=False)] == [ours]


def test_aliases_show_version_digest_and_verdict(recorded: Path) -> None:
    client, _ = store.connect(Checkout(recorded))
    client.create_registered_model("mm-policy")
    for verdict in ("promoted", "refused"):
        client.create_model_version("mm-policy", str(recorded), tags={"mmalign.digest": DIGEST, "mmalign.verdict": verdict})
    client.set_registered_model_alias("mm-policy", "champion", "1")
    client.set_registered_model_alias("mm-policy", "challenger", "2")
    client.create_registered_model("mm-reward")
    registry = read_status(Checkout(recorded))["registry"]
    assert registry["mm-policy"] == {
        "versions": 2,
        "aliases": {
            "challenger": {"version": 2, "digest": DIGEST, "verdict": "refused"},
            "champion": {"version": 1, "digest": DIGEST, "verdict": "promoted"},
        },
    }
    assert registry["mm-reward"] == {"versions": 0, "aliases": {}}


def test_unreachable_store_is_one_sentence_in_status(checkout: Path) -> None:
    write_json(checkout / "reports/summary.json", summarize(RunRecord("ok", {}, 61.0), checkout / "artifacts"))
    (checkout / ".mmalign/tracking").mkdir(parents=True)
    (checkout / ".mmalign/tracking/pending-1.jsonl").write_text("{}\n")
    script = "import typer; from components.cli.run.status import status; typer.run(status)"
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    began = time.monotonic()
    completed = subprocess.run(
        [sys.executable, "-c", script, "--json"], cwd=checkout, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    status = json.loads(completed.stdout)
    assert time.monotonic() - began < 20, "it waited for the store"
    assert status["runs"] == []
    assert status["summary"]["status"] == "ok"
    assert status["plan"]["validate"]["action"] == "run"
    away, waiting = status["notes"]
    assert away.startswith("the store of runs and models can't be read: http://127.0.0.1:9 does not answer: ")
    assert waiting == "1 record of runs wait for the store; the next run writes them"


def test_run_with_other_settings_is_shown_with_its_folder(checkout: Path) -> None:
    own = Checkout(checkout)
    copy = workspace_of(own, ["alignment.beta=0.3"])
    fill_copy(own, copy, ["alignment.beta=0.3"], print)
    assert read_status(own)["workspaces"] == []
    (copy.root / "behaviour").mkdir()
    process = start_stage(copy.root, "validate")
    status = read_status(own)
    (workspace,) = status["workspaces"]
    assert workspace["folder"] == str(copy.root)
    assert [(stage["stage"], stage["pid"]) for stage in workspace["stages"]] == [("validate", process.pid)]
    assert status["running"]["stages"] == []
    assert f"a run is under way in {copy.root}: validate" in shown(status, width=400)
    behave(copy.root, "validate")
    assert process.wait(30) == 0


def test_running_stage_is_shown_undisturbed(checkout: Path) -> None:
    process = start_stage(checkout, "validate")
    status = read_status(Checkout(checkout))
    (stage,) = status["running"]["stages"]
    assert (stage["stage"], stage["pid"]) == ("validate", process.pid)
    assert status["running"]["run"] is None
    assert status["plan"] == {}
    assert status["notes"] == ["stale stages are not shown while a run or a stage is under way"]
    assert f"process {process.pid}" in shown(status)
    behave(checkout, "validate")
    assert process.wait(30) == 0
    assert read_status(Checkout(checkout))["running"]["stages"] == []


def test_holder_of_slot_is_shown_in_every_checkout(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [slot["holder"] for slot in read_status(Checkout(checkout))["slots"]] == [None, None, None]
    assert "gpu-0" not in shown(read_status(Checkout(checkout))), "all slots are free: the table is omitted"
    ops = checkout / "ops.yaml"
    ops.write_text(ops.read_text().replace("reward: { deadline_minutes: 2880, gpus: 0 }", "reward: { deadline_minutes: 2880, gpus: 1 }"))
    (checkout / "artifacts/validate").mkdir(parents=True)
    (checkout / "artifacts/validate/result.txt").touch()
    process = start_stage(checkout, "reward")
    other = tmp_path / "other"
    shutil.copytree(checkout, other, symlinks=True)
    status = read_status(Checkout(other))
    assert [slot["slot"] for slot in status["slots"]] == ["gpu-0", "gpu-1", "cpu"]
    used, *free = [slot["holder"] for slot in status["slots"]]
    assert free == [None, None]
    assert used.keys() == {"checkout", "stage", "pid", "since", "user"}
    assert (used["checkout"], used["stage"], used["pid"]) == (str(checkout), "reward", process.pid)
    text = shown(status, 200)
    (line,) = [line for line in text.splitlines() if line.startswith("gpu-0")]
    assert str(process.pid) in line
    assert str(checkout) in line
    behave(checkout, "reward")
    assert process.wait(30) == 0
    assert [slot["holder"] for slot in read_status(Checkout(other))["slots"]] == [None, None, None]


def test_running_run_is_named_and_has_no_leftovers(checkout: Path) -> None:
    script = (
        "import pathlib, sys, time\nfrom components.processes.guard import run_lock\nfrom components.checkout import Checkout\n"
        "with run_lock(Checkout(pathlib.Path.cwd())):\n    pathlib.Path('turn').touch()\n    sys.stdin.read()\n"
    )
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen([sys.executable, "-c", script], cwd=checkout, env=environment, stdin=subprocess.PIPE)
    wait_for((checkout / "turn").exists)
    marked = subprocess.Popen(["sleep", "600"], env={**os.environ, RUN_MARK: new_run_mark(Checkout(checkout))})
    try:
        running = read_status(Checkout(checkout))["running"]
        assert running["run"]["pid"] == holder.pid
        assert running["processes"] == [{"pid": marked.pid, "command": "sleep 600", "stage": None, "leftover": False}]
        holder.communicate(b"")
        status = read_status(Checkout(checkout))
        assert status["running"]["run"] is None, "the file still names the last holder, but the lock is free"
        assert status["running"]["processes"][0]["leftover"]
        assert f"kill -9 {marked.pid}" in shown(status)
    finally:
        marked.kill()
        marked.wait()


def test_status_does_not_wait_for_dvc(checkout: Path) -> None:
    lock = checkout / ".dvc/tmp/lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        began = time.monotonic()
        status = read_status(Checkout(checkout))
        assert time.monotonic() - began < 2.5, "DVC tries for three seconds"
    assert status["plan"] == {}
    assert status["notes"] == ["the stale stages can't be determined: DVC works on this checkout at the moment"]
    assert status["running"]["stages"] == []


def test_invalid_settings_hide_plan_only(checkout: Path) -> None:
    (checkout / "params.yaml").write_text("model: [")
    status = read_status(Checkout(checkout))
    assert status["plan"] == {}
    (note,) = status["notes"]
    assert note.startswith("the stale stages can't be determined: ")


def test_headline_shows_last_summary_and_verdict(checkout: Path) -> None:
    for name in STAGE_NAMES:
        write_json(checkout / "artifacts" / name / "run.json", {"mlflow_run_id": "r"})
    metrics = {"policy.base.conversation": 50.0, "policy.aligned.conversation": 90.0, "policy.win_rate": 0.7, "reward.acc": 0.875}
    write_json(checkout / "artifacts/evaluate/metrics.json", metrics)
    summary = summarize(RunRecord("ok", {name: StageRecord("skipped") for name in STAGE_NAMES}, 61.0), checkout / "artifacts")
    gate = {"mm-policy": {"verdict": "promoted", "reasons": []}, "mm-reward": {"verdict": "nothing_new", "reasons": []}, "promoted": True}
    write_json(checkout / "reports/summary.json", {**summary, "gate": gate})
    status = read_status(Checkout(checkout))
    assert status["summary"]["policy"]["aligned"] == {"conversation": 90.0, "unsafe_rate": None}
    assert status["summary"]["gate"]["promoted"] is True
    text = shown(status, 120)
    assert "right answers 50.0 → 90.0; wins 70.0 % against the base; reward model's ACC 87.5 %" in text
    assert "mm-policy: promoted" in text
    assert "mm-reward: nothing new" in text


def test_stages_after_last_summary_are_named_and_shown(checkout: Path) -> None:
    artifacts = checkout / "artifacts"
    for name in STAGE_NAMES:
        write_json(artifacts / name / "run.json", {"mlflow_run_id": "r"})
    write_json(artifacts / "evaluate/metrics.json", {"policy.aligned.conversation": 90.0})
    summary = summarize(RunRecord("ok", {name: StageRecord("skipped") for name in STAGE_NAMES}), artifacts)
    gate = {"mm-policy": {"verdict": "promoted", "reasons": []}, "mm-reward": {"verdict": None, "reasons": []}, "promoted": True}
    write_json(checkout / "reports/summary.json", {**summary, "gate": gate})
    assert read_status(Checkout(checkout))["summary"]["stages_since"] == []

    for name in ("align", "evaluate"):  # as `dvc exp run` leaves them
        write_json(artifacts / name / "run.json", {"mlflow_run_id": "s"})
    write_json(artifacts / "evaluate/metrics.json", {"policy.aligned.conversation": 60.0})
    status = read_status(Checkout(checkout))
    assert status["summary"]["stages_since"] == ["align", "evaluate"]
    assert status["summary"]["policy"]["aligned"]["conversation"] == 60.0
    assert status["summary"]["gate"]["mm-policy"]["verdict"] is None
    text = shown(status, 160)
    assert "since then align, evaluate ran outside `mmalign run`" in text
    assert "promoted" not in text


def test_stage_after_failed_run_is_named(checkout: Path) -> None:
    summary = summarize(RunRecord("failed", {"align": StageRecord("failed")}, failed_stage="align"), checkout / "artifacts")
    write_json(checkout / "artifacts/reward/run.json", {"mlflow_run_id": "before"})
    os.utime(checkout / "artifacts/reward/run.json", (1000, 1000))
    write_json(checkout / "reports/summary.json", summary)
    assert read_status(Checkout(checkout))["summary"]["stages_since"] == []
    write_json(checkout / "artifacts/align/run.json", {"mlflow_run_id": "after"})
    os.utime(checkout / "artifacts/align/run.json", (time.time() + 5, time.time() + 5))
    assert read_status(Checkout(checkout))["summary"]["stages_since"] == ["align"]


def test_runs_of_two_stages_are_not_called_all() -> None:
    assert _grouped({"align": "ran", "evaluate": "ran"}) == {"ran": "align, evaluate"}
    assert _grouped(dict.fromkeys(STAGE_NAMES, "ran")) == {"ran": "all"}


def test_summary_cut_short_by_kill_is_marked(checkout: Path) -> None:
    write_json(checkout / "reports/summary.json", summarize(RunRecord("running", {}, 5.0), checkout / "artifacts"))
    status = read_status(Checkout(checkout))
    assert "last summary: ended by a kill" in shown(status)
    status["running"]["run"] = {"pid": 1, "command": "mmalign run", "started": "2026-11-24T17:45:48+00:00"}
    assert "last summary" not in shown(status), "a run under way has no metrics yet"


def test_damaged_summary_hides_nothing_else(checkout: Path) -> None:
    (checkout / "reports").mkdir()
    (checkout / "reports/summary.json").write_text("{")
    status = read_status(Checkout(checkout))
    assert status["summary"] is None
    assert status["notes"][0].startswith("reports/summary.json can't be read: ")
    assert status["plan"]["validate"]["action"] == "run"


@pytest.mark.parametrize("width", [80, 40])
def test_status_is_readable_in_narrow_terminal(width: int) -> None:
    alias = {"version": 12, "digest": DIGEST, "verdict": "promoted"}
    runs = [
        {
            "mlflow_run_id": "r",
            "status": "FINISHED",
            "started": "2026-11-24T17:45:48+00:00",
            "seconds": 90000.0,
            "stages": {**dict.fromkeys(STAGE_NAMES, "skipped"), "align": "ran", "evaluate": "failed"},
        }
    ]
    status: dict[str, Any] = {
        "running": {"run": None, "stages": [], "processes": []},
        "workspaces": [],
        "slots": [],
        "runs": runs,
        "plan": {name: {"action": "run", "reason": "alignment.beta changed from 0.1 to 0.2"} for name in STAGE_NAMES},
        "registry": {"mm-policy": {"versions": 12, "aliases": {"champion": alias, "previous_champion": alias}}},
        "summary": None,
        "notes": ["a note"],
    }
    text = shown(status, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    if width == 80:
        (line,) = [line for line in text.splitlines() if "previous_champion" in line]
        assert line.split() == ["mm-policy", "previous_champion", "12", "of", "12", "0123456789ab", "promoted"]
        assert "1 day, 1:00:00" in text


def test_status_command_prints_tables(checkout: Path) -> None:
    completed = mmalign(checkout, "status")
    assert completed.returncode == 0, completed.stderr
    assert "nothing runs in this checkout" in completed.stdout
