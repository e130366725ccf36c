"""What a run of a deployment says at its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from components.files import write_json
from components.processes.outcome import RunOutcome, read_outcome
from components.report.run_record import SUMMARY
from components.report.summary import RunRecord, StageRecord, summarise
from components.stages import STAGE_NAMES
from flows.aftermath import closing_sentence, fresh_summary


def summary(folder: Path, verdict: str | None = None, **statuses: Any) -> dict[str, Any]:
    record = RunRecord("ok", {name: StageRecord(statuses.get(name, "skipped")) for name in STAGE_NAMES})
    record.verdicts = {"gate": {"mm-policy": {"verdict": verdict, "reasons": []}}}
    return summarise(record, folder)


def test_a_good_run_says_what_ran_and_what_was_decided(tmp_path: Path) -> None:
    found = summary(tmp_path, "nothing_new", align="ran", evaluate="ran", reward="restored")
    said = closing_sentence(found, RunOutcome("ok"))
    assert said == "skipped: validate, critique, reference; restored: reward; ran: align, evaluate; mm-policy nothing new"
    assert closing_sentence(summary(tmp_path), RunOutcome("ok")) == "nothing was stale"


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    failed = RunOutcome("training", "stage reward: the loss is no number", stage="reward")
    assert closing_sentence(summary(tmp_path), failed) == "stage reward: the loss is no number"


def test_the_summary_of_an_earlier_run_is_not_this_runs(tmp_path: Path) -> None:
    assert fresh_summary(tmp_path, 0.0) is None
    write_json(tmp_path / SUMMARY, {"status": "ok"})
    os.utime(tmp_path / SUMMARY, (1000, 1000))
    assert fresh_summary(tmp_path, 999.0) == {"status": "ok"}
    assert fresh_summary(tmp_path, 1001.0) is None


def test_a_child_that_said_nothing_is_known_by_its_end(tmp_path: Path) -> None:
    told = tmp_path / "outcome.json"
    assert read_outcome(told, 0).kind == "ok"
    killed = read_outcome(told, -9)
    assert (killed.kind, killed.sentence) == ("infrastructure", "the run was ended by signal 9")
    write_json(told, {"kind": "mistake", "sentence": "row 7 is wrong", "stage": "validate", "log": None})
    assert read_outcome(told, 2) == RunOutcome("mistake", "row 7 is wrong", "validate")
