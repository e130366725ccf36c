from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.files import write_json
from components.report.metrics import Change, Estimate, RunMetrics, evidence, read_answers, read_metrics
from components.report.record import read_record
from components.report.wording import MINUS
from tests.report.conftest import write_summary


@pytest.fixture
def metrics(run: Path) -> RunMetrics:
    record = read_record(Checkout(run))
    return read_metrics(record, read_answers(record))


def test_changes_compare_same_queries(metrics: RunMetrics) -> None:
    # of 30 queries base has the even ones right, aligned all but every fifth; long and short are numbers 1 and 2 of five, so all of those
    conversation = metrics.rows[0]
    assert (conversation.base.value, conversation.aligned.value, conversation.change.estimate.value) == (50, 100, 50)
    # Twelve questions are too few groups for an interval, so the page calls nothing sure.
    assert (conversation.change.estimate.low, conversation.change.estimate.high) == (None, None)
    assert conversation.change.tone == "none"
    mcq = metrics.categories[0]
    assert (mcq.name, mcq.repaired, mcq.broken, mcq.change.estimate.value) == ("mcq", 0, 3, -50)


def test_change_equals_difference_of_metrics(metrics: RunMetrics) -> None:
    for row in [*metrics.rows, *metrics.categories]:
        assert row.base.value is not None
        assert row.aligned.value is not None
        assert row.change.estimate.value == pytest.approx(row.aligned.value - row.base.value)


def test_gain_of_critiques_and_image_equals_acc_difference(metrics: RunMetrics) -> None:
    own = metrics.reward[0].acc.value
    assert own is not None
    for row in metrics.reward[1:]:
        assert row.acc.value is not None
        assert row.change.value == pytest.approx(row.acc.value - own)


def test_model_without_critiques_has_rows_of_its_own(run: Path) -> None:
    write_json(run / "artifacts/reward/run.json", {"digests": {"critique_source": "none"}})
    write_summary(run)
    record = read_record(Checkout(run))
    bare = read_metrics(record, read_answers(record))
    assert bare.critique_source == "none"
    words = "word counts of the training responses, without model and image"
    assert [row.name for row in bare.reward] == ["on the response alone", "with the image blanked", words]
    assert bare.reward[0].change.value is None
    assert bare.reward[1].change.value is not None


def test_hard_part_is_read_apart_from_the_whole(metrics: RunMetrics) -> None:
    (part,) = metrics.parts
    assert (part.name, part.queries) == ("hard", 10)
    assert part.order.acc.value == 100
    assert part.order.text.value is not None
    assert part.order.text.value < part.order.acc.value
    row = part.rows[0]
    assert row.name == "right answers, long and short"
    assert None not in (row.base.value, row.aligned.value)
    assert row.whole == metrics.rows[0].aligned


def test_policy_is_compared_with_text_on_same_pairs(metrics: RunMetrics) -> None:
    # Of three ranked responses text alone knows the middle one, which is right in one pair of three; the policy orders all.
    (_, whole), (name, hard) = metrics.orders
    assert (whole.pairs, whole.policy.value, whole.text.value) == (90, 100, pytest.approx(100 / 3))
    assert whole.gain.estimate.value == pytest.approx(200 / 3)
    assert whole.gain.tone == "good"
    assert (name, hard.pairs, hard.policy.value) == ("hard part", 30, 100)
    assert hard.gain.tone == "none", "ten queries are too few groups for an interval"


def test_corrected_metrics_stand_beside_raw_ones(metrics: RunMetrics) -> None:
    for row in metrics.rows[:-1]:
        assert row.corrected is not None
        # The sheets have no fault, so the values stay.
        assert [one.value for one in row.corrected] == pytest.approx([row.base.value, row.aligned.value])
        assert [judge.name for judge in row.judges] == ["ground truth"]
    degenerate = metrics.rows[-1]
    assert degenerate.corrected is None
    assert metrics.gaps == []
    assert [judge.name for judge in metrics.good_by] == ["ground truth", "rules"]


def test_equal_cases_have_an_interval_around_no_change(metrics: RunMetrics) -> None:
    unsafe, degenerate = metrics.rows[1], metrics.rows[4]
    assert unsafe.aligned.interval == "none of 3"
    assert (degenerate.change.estimate.interval, degenerate.change.tone) == (
        f"no query changed: {MINUS}9.0 to +9.0",
        "unclear",
    )


@pytest.mark.parametrize(
    ("value", "low", "high", "more_is_better", "tone"),
    [
        (5, 1, 9, True, "good"),
        (5, 1, 9, False, "bad"),
        (-5, -9, -1, True, "bad"),
        (-5, -9, -1, False, "good"),
        (5, -1, 9, True, "unclear"),
        (5, 0, 9, True, "unclear"),
        (5, None, None, True, "none"),
        (None, None, None, True, "none"),
    ],
)
def test_interval_apart_from_zero_sets_tone(value: Any, low: Any, high: Any, more_is_better: bool, tone: str) -> None:
    assert Change.of(Estimate(value, low, high), more_is_better=more_is_better).tone == tone


def test_change_without_answers_has_no_interval(run: Path) -> None:
    (run / "artifacts/evaluate/answers.parquet").unlink()
    record = read_record(Checkout(run))
    metrics = read_metrics(record, read_answers(record))
    change = metrics.rows[0].change
    assert (change.estimate.value, change.estimate.interval, change.tone) == (50, "", "none")
    assert evidence(metrics) is not None


def test_evidence_claims_no_more_than_metrics_show(metrics: RunMetrics) -> None:
    same, raised = Estimate(50.0, 40.0, 60.0), Estimate(52.0, 42.0, 62.0)
    first = replace(metrics.rows[0], aligned=same, change=Change(Estimate(0.0, -3.0, 3.0, sign=True), "unclear"))
    unsafe = replace(metrics.rows[1], base=same, aligned=same)
    assert evidence(replace(metrics, rows=[first, unsafe])) == (
        "Right answers stayed at 50.0 of 100; unsafe answers to harmful requests stayed at 50.0 %."
    )
    first = replace(first, aligned=raised, change=Change(Estimate(2.0, -1.0, 5.0, sign=True), "unclear"))
    sentence = evidence(replace(metrics, rows=[first, unsafe]))
    assert sentence is not None
    assert f"went from 50.0 to 52.0 of 100 (+2.0, 95 % interval {MINUS}1.0 to +5.0), which can be chance" in sentence


def test_evidence_is_one_sentence(metrics: RunMetrics) -> None:
    sentence = evidence(metrics)
    assert sentence is not None
    assert sentence.startswith("Right answers went from 50.0 to 100.0 of 100 (+50.0); ")
    assert sentence.endswith("unsafe answers to harmful requests went from 66.7 to 0.0 %.")
