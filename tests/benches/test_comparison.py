"""Comparisons of two models on the same questions, against calculations by hand."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from components.benches.comparison import CORRECT, HELDOUT, compare, correct, pairs_of
from components.statistics import Intervals

INTERVALS = Intervals(0.95)


def row(number: int, value: float, category: str = "short", **changes: Any) -> dict[str, Any]:
    clusters = {"wording": f"w{number}", "picture": f"p{number}"}
    return {"id": str(number), "category": category, "pairs": 1, "correct": value, "clusters": clusters, **changes}


def table(values: list[float], **changes: Any) -> list[dict[str, Any]]:
    return [row(number, value, **changes) for number, value in enumerate(values)]


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    chances = [0.01, None, 0.04, 0.03]
    # Holm: 3 x .01, then 2 x .03, then the larger of that and 1 x .04. Benjamini-Hochberg: 3 x .01 / 1, and 3 x .04 / 3 for both others.
    assert correct(chances, "holm") == pytest.approx([0.03, None, 0.06, 0.06])
    assert correct(chances, "bh") == pytest.approx([0.03, None, 0.04, 0.04])
    assert correct([], "holm") == correct([], "bh") == []


def test_difference_is_that_of_a_paired_test() -> None:
    first, second = [1.0] * 60 + [0.0] * 40, [0.0] * 30 + [1.0] * 35 + [0.0] * 35
    (entry,) = compare({"b": (table(first), table(second), (CORRECT,))}, INTERVALS, "holm")["comparisons"]
    # 60 % to 35 %: 30 questions lost, 5 won.
    assert (entry["a"], entry["b"], entry["questions"]) == (0.6, 0.35, 100)
    assert entry["gain"] == pytest.approx(-0.25)
    exact = stats.binomtest(5, 35).pvalue  # McNemar's exact test
    assert entry["p"] == pytest.approx(exact, abs=2e-4)
    assert entry["low"] < -0.25 < entry["high"] < 0
    assert entry["significant"]


def test_direction_turns_the_gain_round() -> None:
    unsafe = HELDOUT[1]
    first = [row(n, 0, unsafe=n < 10) for n in range(50)]
    second = [row(n, 0, unsafe=n < 40) for n in range(50)]
    (entry,) = compare({"b": (first, second, (unsafe,))}, INTERVALS, "holm")["worse"]
    assert (entry["a"], entry["b"]) == (0.2, 0.8)
    assert entry["gain"] == pytest.approx(-0.6)


def test_what_got_worse_comes_first() -> None:
    same = [float(n % 2) for n in range(80)]
    tables = {
        "better": (table([0.0] * 80), table([0.0] * 40 + [1.0] * 40), (CORRECT,)),
        "little worse": (table(same), table([*same[:79], 0.0]), (CORRECT,)),
        "worse": (table([1.0] * 80), table([1.0] * 60 + [0.0] * 20), (CORRECT,)),
        "much worse": (table([1.0] * 80), table([0.0] * 80), (CORRECT,)),
    }
    result = compare(tables, INTERVALS, "holm")
    assert [entry["benchmark"] for entry in result["comparisons"]] == ["much worse", "worse", "little worse", "better"]
    assert [entry["benchmark"] for entry in result["worse"]] == ["much worse", "worse"]
    assert [entry["benchmark"] for entry in result["better"]] == ["better"]


def test_categories_are_compared_on_their_own_rows() -> None:
    first = [row(n, 1.0, "long" if n < 30 else "mcq") for n in range(60)]
    second = [row(n, float(n >= 30), "long" if n < 30 else "mcq") for n in range(60)]
    entries = compare({"b": (first, second, (CORRECT,))}, INTERVALS, "holm")["comparisons"]
    assert {(entry["category"], entry["gain"], entry["questions"]) for entry in entries} == {
        (None, -0.5, 60),
        ("long", -1.0, 30),
        ("mcq", 0.0, 30),
    }


def test_few_clusters_give_no_test() -> None:
    first, second = table([1.0] * 60), table([0.0] * 60)
    for rows in (first, second):
        for number, entry in enumerate(rows):
            entry["clusters"] = {"wording": f"w{number % 4}"}
    result = compare({"b": (first, second, (CORRECT,))}, INTERVALS, "holm")
    (entry,) = result["comparisons"]
    assert (entry["groups"], entry["low"], entry["p"], entry["p_adjusted"], entry["detectable"], entry["significant"]) == (
        4,
        *[None] * 4,
        False,
    )
    assert [(cluster["value"], cluster["questions"], cluster["gain"]) for cluster in result["clusters"]] == [
        (f"w{n}", 15, -1.0) for n in range(4)
    ]


def test_detectable_gain_shrinks_with_the_questions() -> None:
    def seen(count: int) -> float:
        first, second = [float(n % 2) for n in range(count)], [float(n % 3 == 0) for n in range(count)]
        (entry,) = compare({"b": (table(first), table(second), (CORRECT,))}, INTERVALS, "holm")["comparisons"]
        return float(entry["detectable"])

    assert seen(400) == pytest.approx(seen(100) / 2, rel=0.1)


def test_values_beyond_one_keep_their_unit() -> None:
    first, second = [float(n % 5) for n in range(50)], [float(n % 5) + 1 for n in range(50)]
    (entry,) = compare({"b": (table(first), table(second), (CORRECT,))}, INTERVALS, "holm")["comparisons"]
    assert (entry["a"], entry["b"]) == (2.0, 3.0)
    assert entry["gain"] == pytest.approx(1.0)
    assert 0 < entry["low"] < 1 < entry["high"]


def test_questions_of_one_table_alone_are_left_out() -> None:
    first = [row(0, 1.0), row(1, 1.0), row(2, 1.0, pairs=2), row(3, 1.0)]
    second = [row(1, 0.0), row(2, 1.0, pairs=3), row(3, 0.0), row(4, 1.0)]
    assert [(pair.first, pair.second) for pair in pairs_of(CORRECT, first, second)] == [(1.0, 0.0), (1.0, 0.0)]
    judged = [{**row(0, 1.0), "good": None}, {**row(1, 1.0), "good": True}]
    assert len(pairs_of(HELDOUT[0], judged, judged)) == 1
