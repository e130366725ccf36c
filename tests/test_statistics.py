"""Intervals in clusters against sums written out row by row, and against published and hand-made numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import pytest
from scipy.stats import beta, binomtest, t

from components.evaluation.metrics import Metrics
from components.statistics import CONTINUITY, CORRELATION, FEWEST, LEAST_GROUPS, Groups, Intervals, wilson

INTERVALS = Intervals(0.95)
Clusters = list[dict[str, str]]


def in_groups(rows: int, groups: int, name: str = "wording") -> Clusters:
    return [{name: str(row % groups)} for row in range(rows)]


def variance_by_hand(scores: Sequence[float], cases: Sequence[float], clusters: Clusters) -> float:
    """Inclusion and exclusion over the names' groups, each sum divided by one less its share of the cases."""
    names, total, largest = sorted({name for row in clusters for name in row}), 0.0, 0.0
    for size in range(1, len(names) + 1):
        for chosen in combinations(names, size):
            groups: dict[tuple[str, ...], list[int]] = {}
            for index, row in enumerate(clusters):
                groups.setdefault(tuple(row.get(name, f"row {index}") for name in chosen), []).append(index)
            squares = 0.0
            for members in groups.values():
                share = sum(cases[index] for index in members) / sum(cases)
                squares += (sum(scores[index] for index in members) / (1 - share)) ** 2
            total += squares if size % 2 else -squares
            largest = max(largest, squares) if size == 1 else largest
    return max(total, largest / 2)


@pytest.mark.parametrize("names", [("wording",), ("picture", "wording"), ("picture", "request", "wording")])
def test_variance_is_that_of_sums_by_inclusion_and_exclusion(names: tuple[str, ...]) -> None:
    periods = {"picture": 41, "wording": 23, "request": 29}
    clusters = [{name: str(row * row % periods[name]) for name in names} for row in range(120)]
    events, cases = [float(row % 7 < 2) for row in range(120)], [1.0 + row % 3 for row in range(120)]
    share = sum(events) / sum(cases)
    scores = [event - share * case for event, case in zip(events, cases, strict=True)]
    import numpy as np

    (variance,), _ = Groups(clusters).variance(np.array([scores]), np.array(cases))
    assert variance == pytest.approx(variance_by_hand(scores, cases, clusters))


def test_share_without_clusters_is_nearly_the_exact_one() -> None:
    one = INTERVALS.share([1.0] * 300 + [0.0] * 700)
    assert one is not None
    exact = binomtest(300, 1000).proportion_ci(0.95, method="exact")
    assert (one.value, one.rows, one.groups) == (0.3, 1000, 1000)
    assert (one.low, one.high) == pytest.approx((exact.low, exact.high), abs=0.001)


def test_share_in_clusters_is_that_of_fewer_rows_by_hand() -> None:
    # Each of 40 groups of 10 rows agrees in itself, so 400 rows say what 40 do, less the t quantile and the leverage.
    events = [float(row % 40 < 12) for row in range(400)]
    one = INTERVALS.share(events, None, in_groups(400, 40))
    assert one is not None
    effect = variance_by_hand([event - 0.3 for event in events], [1.0] * 400, in_groups(400, 40)) / (400 * 0.3 * 0.7)
    assert effect == pytest.approx(10 / (1 - 1 / 40) ** 2)
    weight = FEWEST**2 / (120**2 + FEWEST**2)
    effect = max(effect, (1 - weight) * effect + weight * (1 + 9 * CORRELATION))
    # sums of .7 and -.3 in 12 and 28 groups: the kurtosis gives more than 39 degrees of freedom, so 39 hold
    size = 400 / effect * (t.ppf(0.975, 399) / t.ppf(0.975, 39)) ** 2
    low = beta.ppf(0.025, 0.3 * size + CONTINUITY, 0.7 * size + 1 - CONTINUITY)
    high = beta.ppf(0.975, 0.3 * size + 1 - CONTINUITY, 0.7 * size + CONTINUITY)
    assert (one.low, one.high, one.freedom) == pytest.approx((low, high, 39))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_event_and_every_event_leave_the_rule_of_three(share: float) -> None:
    one = INTERVALS.share([share] * 210)
    assert one is not None
    width = 1 - 0.025 ** (1 / 210)
    assert (one.low, one.high) == pytest.approx((0, width) if share == 0 else (1 - width, 1))
    grouped = INTERVALS.share([share] * 210, None, in_groups(210, 21))
    assert grouped is not None
    wide = 1 - 0.025 ** ((1 + 9 * CORRELATION) / 210)
    assert (grouped.low, grouped.high) == pytest.approx((0, wide) if share == 0 else (1 - wide, 1))


def test_cases_of_one_row_are_no_independent_cases() -> None:
    by_row = INTERVALS.share([10.0, 0.0] * 20, [10.0, 10.0] * 20)
    by_case = INTERVALS.share([1.0, 0.0] * 200)
    assert by_row is not None
    assert by_case is not None
    assert by_row.low is not None
    assert by_row.high is not None
    assert by_case.low is not None
    assert by_case.high is not None
    assert by_row.high - by_row.low > 2.5 * (by_case.high - by_case.low)


