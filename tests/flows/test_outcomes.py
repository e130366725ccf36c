"""The kind of each fault, from a stage up to the process that started the run."""

from __future__ import annotations

import io
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.schemas.objects import StateType

from components.checkout import Checkout
from components.closures import code_digest
from components.config.settings import load_settings
from components.errors import InfrastructureFault, StageFault, UserError
from components.processes.fault_kinds import fault_kind
from flows import pipeline_run, stages
from flows.console import Console
from flows.parameters import RunParameters
from flows.supervisor import Command, Outcome
from flows.whole_run import whole_run
from tests.checkout import ROOT, alive, behave, start_mmalign, wait_for
from tests.settings import copy_settings


def failure_of(checkout: Path, *words: str) -> Exception:
    """The error of a whole run without a server: a pool of threads replaces Prefect, as the pipeline allows."""
    behave(checkout, "validate", *words)
    with ThreadPoolExecutor() as pool, pytest.raises((UserError, StageFault)) as raised:
        whole_run(
            Checkout(checkout),
            RunParameters(stages=["validate"]),
            submit=lambda _, job: pool.submit(job),
            cancel=threading.Event(),
            console=Console(),
        )
    return raised.value


def attempt(checkout: Path) -> dict[str, Any]:
    return dict(json.loads((checkout / ".mmalign/attempts/validate.json").read_text()))


def test_digest_is_written_before_dvc_judges_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[list[str]] = []

    def supervise(command: Command, **_: object) -> Outcome:
        assert command.words[-2:] == ["--single-item", "reward"]
        written.append([path.name for path in (tmp_path / "artifacts/code").iterdir()])
        assert (tmp_path / "artifacts/code/reward.txt").read_text() == f"{code_digest('reward')}\n"
        return Outcome("ok", 0, 1.0, command.log, "mark")

    monkeypatch.setattr(stages, "supervise", supervise)
    outcome = stages.run_stage(
        "reward",
        checkout=Checkout(tmp_path),
        settings=load_settings(ROOT / "params.yaml"),
        logs=tmp_path,
        cancel=threading.Event(),
        console=Console(),
        dvc=None,  # type: ignore[arg-type] -- only `supervise` uses it
    )
    assert outcome.end == "ok"
    assert written == [["reward.txt"]]  # another stage may run beside it, on code of its own start


@pytest.mark.slow
def test_fault_of_stage_keeps_kind_up_to_run(checkout: Path) -> None:
    killed = failure_of(checkout, "killed")
    assert isinstance(killed, InfrastructureFault)
    assert killed.stage == "validate"
    assert "stage validate failed (it was killed); its log: logs/" in str(killed)
    assert (checkout / str(killed.log)).is_file()
    assert attempt(checkout)["kind"] is None

    full = failure_of(checkout, "full")
    assert fault_kind(full) == "infrastructure"
    assert "No space left on device" in str(full)

    assert fault_kind(failure_of(checkout, "training")) == "training"
    assert attempt(checkout)["sentence"] == "the loss is nan at step 3"
    mistake = failure_of(checkout, "mistake")
    assert isinstance(mistake, UserError)
    assert str(mistake) == "stage validate: row 7 of the data is wrong: correct it"
    assert fault_kind(failure_of(checkout, "fail")) == "fault"


@pytest.mark.slow
def test_stopped_run_is_cancelled_and_killed_flow_is_fault(checkout: Path) -> None:
    behave(checkout, "validate", "wait")
    run = start_mmalign(checkout, "run")
    wait_for((checkout / "waiting.validate").exists, 600)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) == 130

    (checkout / "waiting.validate").unlink()
    run = start_mmalign(checkout, "run")
    wait_for((checkout / "waiting.validate").exists, 600)
    (flow,) = [process for process in alive(checkout) if "flows.launch" in process.command]
    psutil.Process(flow.pid).kill()
    assert run.wait(120) == 1
    wait_for(lambda: not alive(checkout), 60)


def test_deadline_of_validation_follows_its_data(checkout: Path) -> None:
    settings = Checkout(checkout).settings()
    assert stages.deadline("validate", settings, Checkout(checkout)) == settings.stages["validate"].deadline_minutes * 60
    with (checkout / "data/preferences/many.jsonl").open("wb") as rows:
        rows.truncate(600_000_000)
    assert stages.deadline("validate", settings, Checkout(checkout)) == pytest.approx(2 * 1200, rel=0.05)
    assert stages.deadline("align", settings, Checkout(checkout)) == settings.stages["align"].deadline_minutes * 60


def test_run_with_broken_settings_fails_with_its_sentence(tmp_path: Path) -> None:
    copy_settings(tmp_path)
    (tmp_path / "params.yaml").write_text("alignment: [\n")
    state = pipeline_run._scheduled_run(Checkout(tmp_path), RunParameters(), Console(io.StringIO()), threading.Event())
    assert (state.type, state.name) == (StateType.FAILED, "Mistake")
    assert "params.yaml" in str(state.message)
