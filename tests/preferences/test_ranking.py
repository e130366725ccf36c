from typing import Any

import pytest

from components.preferences.faults import RowError
from components.preferences.ranking import UnknownRankingError, parse_ranking, written_ranking


@pytest.mark.parametrize(
    ("value", "ranks"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([2, 1, 2, 3], [2, 1, 2, 3]),
        ([1, 1, 3, 4], [1, 1, 3, 4]),
        ([1, 1, 1, 1], [1, 1, 1, 1]),
        (["2", "1", "3", "4"], [2, 1, 3, 4]),
        ([1.0, 2.0, 3.0, 3.0], [1, 2, 3, 3]),
        ("1>2=3>4", [1, 2, 2, 3]),
        ("4>3>2>1", [4, 3, 2, 1]),
        ("2 > 1 = 4 > 3", [2, 1, 3, 2]),
        ("[1>2=3>4]", [1, 2, 2, 3]),
        ("Rank: [1>2=3>4]", [1, 2, 2, 3]),
        ("ranking: 1=2=3=4", [1, 1, 1, 1]),
    ],
)
def test_supported_encodings_give_ranks(value: Any, ranks: list[int]) -> None:
    assert parse_ranking(value, 4) == ranks


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "missing"),
        ("", "missing"),
        ([], "missing"),
        ([1, 2], "2 entries for 3 responses"),
        ([1, None, 2], "None"),
        ([1, 2.5, 3], "2.5"),
        ([0, 1, 2], "weak order"),
        ([-1, 1, 2], "weak order"),
        ([2, 3, 4], "weak order"),
        ([1, 2, 5], "weak order"),
        ([1, 3, 3], "weak order"),
        ("1>2", "responses 1 to 3"),
        ("1>2>2", "responses 1 to 3"),
        ("0>1>2", "responses 1 to 3"),
        ("1>2>3>4", "responses 1 to 3"),
    ],
)
def test_invalid_weak_order_refuses_one_row(value: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        parse_ranking(value, 3)


@pytest.mark.parametrize(
    "value",
    ["A>B>C", "1,2,3", "1>2>", "best: 2", "[1>2>3", "1>2>3]", {"1": 1}, 3, True, ["a", "b", "c"], [[1], [2, 3]], [True, False, True]],
)
def test_unknown_encoding_refuses_file_and_shows_value(value: Any) -> None:
    with pytest.raises(UnknownRankingError) as caught:
        parse_ranking(value, 3)
    assert ascii(value) in str(caught.value)
    assert "1>2=3>4" in str(caught.value)


def test_long_value_is_cut_in_message() -> None:
    with pytest.raises(UnknownRankingError) as caught:
        parse_ranking("x" * 10_000, 3)
    assert len(str(caught.value)) < 400


def test_doubtful_list_without_scores_is_written_as_text() -> None:
    assert written_ranking([3, 1, 2], scored=False) == "2>3>1"
    assert parse_ranking("2>3>1", 3) == [3, 1, 2]
    assert written_ranking([3, 1, 2], scored=True) == [3, 1, 2]
    assert written_ranking([2, 1, 2], scored=False) == [2, 1, 2]
    assert written_ranking([3, 2, 1], scored=False) == [3, 2, 1]


def test_order_of_numbers_becomes_ranks() -> None:
    assert parse_ranking([3, 1, 2], 3, "order") == [2, 3, 1]
    with pytest.raises(RowError, match=r"\[1, 1, 2\] does not name each of the responses 1 to 3 once"):
        parse_ranking([1, 1, 2], 3, "order")