def test_difference_is_bonett_and_price_s_by_hand() -> None:
    # 8 rows better, 2 worse of 100, each a group: center 6 / 102, squares (9 + 3) / 102 less the center's square, over 102.
    one = INTERVALS.difference([1.0] * 8 + [-1.0] * 2 + [0.0] * 90)
    assert one is not None
    center = 6 / 102
    weight = FEWEST**2 / (10**2 + FEWEST**2)
    effect = (1 - weight) * (100 / 99) ** 2 + weight
    error = math.sqrt((12 / 102 - center**2) / 102 * max(effect, (100 / 99) ** 2))
    assert (one.value, one.error) == pytest.approx((0.06, error))
    kurtosis = 100 * (8 * 0.94**4 + 2 * 1.06**4 + 90 * 0.06**4) / (8 * 0.94**2 + 2 * 1.06**2 + 90 * 0.06**2) ** 2
    assert one.freedom == pytest.approx(200 / (kurtosis - 1) + 4), "and two for each of the two rows that are added"
    half = t.ppf(0.975, one.freedom) * error
    assert (one.low, one.high) == pytest.approx((center - half, center + half))
    assert one.chance == pytest.approx(2 * t.sf(0.06 / error, one.freedom))
    assert one.detectable(0.025) == pytest.approx((t.ppf(0.975, one.freedom) + 0.8416212) * error)


def test_models_that_agree_everywhere_still_have_a_width() -> None:
    one = INTERVALS.difference([0.0] * 265)
    assert one is not None
    half = t.ppf(0.975, 264) * math.sqrt(2) / 267
    assert (one.value, one.low, one.high) == pytest.approx((0, -half, half))


def test_shared_wordings_widen_a_difference() -> None:
    changes = [1.0 if row % 40 < 8 else 0.0 for row in range(400)]
    bare, grouped = INTERVALS.difference(changes), INTERVALS.difference(changes, None, in_groups(400, 40))
    assert bare is not None
    assert grouped is not None
    assert grouped.error == pytest.approx(math.sqrt(10) * bare.error, rel=0.05)


def test_fewer_than_twenty_groups_have_no_interval() -> None:
    for groups, ends in ((LEAST_GROUPS - 1, False), (LEAST_GROUPS, True)):
        for one in (
            INTERVALS.share([1.0, 0.0] * 100, None, in_groups(200, groups)),
            INTERVALS.difference([1.0, 0.0] * 100, None, in_groups(200, groups)),
        ):
            assert one is not None
            assert (one.low is not None, one.high is not None, one.groups) == (ends, ends, groups)
            assert (one.chance is not None) == ends


def test_name_inside_another_adds_nothing() -> None:
    outer = in_groups(90, 30)
    both = [{**row, "picture": str(number % 60)} for number, row in enumerate(outer)]
    events = [float(row % 4 == 0) for row in range(90)]
    assert INTERVALS.share(events, None, both) == INTERVALS.share(events, None, outer)


def test_row_without_a_name_is_its_own_group() -> None:
    named = [{"request": str(row % 25)} if row < 100 else {} for row in range(140)]
    numbered = [{"request": str(row % 25) if row < 100 else f"own {row}"} for row in range(140)]
    events = [float(row % 5 == 0) for row in range(140)]
    assert INTERVALS.share(events, None, named) == INTERVALS.share(events, None, numbered)


def test_rows_without_cases_do_not_count() -> None:
    assert INTERVALS.share([]) is None
    assert INTERVALS.difference([0.0, 0.0], [0.0, 0.0]) is None
    events, cases = [2.0, 1.0, 0.0] * 20, [3.0, 2.0, 0.0] * 20
    assert INTERVALS.share(events, cases) == INTERVALS.share([2.0, 1.0] * 20, [3.0, 2.0] * 20)


def test_add_writes_a_share_with_both_ends_in_its_scale() -> None:
    metrics: Metrics = {"other": 1}
    one = INTERVALS.share([1.0, 0.0] * 30)
    assert one is not None
    assert one.low is not None
    assert one.high is not None
    INTERVALS.add(metrics, "acc", ([1.0, 0.0] * 30, None, None), 100)
    assert metrics == pytest.approx({"other": 1, "acc": 50, "acc_low": 100 * one.low, "acc_high": 100 * one.high})
    INTERVALS.add(metrics, "none", ([], None, None))
    assert (metrics["none"], metrics["none_low"]) == (None, None)


@pytest.mark.parametrize(("events", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (3, 210), (0, 1)])
def test_wilson_equals_scipy(events: int, n: int) -> None:
    expected = binomtest(events, n).proportion_ci(confidence_level=0.9, method="wilson")
    assert wilson(events, n, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-9)
