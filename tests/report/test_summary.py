from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from components.files import write_json
from components.report.summary import RunRecord, StageRecord, summarize
from components.report.table import render
from components.stages import STAGE_NAMES

EVALUATED = {
    "reward.acc": 0.875,
    "reward.pairs": 4000,
    "policy.base.conversation": 50.0,
    "policy.aligned.conversation": 90.0,
    "policy.base.unsafe_rate": 0.75,
    "policy.aligned.unsafe_rate": 0.25,
    "policy.aligned.accuracy.mcq": 0.625,
    "policy.base.accuracy.mcq": 0.625,
    "policy.aligned.counts.harmful": 210,
    "policy.win_rate": 0.7,
    "policy.win_rate_low": 0.68,
    "policy.win_rate_high": 0.72,
    "policy.preference_accuracy": None,
}


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    for name in STAGE_NAMES:
        write_json(tmp_path / name / "run.json", {"mlflow_run_id": f"run of {name}"})
    write_json(tmp_path / "validate/metrics.json", {"queries": 1500, "heldout_queries": 900, "ties": 7})
    write_json(tmp_path / "align/metrics.json", {"beta.min": 0.1, "beta.mean": 0.12, "beta.max": 0.15, "beta.share_at_cap": None})
    write_json(tmp_path / "evaluate/metrics.json", EVALUATED)
    return tmp_path


def record(status: Any = "ok", **stages: StageRecord) -> RunRecord:
    return RunRecord(status, {**{name: StageRecord("skipped") for name in STAGE_NAMES}, **stages}, seconds=61.04, data_version="v1")


def keys(value: Any, prefix: str = "") -> set[str]:
    if not isinstance(value, dict):
        return {prefix}
    return set().union(*(keys(inner, f"{prefix}.{name}") for name, inner in value.items()))


def test_summary_puts_metrics_under_their_keys(artifacts: Path) -> None:
    summary = summarize(record(align=StageRecord("ran", 12.34)), artifacts)
    assert summary["reward"]["acc"] == 0.875
    assert summary["policy"]["aligned"]["accuracy"]["mcq"] == 0.625
    assert summary["policy"]["aligned"]["counts"]["harmful"] == 210
    assert summary["policy"]["win_rate_high"] == 0.72
    assert summary["data"] == {
        "queries": 1500, "heldout_queries": 900, "responses": None, "pairs": None, "ties": 7, "quarantined": None, "version": "v1",
        "leaked_queries": None, "leaked_share": None, "near_duplicates": None, "shared_wordings": None,
    }  # fmt: skip
    assert summary["beta"]["max"] == 0.15
    assert summary["stages"]["align"] == {"status": "ran", "seconds": 12.3, "mlflow_run_id": "run of align"}
    assert summary["seconds"] == 61.0


def test_summary_has_every_key_after_any_end(artifacts: Path, tmp_path: Path) -> None:
    full = summarize(record(), artifacts)
    empty = summarize(RunRecord("running", stages={}), tmp_path / "nothing")
    assert keys(full) == keys(empty)
    assert empty["policy"]["base"]["accuracy"].keys() == {"mcq", "long", "short", "safety", "video"}
    assert {stage["status"] for stage in empty["stages"].values()} == {"not_reached"}


def test_summary_and_table_show_parts_apart(artifacts: Path) -> None:
    assert summarize(record(), artifacts)["parts"] == {}
    hard = {"policy.aligned.conversation": 40.0, "policy.base.conversation": 30.0, "reward.acc": 0.75, "reward.acc_text_only": 0.6}
    write_json(artifacts / "evaluate/metrics.json", {**EVALUATED, **{f"part.hard.{key}": value for key, value in hard.items()}})
    summary = summarize(record(), artifacts)
    assert summary["parts"]["hard"]["policy"]["aligned"]["conversation"] == 40.0
    assert summary["parts"]["hard"]["reward"]["acc_text_only"] == 0.6
    assert summary["reward"]["acc"] == 0.875
    stream = io.StringIO()
    Console(file=stream, width=300).print(render(summary))
    assert "right answers, long and short (of 100) 30.0 to 40.0" in stream.getvalue()
    assert "ACC 75.0 %, text alone 60.0 %" in stream.getvalue()


def test_metrics_of_unreached_stage_are_null(artifacts: Path) -> None:
    summary = summarize(record("failed", align=StageRecord("failed", 3), evaluate=StageRecord("not_reached")), artifacts)
    assert set(summary["beta"].values()) == {None}
    assert summary["policy"]["win_rate"] is None
    assert summary["stages"]["evaluate"]["mlflow_run_id"] is None
    assert summary["data"]["queries"] == 1500
    assert {"failed_stage", "log"} <= summary.keys()


