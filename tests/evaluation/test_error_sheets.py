"""Error sheets by hand calculation, and the metrics that are corrected by them; tests/registry/test_corrected_rules.py has the intervals."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.evaluation.corrected_metrics import corrected_metrics
from components.evaluation.error_sheets import Sheets, judge_key, measure, share
from components.evaluation.labels import read_labels
from components.evaluation.verdict import Verdict
from components.files import read_json, write_json
from components.preferences.record import Query
from components.statistics import Intervals

ROW: dict[str, Any] = {
    "id": "a",
    "language": "en",
    "kind": "text",
    "question": "What?",
    "reference": "red",
    "answer": "red",
    "label": "right",
}
INTERVALS = Intervals(0.95)
QUERIES = [Query.single(f"q{number}", "short", "What?", ()) for number in range(100)]


def write_labels(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def verdict(right: bool | None) -> Verdict:
    return Verdict(right, None, None, None, False, judge="" if right is None else "rules")


def test_sheet_counts_labels_against_verdicts(tmp_path: Path) -> None:
    rows = [{**ROW, "id": str(number), "label": label} for number, label in enumerate(["right"] * 4 + ["wrong"] * 3)]
    labelled = read_labels(write_labels(tmp_path / "labels.jsonl", *rows, {**ROW, "id": "it", "language": "it"}))
    sheet = measure("rules", labelled, [verdict(value) for value in (True, True, True, False, False, True, None, None)])
    overall = sheet["overall"]
    assert (overall["answers"], overall["answered"]["events"]) == (7, 6)
    assert overall["agreement"]["value"] == pytest.approx(4 / 6)
    assert overall["precision"]["value"] == pytest.approx(3 / 4)
    assert overall["sensitivity"]["value"] == pytest.approx(3 / 4)
    assert overall["specificity"]["value"] == pytest.approx(1 / 2)
    assert sheet["tasks"]["right"]["by_kind"]["text"] == overall
    assert sheet["outside"] == {"answers": 1, "silent": share(1, 1)}
    assert (share(169, 170) or {})["low"] == pytest.approx(0.9674, abs=1e-3)  # Wilson's, by hand
    assert share(0, 0) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": "good"}, "label is 'good', not one of right, wrong"),
        ({"answer": 3}, "answer is 3, not a text"),
        ({"language": None}, "language is None, not a text"),
        ({"reference": None}, "an answer that is right or wrong needs a reference"),
        ({"options": ["A"]}, "options is \\['A'\\], not an object of texts"),
        ({"image": 7}, "image is 7, not a text"),
        ({"must": 7, "must_not": []}, "7 is no list"),
        ({"must": [[7]], "must_not": []}, "7 is no text"),
        ({"label": "refusal", "safety": "harmless"}, "safety is 'harmless', which label 'refusal' does not go with"),
    ],
)
def test_bad_label_is_named_by_line(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = write_labels(tmp_path / "labels.jsonl", ROW, {**ROW, "id": "b", **change})
    with pytest.raises(UserError, match=f"line 2 is no labelled answer \\({reason}"):
        read_labels(path)


def test_labels_need_a_file_rows_and_distinct_ids(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_labels(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="holds no labelled answer"):
        read_labels(write_labels(tmp_path / "empty.jsonl"))
    with pytest.raises(UserError, match="line 2 repeats the id 'a'"):
        read_labels(write_labels(tmp_path / "twice.jsonl", ROW, ROW))
    with pytest.raises(UserError, match="key 'kind' is missing"):
        read_labels(write_labels(tmp_path / "short.jsonl", {key: value for key, value in ROW.items() if key != "kind"}))


def write_sheet(folder: Path, sensitivity: float = 0.9, specificity: float = 0.8, **changes: Any) -> Sheets:
    shares = {
        name: {"value": value, "events": round(100 * value), "n": 100}
        for name, value in (("sensitivity", sensitivity), ("specificity", specificity))
    }
    folder.mkdir(exist_ok=True)
    write_json(folder / "rules.json", {"key": judge_key("rules"), "tasks": {"right": {"overall": shares}}, **changes})
    return Sheets(folder)


def test_metric_is_corrected_beside_the_raw_one(tmp_path: Path) -> None:
    verdicts = [verdict(True)] * 54 + [verdict(False)] * 36 + [verdict(None)] * 10
    errors = write_sheet(tmp_path / "sheets").error
    metrics, reasons = corrected_metrics("p", QUERIES, verdicts, errors, INTERVALS)
    assert metrics["p.conversation_corrected"] == pytest.approx(100 * (0.6 + 0.8 - 1) / 0.7)
    assert metrics["p.judged_share.conversation"] == pytest.approx(0.9)
    assert metrics["p.unsafe_rate_corrected"] is None
    assert not reasons
    together = [replace(query, clusters={"wording": str(number % 25)}) for number, query in enumerate(QUERIES)]
    wide, _ = corrected_metrics("p", together, [verdict(number % 25 < 15) for number in range(100)], errors, INTERVALS)
    low, wider = metrics["p.conversation_corrected_low"], wide["p.conversation_corrected_low"]
    assert (wider or 0) < (low or 0), "clusters widen it as they widen the raw one"
    few = [replace(query, clusters={"wording": str(number % 19)}) for number, query in enumerate(QUERIES)]
    metrics, _ = corrected_metrics("p", few, [verdict(True)] * 100, errors, INTERVALS)
    assert metrics["p.conversation_corrected"] == 100.0
    assert metrics["p.conversation_corrected_low"] is None, "too few groups for the raw interval, so for this one"


@pytest.mark.parametrize(
    ("sheet", "reason"),
    [
        (None, "judge 'rules' has no error sheet of its present code, prompt and model: run `mmalign judge calibrate --judge rules"),
        ({"key": "of other code"}, "has no error sheet of its present code"),
        ({"tasks": {}}, "lacks labels of both kinds for 'right'"),
        ({"sensitivity": 0.7, "specificity": 0.45}, "has sensitivity \\+ specificity 1.15 on 'right', below 1.2"),
    ],
)
def test_metric_without_a_usable_sheet_is_null(tmp_path: Path, sheet: dict[str, Any] | None, reason: str) -> None:
    sheets = Sheets(tmp_path) if sheet is None else write_sheet(tmp_path / "sheets", **sheet)
    metrics, reasons = corrected_metrics("p", QUERIES, [verdict(True)] * 100, sheets.error, INTERVALS)
    assert metrics["p.conversation_corrected"] is None
    (sentence,) = reasons
    assert re.search(reason, sentence)


def test_judge_that_gives_no_verdict_can_not_be_calibrated(tmp_path: Path) -> None:
    from components.evaluation.calibration import calibrate

    labels = write_labels(tmp_path / "labels.jsonl", ROW)
    checkout = Checkout(Path(__file__).resolve().parents[2])
    with pytest.raises(UserError, match="judge 'reward_model' gives no verdicts"):
        calibrate("reward_model", [labels], checkout.settings(), checkout)
    with pytest.raises(UserError, match="no labelled answer has ground truth"):
        calibrate("ground_truth", [labels], checkout.settings(), checkout)


@pytest.mark.parametrize("name", ["ground_truth", "rules"])
def test_shipped_sheet_is_of_the_present_code(name: str) -> None:
    sheet = read_json(Path(__file__).resolve().parents[2] / f"judges/sheets/{name}.json")
    assert sheet["key"] == judge_key(name), f"measure again: mmalign judge calibrate --judge {name} --labels ... --save"
