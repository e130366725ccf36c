"""Who judged each metric, and the error on the judges' sheets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.evaluation.answers import SCHEMA
from components.files import read_json, write_json
from components.report.judgements import judge_table, judges_of, read_judgements
from tests.report.conftest import write_sheets

BLANK = dict.fromkeys(SCHEMA.names) | {"degenerate": False, "judge": ""}
ANSWERS: list[dict[str, Any]] = [
    *[{**BLANK, "category": "short", "right": True, "judge": "ground_truth"}] * 3,
    {**BLANK, "category": "short", "right": False, "judge": "rules"},
    {**BLANK, "category": "short"},  # nobody decided
    {**BLANK, "category": "mcq", "right": True, "judge": "rules"},
    {**BLANK, "category": "safety", "safe": False, "refused": True, "judge": "ground_truth"},
    {**BLANK, "category": "long", "hallucinated": True, "right": True, "judge": "rules"},
]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    write_sheets(tmp_path / "judges/sheets")
    (tmp_path / "artifacts/evaluate").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ANSWERS, schema=SCHEMA), tmp_path / "artifacts/evaluate/answers.parquet")
    return Checkout(tmp_path)


def counts(judges: dict[str, list[dict[str, Any]]], name: str) -> dict[str, int]:
    return {entry["judge"]: entry["answers"] for entry in judges[name]}


def test_judges_are_those_that_decided(checkout: Checkout) -> None:
    judges = read_judgements(checkout)
    assert counts(judges, "conversation") == {"ground_truth": 3, "rules": 2}
    assert counts(judges, "unsafe_rate") == {"ground_truth": 1}
    assert counts(judges, "over_refusal_rate") == {}, "a harmful request's refusal is no over-refusal"
    assert counts(judges, "hallucination_rate") == {"model": 1}, "the rules read no descriptions"
    assert counts(judges, "degenerate_rate") == {"rules": len(ANSWERS)}
    assert counts(judges, "accuracy") == {"ground_truth": 4, "rules": 3}
    assert judges["win_rate"] == judges["accuracy"]


def test_errors_are_those_of_the_sheet(checkout: Checkout) -> None:
    judge = read_judgements(checkout)["conversation"][0]
    shares = read_json(checkout.judge_sheets / "ground_truth.json")["tasks"]["right"]["overall"]
    for key in ("agreement", "sensitivity", "specificity"):
        assert judge[key] == {end: shares[key][end] for end in ("value", "low", "high")}
    assert judge["labels"] == shares["agreement"]["n"]
    assert judge["missing"] is None
    shown = judges_of({"judges": read_judgements(checkout)}, "conversation")[0]
    assert shown.error == "agrees with 100.0 % (98.4 to 100.0) of 230 labels"


def test_sheet_of_other_code_counts_as_none(checkout: Checkout) -> None:
    path = checkout.judge_sheets / "ground_truth.json"
    write_json(path, {**read_json(path), "key": "of another code"})
    judge = read_judgements(checkout)["conversation"][0]
    assert (judge["agreement"], judge["labels"]) == (None, None)
    assert "run `mmalign judge calibrate --judge ground_truth --labels FILE --save`" in judge["missing"]
    (shown, _) = judges_of({"judges": read_judgements(checkout)}, "conversation")
    assert shown.error == "error not measured"


def test_reward_model_judges_with_its_acc(checkout: Checkout) -> None:
    metrics = {
        "policy.win_rate_by_reward_model": 1,
        "policy.compared_reward_model": 8,
        "reward.acc": 0.9,
        "reward.acc_low": 0.8,
        "reward.pairs": 70,
    }
    write_json(checkout.artifact("evaluate", "metrics.json"), metrics)
    (judge,) = judges_of({"judges": read_judgements(checkout)}, "win_rate")
    assert (judge.name, judge.answers, judge.agreement.value, judge.labels) == ("reward model", 8, 90, 70)
    assert judge.error.endswith("of 70 held-out pairs of ranked responses")


@pytest.mark.parametrize("content", [b"", b"PAR1 cut", None])
def test_unreadable_answers_name_no_judges(checkout: Checkout, content: bytes | None) -> None:
    path = checkout.artifact("evaluate", "answers.parquet")
    path.unlink() if content is None else path.write_bytes(content)
    assert read_judgements(checkout) == {}
    assert judge_table({}) == judge_table({"judges": {}}) == []
