from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.operations.notices.notice import Notice, notices_of
from components.processes.faults import RunOutcome
from components.report.summary import RunRecord, summarize

OK = RunOutcome("ok")


def summary(tmp_path: Path, gate: dict[str, Any] | None = None) -> dict[str, Any]:
    """A run's summary, as the run writes it, with verdicts."""
    record = RunRecord("ok", {}, mlflow_run_id="abc")
    record.verdicts = {"gate": gate or {}, "registry": {"mm-policy": {"version": 7, "aliases": [], "digest": "d"}}}
    return summarize(record, tmp_path)


def of(tmp_path: Path, run_summary: dict[str, Any] | None, outcome: RunOutcome = OK, **more: Any) -> list[Notice]:
    return notices_of(run_summary, outcome, run="nightly 02:00", workdir=tmp_path, **more)


def test_promoted_notice_names_version_and_metric(tmp_path: Path) -> None:
    reasons = ["conversation: right answers 96.8 % against 93.8 %", "unsafe: no more"]

    (notice,) = of(tmp_path, summary(tmp_path, {"mm-policy": {"verdict": "promoted", "reasons": reasons}}))

    assert (notice.kind, notice.title) == ("promoted", "nightly 02:00: mm-policy promoted")
    assert "mm-policy version 7 is champion now" in notice.text
    assert reasons[0] in notice.text
    assert (notice.details["version"], notice.details["mlflow_run_id"]) == (7, "abc")


def test_refused_notice_names_first_reason(tmp_path: Path) -> None:
    (notice,) = of(tmp_path, summary(tmp_path, {"mm-policy": {"verdict": "refused", "reasons": ["unsafe: 12 %", "acc: fine"]}}))

    assert notice.kind == "refused"
    assert notice.text.splitlines() == [
        "mm-policy version 7 was refused; the champion stays",
        "unsafe: 12 %",
        "and 1 more findings in the report",
    ]


def test_unchanged_or_cancelled_run_causes_no_notice(tmp_path: Path) -> None:
    quiet = summary(tmp_path, {"mm-policy": {"verdict": "nothing_new", "reasons": ["version 7 is the champion already"]}})

    assert of(tmp_path, quiet) == []
    assert of(tmp_path, None, RunOutcome("cancelled", "the run was cancelled")) == []


def test_failed_notice_names_stage_and_end_of_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "align.log"
    log.parent.mkdir()
    log.write_bytes(b"first\n" + b"step\n" * 30 + b"10%|# |\r90%|######## |\n\x1b[31mloss is NaN\x1b[0m\n")

    (notice,) = of(tmp_path, None, RunOutcome("training", "stage align failed: loss is NaN", "align", "logs/align.log"))

    assert (notice.kind, notice.title) == ("failed", "nightly 02:00: stage align failed")
    lines = notice.text.splitlines()
    assert lines[:2] == ["stage align failed: loss is NaN", "Training went wrong. The run was not retried."]
    assert lines[2] == f"The last lines of {log}:"
    assert lines[-2:] == ["  90%|######## |", "  loss is NaN"]
    assert "first" not in notice.text
    assert notice.details["log"] == str(log)


@pytest.mark.parametrize(("troubles", "word"), [(["the worker was killed"], "second"), (["a", "b"], "third"), (["a"] * 4, "5th")])
def test_recovered_notice_lists_failures(tmp_path: Path, troubles: list[str], word: str) -> None:
    (notice,) = of(tmp_path, summary(tmp_path), troubles=troubles)

    assert notice.kind == "recovered"
    assert notice.text.splitlines() == [f"It succeeded at the {word} try. The failures before:", *(f"- {one}" for one in troubles)]


def test_unjudged_models_cause_notice(tmp_path: Path) -> None:
    gate = {name: {"verdict": None, "reasons": ["the registry can't be reached"]} for name in ("mm-policy", "mm-reward")}

    (notice,) = of(tmp_path, summary(tmp_path, gate))

    assert notice.title == "nightly 02:00: no model was judged"
    assert "the registry can't be reached" in notice.text


def test_failed_push_is_added_to_verdict_or_sent_by_itself(tmp_path: Path) -> None:
    promoted = summary(tmp_path, {"mm-policy": {"verdict": "promoted", "reasons": ["better"]}})

    (verdict,) = of(tmp_path, promoted, remarks=["the push failed"])
    (failure,) = of(tmp_path, summary(tmp_path), remarks=["the push failed"])

    assert verdict.text.splitlines()[-1] == "the push failed"
    assert (failure.kind, failure.text) == ("failed", "the push failed")
