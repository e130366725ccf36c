from __future__ import annotations

from dataclasses import replace

import pytest

from components.evaluation.answers import Answered
from components.evaluation.judge import Verdict
from components.evaluation.parts import part_metrics, part_of
from components.preferences.record import Query, Response
from components.statistics import Intervals

RESPONSES = (Response("yes", 1), Response("no", 2))
QUERIES = [
    Query.single(f"q{number}", "short", "Is it?", RESPONSES, source=source)
    for number, source in enumerate(("ours", "ours; hard part", None, "ours; hard part", "ours; old part"))
]
INTERVALS = Intervals(0.9)


def answered(name: str, right: list[bool]) -> Answered:
    verdicts = [Verdict(good, None, None, None, degenerate=False) for good in right]
    return Answered(name, ["yes"] * len(right), verdicts)


@pytest.mark.parametrize(
    ("source", "part"), [("a rule; hard part", "hard"), ("hard part", None), ("a; hard part of it", None), (None, None), ("", None)]
)
def test_part_is_named_at_the_end_of_the_source(source: str | None, part: str | None) -> None:
    assert part_of(replace(QUERIES[0], source=source)) == part


def test_part_metrics_count_the_rows_of_their_part_alone() -> None:
    policies = [answered("base", [True, False, True, False, True]), answered("aligned", [False, True, False, False, True])]
    own = {(query.id, index): float(-index if query.id != "q3" else index) for query in QUERIES for index in range(2)}
    text = {(query.id, index): float(index) for query in QUERIES for index in range(2)}
    metrics = part_metrics(QUERIES, policies, own, text, INTERVALS)
    expected = {
        "part.hard.policy.base.conversation": 0.0,
        "part.hard.policy.aligned.conversation": 50.0,
        "part.hard.policy.aligned.counts.answers": 2,
        "part.hard.reward.acc": 0.5,
        "part.hard.reward.acc_text_only": 0.0,
        "part.hard.reward.pairs": 2,
        "part.old.policy.base.conversation": 100.0,
        "part.old.reward.acc": 1.0,
    }
    assert {name: metrics[name] for name in expected} == expected


def test_rows_without_parts_have_no_part_metrics() -> None:
    plain = [replace(query, source="ours") for query in QUERIES]
    assert part_metrics(plain, [answered("base", [True] * 5)], {}, {}, INTERVALS) == {}
