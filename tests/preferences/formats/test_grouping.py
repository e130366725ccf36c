from itertools import permutations

import pytest

from components.preferences.formats.grouping import MOST_ANSWERS, Grouped, PlacedPair, group


def grouped(*pairs: str) -> Grouped:
    return group([PlacedPair(position, pair[0], pair[2]) for position, pair in enumerate(pairs)])


def rankings(result: Grouped) -> list[dict[str, int]]:
    return [dict(zip(order.texts, order.ranks, strict=True)) for order in result.orders]


@pytest.mark.parametrize("pairs", list(permutations(["a>b", "a>c", "b>c"])))
def test_all_pairs_of_ranking_give_it_in_any_order(pairs: tuple[str, ...]) -> None:
    result = grouped(*pairs)
    assert rankings(result) == [{"a": 1, "b": 2, "c": 3}]
    assert result.findings == []


def test_answers_without_pair_tie_where_all_else_agrees() -> None:
    assert rankings(grouped("a>c", "b>c", "a>d", "b>d")) == [{"a": 1, "b": 1, "c": 3, "d": 3}]


def test_missing_pair_that_follows_from_others_is_counted() -> None:
    result = grouped("a>b", "b>c", "c>d")
    assert rankings(result) == [{"a": 1, "b": 2, "c": 3, "d": 4}]
    assert result.findings == [("missing_pair", 0, 3)]


def test_separate_pairs_are_separate_queries() -> None:
    result = grouped("a>b", "c>d")
    assert rankings(result) == [{"a": 1, "b": 2}, {"c": 1, "d": 2}]
    assert result.findings == []


def test_pairs_of_no_single_ranking_are_query_a_pair() -> None:
    result = grouped("a>b", "a>c", "d>b")
    assert rankings(result) == [{"a": 1, "b": 2}, {"a": 1, "c": 2}, {"d": 1, "b": 2}]
    assert result.findings == [("no_single_ranking", 0, 3)]


def test_contradiction_is_left_out_and_others_stay() -> None:
    result = grouped("a>b", "c>d", "b>a")
    assert rankings(result) == [{"c": 1, "d": 2}]
    assert result.findings == [("contradiction", 2, 1)]


def test_cycle_is_left_out() -> None:
    result = grouped("a>b", "b>c", "c>a", "x>y")
    assert rankings(result) == [{"x": 1, "y": 2}]
    assert result.findings == [("cycle", 0, 1)]


def test_repeated_pair_counts_once() -> None:
    result = grouped("a>b", "a>b")
    assert rankings(result) == [{"a": 1, "b": 2}]
    assert result.findings == [("repeated_pair", 1, 1)]


def test_reasons_are_those_of_answers_second_ones_are_counted() -> None:
    pairs = [PlacedPair(0, "a", "b", "", "b1"), PlacedPair(1, "a", "c", "a1", "c1"), PlacedPair(2, "b", "c", "b2", "c1")]
    result = group(pairs)
    assert result.orders[0].reasons == ("a1", "b1", "c1")
    assert result.findings == [("second_reason", 2, 1)]


def test_answers_past_limit_are_left_out() -> None:
    result = group([PlacedPair(n, "best", str(n)) for n in range(MOST_ANSWERS)])
    assert (result.orders, result.findings) == ([], [("too_many_answers", 0, 1)])