def shown(summary: dict[str, Any]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160).print(render(summary))
    return stream.getvalue()


def row(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line.removeprefix(start).split()


def test_table_shows_base_aligned_and_change(artifacts: Path) -> None:
    text = shown(summarize(record(align=StageRecord("ran", 75)), artifacts))
    assert row(text, "align ") == ["ran", "1", "min", "15", "s"]
    assert row(text, "right answers, long and short (of 100)") == ["50.0", "90.0", "+40.0"]
    assert row(text, "unsafe answers to harmful requests") == ["75.0", "%", "25.0", "%", "-50.0"]
    assert row(text, "accuracy, mcq") == ["62.5", "%", "62.5", "%", "="]
    assert "wins 70.0 % (68.0 to 72.0)" in text
    assert "align ran in 1 min 01 s" in text


def test_missing_metric_is_dash(artifacts: Path) -> None:
    text = shown(summarize(record(), artifacts))
    assert row(text, "hallucinated descriptions") == ["–", "–", "–"]


def test_choice_of_critiques_stands_in_summary_and_table(artifacts: Path) -> None:
    assert summarize(record(), artifacts)["reward"]["critique_source"] is None, "an earlier version's stage did not record it"
    write_json(artifacts / "reward/run.json", {"digests": {"critique_source": "mixed"}})
    mixed = summarize(record(), artifacts)
    assert mixed["reward"]["critique_source"] == "mixed"
    assert "given critiques" in shown(mixed)
    write_json(artifacts / "reward/run.json", {"digests": {"critique_source": "none"}})
    text = " ".join(shown(summarize(record(), artifacts)).split())
    assert "trained and scored without critiques; blank image" in text
    assert "given critiques" not in text
    assert summarize(record("failed", reward=StageRecord("failed", 5)), artifacts)["reward"]["critique_source"] is None


def test_table_shows_judges_corrected_metrics_and_looks(artifacts: Path) -> None:
    more = {"policy.preference_accuracy": 0.9, "policy.preference_accuracy_low": 0.88, "policy.preference_accuracy_high": 0.92}
    corrected = {f"policy.{model}.unsafe_rate_corrected{end}": 0.3 for model in ("base", "aligned") for end in ("", "_low", "_high")}
    text_only = {"reward.acc_text_only": 0.6, "reward.acc_text_only_low": 0.55, "reward.acc_text_only_high": 0.65}
    write_json(artifacts / "evaluate/metrics.json", {**EVALUATED, **more, **corrected, **text_only, "policy.win_rate_by_reward_model": 1})
    agreement = {"value": 0.95, "low": 0.9, "high": 0.98}
    entry = {
        "judge": "rules",
        "answers": 80,
        "agreement": agreement,
        "sensitivity": None,
        "specificity": None,
        "labels": 200,
        "missing": None,
    }
    run = record()
    reuse = {"look": 2, "spends": 0.01, "left": 0.0167, "unsafe": {"sees": 0.096, "margin": 0.05}}
    run.verdicts = {"gate": {"mm-policy": {"verdict": "promoted", "reasons": ["better"], "rules": [], "reuse": reuse}}}
    summary = summarize(run, artifacts, {"accuracy": [entry]})
    assert summary["policy"]["aligned"]["unsafe_rate_corrected_high"] == 0.3
    assert summary["judges"]["accuracy"] == [entry]
    assert summary["judges"]["win_rate"] == []
    text = " ".join(shown(summary).split())
    assert "rules, 80 answers, agrees with 95.0 % (90.0 to 98.0) of 200 labels" in text
    assert "unsafe answers to harmful requests 30.0 % to 30.0 % (30.0 to 30.0)" in text
    assert "90.0 % (88.0 to 92.0), text alone 60.0 % (55.0 to 65.0)" in text
    assert "judged by the reward model, on whose scores it was trained" in text
    assert "look 2 at these held-out rows, 1.7 % of error left; a loss of safety shows from 9.6 points on, 5.0 are allowed" in text


def test_failed_run_names_stage_and_log(artifacts: Path) -> None:
    failed = record("failed", reward=StageRecord("failed", 5), critique=StageRecord("not_reached"), evaluate=StageRecord("not_reached"))
    failed.failed_stage, failed.log = "reward", "logs/x/reward.log"
    text = shown(summarize(failed, artifacts))
    assert "stage reward failed after 1 min 01 s; its log: logs/x/reward.log" in text
    assert "not reached" in text
    assert "right answers" not in text
