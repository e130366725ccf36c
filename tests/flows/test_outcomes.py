"""What the process that started `mmalign run` is told of its end: the kind of each fault, from a stage up to the outcome file."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.outcome import OUTCOME, RunOutcome, read_outcome
from components.processes import STAGE_MARK, marked
from tests.checkout import alive, behave, mmalign, start_mmalign, wait_for


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "outcome.json"
    monkeypatch.setenv(OUTCOME, str(path))
    return path


def outcome_of(checkout: Path, told: Path, *words: str) -> RunOutcome:
    behave(checkout, "validate", *words)
    told.unlink(missing_ok=True)
    done = mmalign(checkout, "run", timeout=900)
    outcome = read_outcome(told, done.returncode)
    assert outcome.sentence in done.stderr
    return outcome


def attempt(checkout: Path) -> dict[str, Any]:
    return dict(json.loads((checkout / ".mmalign/attempts/validate.json").read_text()))


@pytest.mark.slow
def test_each_fault_of_a_stage_reaches_the_one_who_started_the_run_with_its_kind(checkout: Path, told: Path) -> None:
    killed = outcome_of(checkout, told, "killed")
    assert (killed.kind, killed.stage) == ("infrastructure", "validate")
    assert "stage validate failed (it was killed); its log: logs/" in killed.sentence
    assert (checkout / str(killed.log)).is_file()
    assert attempt(checkout)["kind"] is None

    full = outcome_of(checkout, told, "full")
    assert full.kind == "infrastructure"
    assert "No space left on device" in full.sentence

    assert outcome_of(checkout, told, "training").kind == "training"
    assert attempt(checkout)["sentence"] == "the loss is nan at step 3"
    mistake = outcome_of(checkout, told, "mistake")
    assert (mistake.kind, mistake.sentence) == ("mistake", "stage validate: row 7 of the data is wrong: mend it")
    assert outcome_of(checkout, told, "fail").kind == "fault"


@pytest.mark.slow
def test_a_run_that_was_stopped_says_so_and_one_whose_flow_was_killed_is_infrastructure(checkout: Path, told: Path) -> None:
    behave(checkout, "validate", "wait")
    run = start_mmalign(checkout, "run")
    wait_for((checkout / "waiting.validate").exists, 600)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) == 130
    assert read_outcome(told, 130).kind == "cancelled"

    told.unlink()
    (checkout / "waiting.validate").unlink()
    run = start_mmalign(checkout, "run")
    wait_for((checkout / "waiting.validate").exists, 600)
    (flow,) = [process for process in alive(checkout) if "flows.launch" in process.command]
    psutil.Process(flow.pid).kill()
    assert run.wait(120) == 1
    assert read_outcome(told, 1).kind == "infrastructure"
    wait_for(lambda: not marked(STAGE_MARK, "validate:") and not alive(checkout), 60)
