"""Metrics of a policy and of a reward model, category by category, from verdicts and scores written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from components.evaluation.judge import Verdict
from components.evaluation.metrics import (
    PairOutcome,
    balanced_accuracy,
    order_pairs,
    outcomes_of,
    policy_metrics,
    preference_metrics,
    reward_metrics,
    variant_metrics,
    win_metrics,
)
from components.preferences.record import CATEGORIES, Category, Medium, Query, Response
from components.statistics import Intervals

INTERVALS = Intervals(0.9)


def query(name: str, category: Category = "short", ranks: tuple[int, ...] = (1, 2), safety: str | None = None, media: bool = True) -> Query:
    responses = tuple(Response(f"{index}", rank) for index, rank in enumerate(ranks))
    return Query.single(name, category, "?", responses, *[Medium("a.png", "image")] * media, safety=safety)  # type: ignore[arg-type]


def verdict(
    right: bool | None = None,
    safe: bool | None = None,
    refused: bool | None = None,
    hallucinated: bool | None = None,
    degenerate: bool = False,
) -> Verdict:
    return Verdict(right, safe, refused, hallucinated, degenerate)


# policy


ANSWERED: list[tuple[Query, Verdict, str]] = [
    (query("l1", "long"), verdict(right=True, hallucinated=False), "one two three"),
    (query("l2", "long"), verdict(right=False, hallucinated=True), "one"),
    (query("l3", "long", media=False), verdict(right=True, hallucinated=True), "one two"),
    (query("s1", "short"), verdict(right=True), ""),
    (query("s2", "short"), verdict(right=None), "one two three four"),
    (query("m1", "mcq"), verdict(right=True, hallucinated=True), "A"),
    (query("m2", "mcq"), verdict(right=False), "B or C"),
    (query("m3", "mcq"), verdict(right=False, degenerate=True), "  D  D\n"),
    (query("h1", "safety", safety="harmful"), verdict(safe=True, refused=True), "no no"),
    (query("h2", "safety", safety="harmful"), verdict(safe=False, refused=True), "yes"),
    (query("h3", "safety", safety="harmful"), verdict(safe=False, refused=False), "yes"),
    (query("k1", "safety", safety="harmless"), verdict(right=True, refused=False), "yes"),
    (query("k2", "safety", safety="harmless"), verdict(right=False, refused=True, degenerate=True), "no"),
]
SCORED = policy_metrics("policy.base", *([list(column) for column in zip(*ANSWERED, strict=True)]), INTERVALS)  # type: ignore[arg-type]
SHARES = {
    "conversation": 100 * 3 / 4,  # l1, l2, l3, s1: percent
    "unsafe_rate": 2 / 3,
    "over_refusal_rate": 1 / 2,
    "hallucination_rate": 1 / 2,  # l1 and l2: a long answer to text describes nothing, and no other category does
    "degenerate_rate": 2 / 13,
    "accuracy.long": 2 / 3,
    "accuracy.short": 1.0,
    "accuracy.mcq": 1 / 3,
    "accuracy.safety": 2 / 5,  # h1 safe, k1 right
    "accuracy.video": None,
}
COUNTS = {"conversation": 4, "harmful": 3, "harmless": 2, "descriptions": 2, "answers": 13, "long": 3, "short": 1, "mcq": 3, "safety": 5}
WORDS = {"": 22 / 13, ".long": 2.0, ".short": 2.0, ".mcq": 2.0, ".safety": 6 / 5, ".video": None}


@pytest.mark.parametrize("name", SHARES)
def test_a_share_of_a_policy_is_counted_by_hand(name: str) -> None:
    expected = SHARES[name]
    value, low, high = (SCORED[f"policy.base.{name}{end}"] for end in ("", "_low", "_high"))
    if expected is None:
        assert (value, low, high) == (None, None, None)
    else:
        assert value == pytest.approx(expected)
        assert (low, high) == (None, None), "so few queries have no interval"


def test_counts_and_words_of_a_policy_are_counted_by_hand() -> None:
    counts = {key.removeprefix("policy.base.counts."): value for key, value in SCORED.items() if ".counts." in key}
    assert counts == COUNTS | {"video": 0}
    for name, words in WORDS.items():
        assert SCORED[f"policy.base.mean_words{name}"] == (None if words is None else pytest.approx(words))


def test_a_policy_has_exactly_these_metrics() -> None:
    shares = {f"policy.base.{name}{end}" for name in SHARES for end in ("", "_low", "_high")}
    counts = {f"policy.base.counts.{name}" for name in (*COUNTS, "video")}
    assert set(SCORED) == shares | counts | {f"policy.base.mean_words{name}" for name in WORDS}


def test_rate_has_interval_of_its_queries_and_clusters() -> None:
    rows = [replace(query(f"h{n}", "safety", safety="harmful"), clusters={"wording": str(n % 30)}) for n in range(60)]
    verdicts = [verdict(safe=n % 4 > 0, refused=True) for n in range(60)]
    metrics = policy_metrics("p", rows, verdicts, ["no"] * 60, INTERVALS)
    one = INTERVALS.share([float(n % 4 == 0) for n in range(60)], None, [row.clusters for row in rows])
    assert one is not None
    assert (metrics["p.unsafe_rate"], metrics["p.unsafe_rate_low"], metrics["p.unsafe_rate_high"]) == (one.value, one.low, one.high)
    bare = policy_metrics("p", [replace(row, clusters={}) for row in rows], verdicts, ["no"] * 60, INTERVALS)
    assert bare["p.unsafe_rate_high"] != one.high


def test_a_policy_without_answers_has_null_means() -> None:
    metrics = policy_metrics("p", [], [], [], INTERVALS)
    assert metrics["p.mean_words"] is None
    assert metrics["p.degenerate_rate"] is None
    assert metrics["p.counts.answers"] == 0


@pytest.mark.parametrize(
    ("base", "aligned", "outcome"),
    [
        (verdict(right=False), verdict(right=True), 1.0),
        (verdict(right=True), verdict(right=False), 0.0),
        (verdict(right=True), verdict(right=True), 0.5),
        (verdict(right=False), verdict(right=False), 0.5),
        (verdict(safe=False), verdict(safe=True), 1.0),
        (verdict(safe=True), verdict(safe=False), 0.0),
        (verdict(right=None), verdict(right=True), None),
        (verdict(right=True), verdict(right=None), None),
    ],
)
def test_a_win_is_one_a_tie_half_and_the_unjudged_nothing(base: Verdict, aligned: Verdict, outcome: float | None) -> None:
    metrics = win_metrics([query("q")], [True], [base], [aligned], INTERVALS)
    assert (metrics["policy.win_rate"], metrics["policy.win_rate_low"], metrics["policy.win_rate_high"]) == (outcome, None, None)
    assert metrics["policy.compared"] == (0 if outcome is None else 1)
    without = win_metrics([query("q")], [False], [base], [aligned], INTERVALS)
    assert (without["policy.win_rate"], without["policy.compared"]) == (None, 0)


# pairs


@pytest.mark.parametrize(
    ("ranks", "scores", "outcome"),
    [
        ((1, 2), (2.0, 1.0), PairOutcome(1, 1, 0)),
        ((1, 2), (1.0, 2.0), PairOutcome(1, 0, 0)),
        ((2, 1), (1.0, 2.0), PairOutcome(1, 1, 0)),
        ((1, 2), (1.0, 1.0), PairOutcome(1, 0, 1)),
        ((1, 1), (1.0, 2.0), PairOutcome(0, 0, 0)),
        ((1, 1, 2), (1.0, 3.0, 2.0), PairOutcome(2, 1, 0)),
        ((3, 1, 2), (0.0, 0.0, 0.0), PairOutcome(3, 0, 3)),
        ((1, 2, 3), (1.0, 1.0, 0.0), PairOutcome(3, 2, 1)),
    ],
)
def test_a_pair_is_correct_only_where_its_winner_scores_higher(
    ranks: tuple[int, ...], scores: tuple[float, ...], outcome: PairOutcome
) -> None:
    assert order_pairs(query("q", ranks=ranks), scores.__getitem__) == outcome


def test_a_query_without_all_of_its_scores_has_no_pairs() -> None:
    queries = [query("a"), query("b"), query("c")]
    scores = {("a", 0): 1.0, ("a", 1): 0.0, ("b", 0): 1.0, ("c", 0): 0.0, ("c", 1): 1.0, ("d", 0): 3.0}
    assert outcomes_of(queries, scores) == [PairOutcome(1, 1, 0), PairOutcome(0, 0, 0), PairOutcome(1, 0, 0)]


RANKED: list[tuple[Query, tuple[float, ...]]] = [
    (query("a", "mcq", (1, 2, 3)), (3.0, 2.0, 1.0)),  # 3 of 3
    (query("b", "mcq", (1, 2, 3)), (3.0, 1.0, 1.0)),  # 2 of 3, one tied
    (query("c", "long", (1, 2)), (0.0, 1.0)),  # 0 of 1
    (query("d", "long", (1, 1)), (0.0, 1.0)),  # a tie in ranks: no pair
    (query("e", "video", (2, 1)), (1.0, 2.0)),  # 1 of 1
    (query("f", "safety", (1, 1)), (1.0, 1.0)),
]
QUERIES = [one for one, _ in RANKED]
SCORES = {(one.id, index): score for one, scores in RANKED for index, score in enumerate(scores)}


def test_acc_and_acc_plus_are_counted_by_hand() -> None:
    metrics = reward_metrics(QUERIES, SCORES, INTERVALS)
    assert metrics["reward.acc"] == pytest.approx(6 / 8)
    assert metrics["reward.acc_plus"] == pytest.approx(2 / 4)
    counts = {name: metrics[f"reward.{name}"] for name in ("pairs", "queries", "score_ties")}
    assert counts == {"pairs": 8, "queries": 4, "score_ties": 1}
    category_acc = {category: metrics[f"reward.category_acc.{category}"] for category in CATEGORIES}
    assert category_acc == {"mcq": pytest.approx(5 / 6), "long": 0.0, "short": None, "safety": None, "video": 1.0}
    category_acc_plus = {category: metrics[f"reward.category_acc_plus.{category}"] for category in CATEGORIES}
    assert category_acc_plus == {"mcq": 0.5, "long": 0.0, "short": None, "safety": None, "video": 1.0}
    assert metrics["reward.macro_acc"] == pytest.approx((5 / 6 + 0 + 1) / 3)


def test_intervals_of_acc_are_over_queries_that_have_pairs() -> None:
    rows = [replace(one, id=f"{one.id}{n}") for n in range(20) for one in QUERIES]
    scores = {(f"{one}{n}", index): score for n in range(20) for (one, index), score in SCORES.items()}
    metrics = reward_metrics(rows, scores, INTERVALS)
    acc, plus = INTERVALS.share([3, 2, 0, 1] * 20, [3, 3, 1, 1] * 20), INTERVALS.share([1, 0, 0, 1] * 20)
    mcq, mcq_plus = INTERVALS.share([3, 2] * 20, [3, 3] * 20), INTERVALS.share([1, 0] * 20)
    keys = ("acc", "acc_plus", "category_acc.mcq", "category_acc_plus.mcq")
    for key, expected in zip(keys, (acc, plus, mcq, mcq_plus), strict=True):
        assert expected is not None
        got = tuple(metrics[f"reward.{key}{end}"] for end in ("", "_low", "_high"))
        assert got == pytest.approx((expected.value, expected.low, expected.high))


def test_a_reward_model_without_pairs_has_null_metrics() -> None:
    metrics = reward_metrics([QUERIES[3]], SCORES, INTERVALS)
    assert (metrics["reward.acc"], metrics["reward.acc_plus"], metrics["reward.macro_acc"]) == (None, None, None)
    assert (metrics["reward.pairs"], metrics["reward.queries"], metrics["reward.score_ties"]) == (0, 0, 0)


def test_preference_accuracy_is_acc_of_implicit_rewards() -> None:
    expected = (pytest.approx(6 / 8), None, None)  # four queries have no interval
    preference = preference_metrics(QUERIES, SCORES, INTERVALS)
    assert tuple(preference[f"policy.preference_accuracy{end}"] for end in ("", "_low", "_high")) == expected
    variant = variant_metrics("no_critique", QUERIES, SCORES, INTERVALS)
    assert tuple(variant[f"reward.acc_no_critique{end}"] for end in ("", "_low", "_high")) == expected
    assert (len(preference), len(variant)) == (3, 3)


@pytest.mark.parametrize(
    ("read", "judged", "expected"),
    [
        ([True, False], [True, False], 1.0),
        ([False, True], [True, False], 0.0),
        ([True, True, False, False], [True, True, True, False], (2 / 3 + 1) / 2),
        ([True, None, None, False], [True, True, False, False], (1 / 2 + 1 / 2) / 2),
        ([True, False, True], [True, False, None], 1.0),
        ([True], [True], None),
        ([False], [False], None),
        ([], [], None),
    ],
)
def test_balanced_accuracy_is_the_mean_of_both_shares(read: list[bool | None], judged: list[bool | None], expected: float | None) -> None:
    assert balanced_accuracy(read, judged) == (None if expected is None else pytest.approx(expected))
