from __future__ import annotations

from components.evaluation.judge import Verdict
from components.evaluation.metrics import (
    balanced_accuracy,
    order_pairs,
    policy_metrics,
    preference_metrics,
    reward_metrics,
    win_metrics,
)
from components.preferences.record import Category, Medium, Query, Response
from components.statistics import Intervals

INTERVALS = Intervals(0.95)


def query(name: str, ranks: tuple[int, ...], category: Category = "short", safety: str | None = None) -> Query:
    responses = tuple(Response(str(index), rank) for index, rank in enumerate(ranks))
    return Query.single(name, category, "?", responses, Medium("a.png", "image"), safety=safety)  # type: ignore[arg-type]


def test_a_tie_in_scores_counts_as_wrong_and_apart() -> None:
    scores = {0: 1.0, 1: 1.0, 2: 0.5}
    outcome = order_pairs(query("a", (1, 2, 3)), scores.__getitem__)
    assert (outcome.pairs, outcome.correct, outcome.tied) == (3, 2, 1)


def test_acc_counts_pairs_and_acc_plus_counts_queries() -> None:
    queries = [query("a", (1, 2, 3)), query("b", (2, 1), "mcq"), query("c", (1, 1))]
    scores = {("a", 0): 3.0, ("a", 1): 1.0, ("a", 2): 2.0, ("b", 0): 0.0, ("b", 1): 1.0, ("c", 0): 1.0, ("c", 1): 2.0}
    metrics = reward_metrics(queries, scores, INTERVALS)
    assert metrics["reward.acc"] == 3 / 4
    assert metrics["reward.acc_plus"] == 1 / 2
    assert (metrics["reward.pairs"], metrics["reward.queries"], metrics["reward.score_ties"]) == (4, 2, 0)
    assert (metrics["reward.category_acc.short"], metrics["reward.category_acc.mcq"]) == (2 / 3, 1.0)
    assert metrics["reward.category_acc.video"] is None
    assert metrics["reward.macro_acc"] == (2 / 3 + 1) / 2


def test_preference_accuracy_compares_implicit_reward_with_rank() -> None:
    queries = [query("a", (1, 2)), query("b", (2, 1))]
    implicit = {("a", 0): 0.5, ("a", 1): -0.5, ("b", 0): 0.2, ("b", 1): 0.1}
    assert preference_metrics(queries, implicit, INTERVALS)["policy.preference_accuracy"] == 0.5


def verdict(right: bool | None = None, safe: bool | None = None, refused: bool | None = None, hallucinated: bool | None = None) -> Verdict:
    return Verdict(right, safe, refused, hallucinated, degenerate=False)


def test_policy_metrics_count_what_they_name() -> None:
    queries = [
        query("l", (1, 2), "long"),
        query("s", (1, 2), "short"),
        query("m", (1, 2), "mcq"),
        query("h", (1, 2), "safety", "harmful"),
        query("i", (1, 2), "safety", "harmful"),
        query("k", (1, 2), "safety", "harmless"),
    ]
    verdicts = [
        verdict(right=True, hallucinated=False),
        verdict(right=False),
        verdict(right=True),
        verdict(safe=True, refused=True),
        verdict(safe=False, refused=False),
        verdict(right=False, refused=True),
    ]
    metrics = policy_metrics("policy.base", queries, verdicts, ["a b", "a", "a", "a", "a", "a"], INTERVALS)
    assert metrics["policy.base.conversation"] == 50
    assert metrics["policy.base.unsafe_rate"] == 0.5
    assert metrics["policy.base.over_refusal_rate"] == 1
    assert metrics["policy.base.hallucination_rate"] == 0
    assert metrics["policy.base.degenerate_rate"] == 0
    assert metrics["policy.base.accuracy.safety"] == 1 / 3
    assert metrics["policy.base.accuracy.video"] is None
    counts = {key.rsplit(".", 1)[1]: value for key, value in metrics.items() if ".counts." in key}
    expected = {"conversation": 2, "harmful": 2, "harmless": 1, "descriptions": 1, "answers": 6}
    assert counts == expected | {"long": 1, "short": 1, "mcq": 1, "safety": 3, "video": 0}
    assert metrics["policy.base.mean_words.long"] == 2


def test_win_counts_one_tie_half_and_unjudged_query_nothing() -> None:
    base = [verdict(right=False), verdict(right=True), verdict(right=True), verdict(safe=False), verdict(), verdict(right=True)]
    aligned = [
        verdict(right=True),
        verdict(right=False),
        verdict(right=True),
        verdict(safe=True),
        verdict(right=True),
        verdict(right=False),
    ]
    queries = [query(str(number), (1, 2)) for number in range(6)]
    metrics = win_metrics(queries, [True, True, True, True, True, False], base, aligned, INTERVALS)
    assert metrics["policy.win_rate"] == (1 + 0 + 0.5 + 1) / 4
    assert metrics["policy.compared"] == 4


def test_balanced_accuracy_weighs_kinds_alike_and_misses_unread() -> None:
    expected = [True, *[False] * 9]
    assert balanced_accuracy([False] * 10, expected) == 0.5
    assert balanced_accuracy([True, *[False] * 9], expected) == 1
    assert balanced_accuracy([None, *[False] * 9], expected) == 0.5
    assert balanced_accuracy([True], [True]) is None
