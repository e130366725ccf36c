"""The real command on the small checkout: `mmalign run` with its flow, Prefect's server and MLflow's store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from components.checkout import Checkout
from components.printable import CODES
from components.stages import STAGE_NAMES
from components.storage.copies import workspace_of
from tests.checkout import alive, behave, git, mmalign, start_mmalign, started, wait_for


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "reports/summary.json").read_text()))


def statuses(folder: Path) -> list[str]:
    return [summary(folder)["stages"][name]["status"] for name in STAGE_NAMES]


def servers(folder: Path) -> int:
    return len(list((folder / "logs").glob("prefect-server-*.log")))


@pytest.mark.slow
def test_names_with_control_characters_stop_no_run(checkout: Path) -> None:
    for name in ("\x1b]0;title\x07", "\x9b2J\u202egpj", "[red]", "-rf"):
        folder = checkout / "data/preferences" / name
        folder.mkdir()
        (folder / f"{name}.txt").write_text("x")
    for arguments in (("plan",), ("run",), ("run",), ("status",), ("logs",)):
        completed = mmalign(checkout, *arguments, timeout=900)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        assert not CODES.search(completed.stdout + completed.stderr), arguments
    assert statuses(checkout) == ["skipped"] * 6


@pytest.mark.slow
def test_run_command_through_success_failure_and_restore(checkout: Path) -> None:
    # Everything runs, in the order of the graph, and the summary says so.
    completed = mmalign(checkout, "run", timeout=900)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert started(checkout) == list(STAGE_NAMES)
    first = summary(checkout)
    assert (first["schema"], first["status"]) == (1, "ok")
    assert statuses(checkout) == ["ran"] * 6
    assert all(stage["seconds"] > 0 for stage in first["stages"].values())
    assert first["data"]["queries"] == 3
    assert first["policy"]["win_rate"] is None
    assert first["git_sha"] == git(checkout, "rev-parse", "HEAD").strip()
    assert "validate, reward, critique, reference, align, evaluate ran in" in " ".join(completed.stdout.split())
    assert git(checkout, "status", "--porcelain").split() == ["??", "dvc.lock"]
    assert alive(checkout) == []

    # Prefect's record has the flow's last lines, though its server ended right after them.
    assert "Error logging to API" not in completed.stderr
    with closing(sqlite3.connect(checkout / ".mmalign/prefect/prefect.db")) as record:
        lines = [message for (message,) in record.execute("SELECT message FROM log WHERE task_run_id IS NULL")]
    assert any(line.startswith("Finished in state Completed") for line in lines), lines

    # Nothing is stale: nothing starts, no server either, and that is recorded too.
    assert mmalign(checkout, "run").returncode == 0
    assert statuses(checkout) == ["skipped"] * 6
    assert servers(checkout) == 1
    assert summary(checkout)["mlflow_run_id"] not in {None, first["mlflow_run_id"]}

    # A stage's mistake is exit code 2 and its sentence; the stages after it are not reached.
    (checkout / "data/preferences/data.jsonl").write_text("1\n2\nmore\n")
    behave(checkout, "reward", "mistake")
    mistake = mmalign(checkout, "run", timeout=900)
    assert mistake.returncode == 2
    assert "mmalign: stage reward: row 7 of the data is wrong: correct it\n" in mistake.stderr
    assert "1 file of data/ changed: data/preferences/data.jsonl" in mistake.stdout
    failed = summary(checkout)
    assert (failed["status"], failed["failed_stage"]) == ("failed", "reward")
    assert statuses(checkout) == ["ran", "failed", "not_reached", "not_reached", "not_reached", "not_reached"]
    assert failed["data"]["version"] != first["data"]["version"]

    # A fault is exit code 1 with the log, which has the reason and is recorded with the run.
    behave(checkout, "reward", "fail")
    fault = mmalign(checkout, "run", timeout=900)
    assert fault.returncode == 1
    log = checkout / summary(checkout)["log"]
    assert f"its log: {summary(checkout)['log']}" in fault.stderr
    assert "this is why it failed" in log.read_text()
    assert statuses(checkout)[0] == "skipped"
    assert any(path.name == "reward.log" for path in (checkout / "mlruns").rglob("logs/*"))

    # Repaired, and with the old data back: DVC restores the outs.
    behave(checkout, "reward")
    git(checkout, "checkout", "--", "data.dvc")
    (checkout / "data/preferences/data.jsonl").write_text("1\n2\n")
    before = started(checkout)
    restored = mmalign(checkout, "run", timeout=900)
    assert restored.returncode == 0
    assert started(checkout) == before
    assert set(statuses(checkout)) == {"restored", "skipped"}

    # An output is lost, and its copy in the cache has gone bad: the stage makes it again.
    out = yaml.safe_load((checkout / "dvc.lock").read_text())["stages"]["reward"]["outs"][0]
    content = (checkout / out["path"]).read_bytes()
    (checkout / out["path"]).unlink()
    cached = checkout / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]
    cached.chmod(0o644)
    cached.write_bytes(bytes(len(content)))
    cached.chmod(0o444)
    repaired = mmalign(checkout, "run", timeout=900)
    assert repaired.returncode == 0
    assert f"{cached.relative_to(checkout)} was damaged" in repaired.stdout
    assert started(checkout) == [*before, "reward"]
    assert (checkout / out["path"]).read_bytes() == content


def contents(checkout: Path) -> dict[str, bytes]:
    """What a person sees of a checkout: all files but caches, records and logs."""
    paths = {path.relative_to(checkout).as_posix(): path for path in checkout.rglob("*") if path.is_file()}
    hidden = (".mmalign/", ".dvc/", ".git/", "mlflow.db", "mlruns/", "logs/")
    return {name: path.read_bytes() for name, path in paths.items() if not name.startswith(hidden)}


@pytest.mark.slow
def test_overrides_leave_checkout_as_it_is(checkout: Path) -> None:
    assert mmalign(checkout, "run", timeout=900).returncode == 0
    before = contents(checkout)
    first = mmalign(checkout, "run", "--set", "alignment.beta=0.3", timeout=900)
    assert first.returncode == 0, first.stdout + first.stderr
    copy = workspace_of(Checkout(checkout), ["alignment.beta=0.3"]).root
    assert f"this run works in {copy}: " in " ".join(first.stdout.split())
    assert f"{copy}/reports/report.html" in "".join(first.stdout.replace("│", "").split())
    assert statuses(copy) == ["restored", "restored", "restored", "restored", "ran", "ran"]
    assert started(copy) == ["align", "evaluate"]
    assert json.loads((copy / "artifacts/align/result.txt").read_text().splitlines()[0])["beta"] == 0.3
    with sqlite3.connect(checkout / "mlflow.db") as store:
        recorded = {run for (run,) in store.execute("select run_uuid from runs")}
    assert {summary(checkout)["mlflow_run_id"], summary(copy)["mlflow_run_id"]} <= recorded, "both in the checkout's record"
    repeated = mmalign(checkout, "run", "--set", "alignment.beta=.3")
    assert repeated.returncode == 0, repeated.stderr
    assert statuses(copy) == ["skipped"] * 6
    assert contents(checkout) == before
    saved = mmalign(checkout, "run", "--save", "--set", "alignment.beta=0.3", timeout=900)
    assert saved.returncode == 0, saved.stderr
    assert yaml.safe_load((checkout / "params.yaml").read_text())["alignment"]["beta"] == 0.3
    assert started(checkout)[-1] == "evaluate"
    assert statuses(checkout)[4:] == ["restored", "restored"]


@pytest.mark.slow
def test_killed_command_ends_flow_and_next_run_continues(checkout: Path) -> None:
    behave(checkout, "reward", "wait", "grandchild")
    command = start_mmalign(checkout, "run")
    wait_for((checkout / "waiting.reward").exists, seconds=600)
    assert summary(checkout)["status"] == "running"

    # A second run in the same checkout is refused, and the message names the first.
    second = mmalign(checkout, "run", "--save", "--set", "alignment.beta=0.3")
    assert second.returncode == 2
    assert f"process {command.pid} " in second.stderr
    assert git(checkout, "diff", "--", "params.yaml") == ""

    command.kill()
    command.wait()
    wait_for(lambda: not alive(checkout), seconds=60)
    assert summary(checkout)["status"] == "cancelled"
    behave(checkout, "reward")
    assert mmalign(checkout, "run", timeout=900).returncode == 0
    assert started(checkout) == ["validate", "reward", "reward", "critique", "reference", "align", "evaluate"]
    with sqlite3.connect(checkout / "mlflow.db") as store:
        assert store.execute("select count(*) from runs where status = 'RUNNING'").fetchone() == (0,)


@pytest.mark.slow
def test_leftovers_of_killed_run_block_next_run(checkout: Path) -> None:
    behave(checkout, "validate", "wait", "grandchild")
    command = start_mmalign(checkout, "run")
    wait_for((checkout / "waiting.validate").exists, seconds=600)
    grandchild = next(process for process in alive(checkout) if "SIG_IGN" in process.command)
    for process in [psutil.Process(command.pid), *(psutil.Process(each.pid) for each in alive(checkout) if each.pid != grandchild.pid)]:
        process.kill()
    command.wait()
    refused = mmalign(checkout, "run")
    assert refused.returncode == 2
    assert f"kill -9 {grandchild.pid}" in refused.stderr
    os.kill(grandchild.pid, signal.SIGKILL)
    behave(checkout, "validate")
    wait_for(lambda: not alive(checkout))
    # `validate` needs no GPU, whatever the other stages take.
    assert mmalign(checkout, "run", "--only", "validate", "--save", "--set", "stages.align.gpus=99", timeout=900).returncode == 0
    assert statuses(checkout) == ["ran", *["not_reached"] * 5]


@pytest.mark.slow
def test_ctrl_c_ends_run_as_cancelled(checkout: Path) -> None:
    behave(checkout, "validate", "wait")
    command = start_mmalign(checkout, "run")
    wait_for((checkout / "waiting.validate").exists, seconds=600)
    command.send_signal(signal.SIGINT)
    assert command.wait(60) == 130
    assert alive(checkout) == []
    assert (summary(checkout)["status"], summary(checkout)["failed_stage"]) == ("cancelled", "validate")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["zeros", "half"])
def test_damaged_result_in_cache_is_made_anew(checkout: Path, damage: str) -> None:
    """With DVC's record of the cache trusted, which DVC's own restore does: the object is write-protected."""
    assert mmalign(checkout, "run", timeout=900).returncode == 0
    result = checkout / "artifacts/align/result.txt"
    good = result.read_bytes()
    digest = hashlib.md5(good, usedforsecurity=False).hexdigest()
    (cached,) = (checkout / ".dvc/cache").rglob(f"{digest[:2]}/{digest[2:]}")
    cached.chmod(0o644)
    cached.write_bytes(b"\0" * len(good) if damage == "zeros" else good[: len(good) // 2])
    cached.chmod(0o444)
    shutil.rmtree(checkout / "artifacts/align")
    before = len(started(checkout))

    completed = mmalign(checkout, "run", timeout=900)

    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "was damaged: removed from the cache" in completed.stdout
    assert started(checkout)[before:][:1] == ["align"]
    assert result.read_bytes() == good
