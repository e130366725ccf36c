from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.evaluation.error_sheets import judge_key
from components.files import write_json
from components.operations.preconditions.gate_rules import gate_rules
from tests.operations.preconditions.conftest import Situated


def write_rows(checkout: Path, *, harmful: int, harmless: int, described: int, labeled: bool = True, heldout: bool = True) -> None:
    """Held-out rows of each kind, with two ranked responses each, and facts for those without a request's safety."""
    rows: list[dict[str, Any]] = []
    kinds = [("safety", "harmful", harmful), ("safety", "harmless", harmless), ("long", None, described)]
    for category, safety, count in kinds:
        for number in range(count):
            row = {
                "id": f"{category}-{safety}-{number}",
                "question": f"What is shown in picture {number}?",
                "category": category,
                "answer": None,
            }
            row |= {"models_output": ["a", "b"], "final_ranking": [1, 2], "image": f"{category}.png" if category == "long" else ""}
            rows.append({**row, **({"safety": safety} if safety else {})})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    folder = Checkout(checkout).preferences
    (folder / "data.jsonl").write_text(lines)
    (folder / "heldout.jsonl").unlink()
    if heldout:
        (folder / "heldout.jsonl").write_text(lines)
    labels = [{"id": row["id"], "must": [["a"]], "must_not": ["b"]} for row in rows if labeled and "safety" not in row]
    Checkout(checkout).ground_truth.write_text("".join(json.dumps(label) + "\n" for label in labels))


def test_enough_rows_feed_every_rule(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, harmful=100, harmless=50, described=50)
    finding = gate_rules(situated())
    assert (finding.state, finding.text) == (
        "ok",
        "200 held-out rows feed the rules of mlflow/registry.yaml: conversation, unsafe, unsafe_ceiling, over_refusal, hallucination, degenerate, "
        "categories, preference_accuracy apply",
    )


def test_rules_without_enough_rows_are_named(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, harmful=20, harmless=0, described=200)
    finding = gate_rules(situated())
    assert finding.state == "warning"
    starving = [part.partition(":")[0] for part in finding.text.partition("even a perfect model: ")[2].split("; mm-")]
    assert starving == ["mm-policy.unsafe", "policy.unsafe_ceiling"]
    assert finding.cure == "do so before the run, or switch rules off there with a reason; no change of the rules retrains a model"
    assert "unsafe answers: 20 held-out queries are too few, the rule needs 54 of them: add held-out rows of this kind" in finding.text
    assert "no row feeds over_refusal" in finding.text


def test_rules_that_ranks_alone_feed_are_named_before_the_run(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, harmful=0, harmless=0, described=200, labeled=False)
    finding = gate_rules(situated())
    assert finding.state == "warning"
    assert finding.text == (
        "200 held-out rows: degenerate, preference_accuracy, ranks, win_rate apply; no row feeds conversation, unsafe, unsafe_ceiling, over_refusal, "
        "hallucination, categories; a verdict would say nothing of safety; the gate (mlflow/registry.yaml) would refuse even a perfect model: "
        "mm-policy.safety: WITHOUT EVIDENCE ON SAFETY: nothing says whether the model is safe: mark harmful requests among the held-out rows "
        '(`"safety": "harmful"`); or set allow_unmeasured_safety: "reason" in mlflow/registry.yaml'
    )
    assert finding.cure == "do so before the run; no change of the rules retrains a model"
    (checkout / "mlflow/registry.yaml").write_text('allow_unmeasured_safety: "no request can harm"\n')
    assert gate_rules(situated()).state == "ok"


def test_model_judge_feeds_rules_once_it_has_a_sheet(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, harmful=0, harmless=0, described=200, labeled=False)
    by_model = {
        "evaluate.judges": ["rules", "model", "reward_model"],
        "endpoint.judge.model": "m",
        "endpoint.judge.url": "http://127.0.0.1:9/v1",
    }
    finding = gate_rules(situated(by_model))
    assert finding.details is not None
    assert "run `mmalign judge calibrate --judge model --labels FILE --save`" in finding.details["refusing"]["mm-policy.conversation"]
    assert "mm-policy.conversation, mm-policy.hallucination, mm-policy.win_rate: judge 'model' has no error sheet" in finding.text
    shares = {name: {"value": 1.0, "events": 100, "n": 100} for name in ("sensitivity", "specificity")}
    tasks = {task: {"overall": shares} for task in ("right", "hallucinated")}
    write_json(Checkout(checkout).judge_sheets / "model.json", {"key": judge_key("model", "m"), "tasks": tasks})
    details = gate_rules(situated(by_model)).details
    assert details is not None
    assert details["apply"] == ["conversation", "hallucination", "degenerate", "preference_accuracy", "ranks", "win_rate"]
    assert details["unfed"] == ["unsafe", "unsafe_ceiling", "over_refusal", "categories"]
    assert (list(details["refusing"]), details["measures_safety"]) == (["mm-policy.safety"], False)


def test_fresh_rows_feed_rules_of_their_own(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, harmful=100, harmless=50, described=50)
    finding = gate_rules(situated({"evaluate.fresh_share": 0.3}))
    assert finding.state == "warning"
    assert re.match(r"200 held-out rows \(\d\d of them fresh\): conversation, unsafe,", finding.text)
    assert finding.details is not None
    assert "mm-policy.unsafe on fresh rows" in finding.details["refusing"]
    assert "too few" in finding.details["refusing"]["mm-policy.unsafe on fresh rows"]
    write_rows(checkout, harmful=400, harmless=200, described=200)
    assert gate_rules(situated({"evaluate.fresh_share": 0.3})).state == "ok"


def test_ties_alone_feed_no_rule_of_the_reward_model(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, harmful=0, harmless=0, described=200, labeled=False)
    text = Checkout(checkout).preferences / "heldout.jsonl"
    text.write_text(text.read_text().replace("[1, 2]", "[1, 1]"))
    details = gate_rules(situated()).details
    assert details is not None
    assert details["apply"] == ["degenerate", "win_rate"]
    assert details["refusing"]["mm-reward"].endswith("lacks held-out rows: add held-out rows whose responses differ in rank")


def test_few_wordings_are_named_before_the_run(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, harmful=100, harmless=50, described=100)
    text = Checkout(checkout).preferences / "heldout.jsonl"
    text.write_text(re.sub(r"in picture \d+", "here", text.read_text()))
    assert "mm-policy.conversation: right answers: 100 held-out queries in 1 groups say too little" in gate_rules(situated()).text


def test_share_that_validation_splits_off_is_judged(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, harmful=500, harmless=250, described=250, heldout=False)
    assert gate_rules(situated()).text.startswith(
        "the 200 or so rows that validation would hold out feed the rules of mlflow/registry.yaml: "
    )
    assert gate_rules(situated({"validate.heldout_share": 0.02})).state == "warning"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"id": "q"}\n', r"truth.jsonl line 1 is no fact"),
        ('{"id": "\xe9"}'.encode("latin-1"), r"truth.jsonl line 1 is no fact (the row is not UTF-8: byte 9 is 0xe9)"),
    ],
)
def test_unreadable_facts_are_a_problem_before_training(situated: Situated, checkout: Path, content: bytes, sentence: str) -> None:
    (checkout / "data/truth/truth.jsonl").write_bytes(content)
    finding = gate_rules(situated())
    assert finding.state == "problem"
    assert sentence in finding.text
    assert gate_rules(situated(stages=("reward",))).state == "ok"
