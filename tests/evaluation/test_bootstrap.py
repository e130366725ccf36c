"""The bootstrap of a ratio against one drawn resample by resample, for every setting that it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from components.evaluation.metrics import Metrics
from components.statistics import BOOTSTRAP_SEED, RESAMPLES_AT_ONCE, Bootstrap

TOP = [3.0, 0.0, 2.0, 1.0, 5.0, 0.0, 1.0]
BOTTOM = [3.0, 2.0, 2.0, 4.0, 6.0, 1.0, 1.0]


def percentiles(top: Sequence[float], bottom: Sequence[float], samples: int, confidence: float) -> tuple[float, float]:
    """Sorted ratios of `samples` resamples of the queries, read at both tails by linear interpolation."""
    random = np.random.default_rng(BOOTSTRAP_SEED)
    ratios = []
    for _ in range(samples):
        drawn = random.integers(0, len(top), len(top)).tolist()
        ratios.append(sum(top[i] for i in drawn) / sum(bottom[i] for i in drawn))
    ratios.sort()

    def at(share: float) -> float:
        spot = share * (samples - 1)
        under, over = math.floor(spot), math.ceil(spot)
        return ratios[under] * (1 - (spot - under)) + ratios[over] * (spot - under)

    return at((1 - confidence) / 2), at(1 - (1 - confidence) / 2)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("samples", [1, 2, 249, 250, 251, 501, 1000])
def test_an_interval_is_that_of_so_many_resamples(samples: int, confidence: float) -> None:
    interval = Bootstrap(samples, confidence).ratio(TOP, BOTTOM)
    assert interval == pytest.approx((12 / 19, *percentiles(TOP, BOTTOM, samples, confidence)), abs=1e-12)


def test_resamples_are_drawn_in_bounded_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # Parts bound the memory; how many there are changes no number.
    assert RESAMPLES_AT_ONCE == 250
    expected = Bootstrap(700, 0.9).ratio(TOP, BOTTOM)
    monkeypatch.setattr("components.statistics.RESAMPLES_AT_ONCE", 33)
    assert Bootstrap(700, 0.9).ratio(TOP, BOTTOM) == expected


def test_without_denominators_every_query_counts_one() -> None:
    outcomes = [1.0, 0.0, 0.0, 1.0, 1.0]
    assert Bootstrap(400, 0.9).ratio(outcomes) == pytest.approx((0.6, *percentiles(outcomes, [1.0] * 5, 400, 0.9)), abs=1e-12)


def test_queries_without_a_denominator_are_no_part_of_a_resample() -> None:
    top, bottom = [*TOP, 9.0, 4.0], [*BOTTOM, 0.0, -1.0]
    assert Bootstrap(400, 0.9).ratio(top, bottom) == Bootstrap(400, 0.9).ratio(TOP, BOTTOM)


def test_a_single_query_has_an_interval_of_one_point() -> None:
    assert Bootstrap(100, 0.95).ratio([3], [4]) == (0.75, 0.75, 0.75)


def test_a_wider_confidence_gives_a_wider_interval() -> None:
    narrow, wide = (Bootstrap(1000, confidence).ratio(TOP, BOTTOM) for confidence in (0.8, 0.99))
    assert narrow is not None
    assert wide is not None
    assert wide[1] < narrow[1] < narrow[0] < narrow[2] < wide[2]


def test_add_writes_a_value_with_both_ends_under_the_key() -> None:
    metrics: Metrics = {"other": 1}
    bootstrap = Bootstrap(300, 0.9)
    bootstrap.add(metrics, "acc", TOP, BOTTOM)
    low, high = percentiles(TOP, BOTTOM, 300, 0.9)
    assert metrics == pytest.approx({"other": 1, "acc": 12 / 19, "acc_low": low, "acc_high": high}, abs=1e-12)


@pytest.mark.parametrize(("top", "bottom"), [([], None), ([1.0], [0.0]), ([0.0, 0.0], [0.0, 0.0])])
def test_add_writes_null_for_a_ratio_of_nothing(top: list[float], bottom: list[float] | None) -> None:
    metrics: Metrics = {}
    Bootstrap(300, 0.9).add(metrics, "acc", top, bottom)
    assert metrics == {"acc": None, "acc_low": None, "acc_high": None}
