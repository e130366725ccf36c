"""The end of a deployment's run: its sentence, its summary, its outcome."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.files import read_json, version_of, write_json
from components.processes.faults import RunOutcome
from components.report.run_record import on_monotonic_clock, write_summary
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
    checkout = Checkout(tmp_path)
    assert fresh_summary(checkout, None) is None
    write_json(checkout.summary, {"status": "failed"})
    earlier = version_of(checkout.summary)
    assert fresh_summary(checkout, earlier) is None
    write_json(checkout.summary, {"status": "ok"})
    assert fresh_summary(checkout, earlier) == {"status": "ok"}


def test_summary_counts_where_clock_was_set_back_meanwhile(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    write_json(checkout.summary, {"status": "failed"})
    earlier, now = version_of(checkout.summary), time.time()
    write_json(checkout.summary, {"status": "ok"})
    os.utime(checkout.summary, (now - 3600, now - 3600))
    assert fresh_summary(checkout, earlier) == {"status": "ok"}


@pytest.mark.parametrize("hours", [-1, 1])
def test_run_time_ignores_a_clock_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    clock = on_monotonic_clock(time.time() - 5)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
    write_summary(Checkout(tmp_path), RunRecord("running", {}), clock)
    assert 5 <= read_json(Checkout(tmp_path).summary)["seconds"] < 60
