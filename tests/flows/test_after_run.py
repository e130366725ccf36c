"""The end of a deployment's run: its sentence, its summary, its outcome."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.files import write_json
from components.processes.faults import RunOutcome
from components.report.run_record import SUMMARY
from components.report.summary import RunRecord, StageRecord, summarize
from components.stages import STAGE_NAMES
from flows.after_run import closing_sentence, fresh_summary


def summary(folder: Path, verdict: str | None = None, **statuses: Any) -> dict[str, Any]:
    record = RunRecord("ok", {name: StageRecord(statuses.get(name, "skipped")) for name in STAGE_NAMES})
    record.verdicts = {"gate": {"mm-policy": {"verdict": verdict, "reasons": []}}}
    return summarize(record, folder)


def test_successful_run_names_stages_and_verdicts(tmp_path: Path) -> None:
    finished = summary(tmp_path, "nothing_new", align="ran", evaluate="ran", reward="restored")
    sentence = closing_sentence(finished, RunOutcome("ok"))
    assert sentence == "skipped: validate, critique, reference; restored: reward; ran: align, evaluate; mm-policy nothing new"
    assert closing_sentence(summary(tmp_path), RunOutcome("ok")) == "nothing was stale"


def test_failed_run_ends_with_its_reason(tmp_path: Path) -> None:
    failed = RunOutcome("training", "stage reward: the loss is no number", stage="reward")
    assert closing_sentence(summary(tmp_path), failed) == "stage reward: the loss is no number"


def test_summary_of_earlier_run_is_ignored(tmp_path: Path) -> None:
    assert fresh_summary(Checkout(tmp_path), 0.0) is None
    write_json(tmp_path / SUMMARY, {"status": "ok"})
    os.utime(tmp_path / SUMMARY, (1000, 1000))
    assert fresh_summary(Checkout(tmp_path), 999.0) == {"status": "ok"}
    assert fresh_summary(Checkout(tmp_path), 1001.0) is None
