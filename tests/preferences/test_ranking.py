from typing import Any

import pytest

from components.preferences.faults import RowError
from components.preferences.ranking import UnknownRankingError, parse_ranking


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
