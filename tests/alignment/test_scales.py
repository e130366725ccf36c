"""Divisors of margins, temperatures at the ends of their range, and the summaries of betas, weights and margins, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from components.alignment.betas import (
    MarginScale,
    at_cap,
    beta_dpo_beta,
    beta_summary,
    drs_beta,
    fit_temperature,
    margin_scale,
    margin_summary,
    pair_betas,
    pair_weights,
    running_margin,
    uses_margins,
    varies,
    weight_summary,
)
from components.config.alignment import AlignmentSettings
from components.config.settings import load_settings
from components.errors import UserError
from tests.conftest import ROOT

EMPTY = np.array([])


def settings(**changes: Any) -> AlignmentSettings:
    return load_settings(ROOT / "params.yaml").alignment.model_copy(update=changes)


def platt(temperature: float, count: int = 2) -> list[float]:
    """`count` equal margins that all agree and have this temperature: their target is (n + 1) / (n + 2), whose odds are n + 1."""
    return [temperature * math.log(count + 1)] * count


def test_drs_beta_stays_in_its_range_where_beta0_is_above_one() -> None:
    betas = drs_beta(np.array([-1.0, 0.0, 1.0, 1e6]), 2.0, 0.5, 0.5)
    assert betas == pytest.approx([2.0, 2.0, 2.0 * (1 + 0.5 * (1 - math.exp(-0.5))), 3.0], rel=1e-12)


@pytest.mark.parametrize(("beta_weight", "beta_scale", "beta"), [(0.0, 0.5, 0.1), (2.0, 0.5, 0.2), (0.5, 4.0, 0.3)])
def test_drs_settings_reach_the_formula(beta_weight: float, beta_scale: float, beta: float) -> None:
    chosen = settings(beta=beta, beta_weight=beta_weight, beta_scale=beta_scale)
    expected = [beta * (1 + beta_weight * (1 - math.exp(-beta_scale * max(margin, 0)))) for margin in (-1.0, 0.25, 3.0)]
    assert pair_betas(np.array([-1.0, 0.25, 3.0]), chosen) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "beta_dpo", "madpo"])
def test_schedules_that_are_not_by_pair_start_from_beta0(schedule: str) -> None:
    assert pair_betas(np.array([-9.0, np.nan, 9.0]), settings(beta_schedule=schedule, beta=0.3)).tolist() == [0.3] * 3


@pytest.mark.parametrize(("momentum", "expected"), [(0.0, 5.0), (0.9, 0.9 * 2 + 0.1 * 5), (1.0, 2.0)])
def test_momentum_is_the_share_of_the_old_running_margin(momentum: float, expected: float) -> None:
    assert running_margin(2.0, 5.0, momentum) == pytest.approx(expected)
    assert running_margin(None, 5.0, momentum) == 5.0
    assert running_margin(0.0, 5.0, momentum) == pytest.approx((1 - momentum) * 5.0), "0 is a margin too"


def test_beta_dpo_floor_is_a_thousandth_of_beta0() -> None:
    assert beta_dpo_beta(-5.0, 0.0, 0.4, 0.5) == pytest.approx(0.0004, rel=1e-12)
    assert beta_dpo_beta(-1.9, 0.0, 0.4, 0.5) == pytest.approx(0.4 * 0.05, rel=1e-9)


@pytest.mark.parametrize(
    ("schedule", "weight", "by_pair", "by_margin"),
    [
        ("drs", 0.5, True, True),
        ("drs", 0.0, False, False),
        ("constant", 0.5, False, False),
        ("beta_dpo", 0.5, False, False),
        ("madpo", 0.5, False, True),
        ("madpo", 0.0, False, True),
    ],
)
def test_drs_and_madpo_alone_depend_on_margins(schedule: str, weight: float, by_pair: bool, by_margin: bool) -> None:
    chosen = settings(beta_schedule=schedule, beta_weight=weight)
    assert (varies(chosen), uses_margins(chosen)) == (by_pair, by_margin)


def test_raw_margins_are_divided_by_one() -> None:
    assert margin_scale(settings(margins="raw"), np.array([1.0, 9.0]), EMPTY) == MarginScale(1.0, "raw")


def test_standardized_divisor_leaves_missing_margins_out() -> None:
    scale = margin_scale(settings(margins="standardized"), np.array([1.0, np.nan, 5.0, -3.0]), np.array([100.0]))
    assert scale.kind == "standardized"
    assert scale.divisor == pytest.approx(math.sqrt((0 + 16 + 16) / 3))


@pytest.mark.parametrize("raw", [[np.nan, np.nan], [2.0, 2.0]])
def test_margins_without_spread_matter_only_where_they_are_used(raw: list[float]) -> None:
    assert margin_scale(settings(beta_schedule="constant"), np.array(raw), EMPTY) == MarginScale(1.0, "standardized")
    with pytest.raises(UserError, match="same margin"):
        margin_scale(settings(), np.array(raw), EMPTY)


@pytest.mark.parametrize("schedule", ["drs", "constant"])
def test_calibrated_divisor_is_the_calibration_part_temperature(schedule: str) -> None:
    scale = margin_scale(settings(margins="calibrated", beta_schedule=schedule), np.array([1.0, -7.0]), np.array(platt(2.5)))
    assert scale.kind == "calibrated"
    assert scale.divisor == pytest.approx(2.5, rel=1e-3)


def test_temperature_minimizes_the_smoothed_loss_of_all_pairs() -> None:
    margins = [4.0, 1.0, -2.0, 3.0, 0.5]
    target = 6 / 7

    def loss(temperature: float) -> float:
        logits = [margin / temperature for margin in margins]
        return sum(target * math.log1p(math.exp(-x)) + (1 - target) * math.log1p(math.exp(x)) for x in logits)

    grid = np.exp(np.linspace(-2, 6, 8001))
    assert fit_temperature(np.array(margins)) == pytest.approx(grid[np.argmin([loss(t) for t in grid])], rel=3e-3)


def test_temperature_is_searched_between_e_to_minus_5_and_e_to_8() -> None:
    assert fit_temperature(np.array(platt(math.exp(-5.5)))) == pytest.approx(math.exp(-5), rel=1e-3)
    assert fit_temperature(np.array(platt(math.exp(-4.5)))) == pytest.approx(math.exp(-4.5), rel=1e-3)
    assert fit_temperature(np.array(platt(math.exp(7.8)))) == pytest.approx(math.exp(7.8), rel=1e-3)
    assert fit_temperature(np.array(platt(math.exp(7.9)))) is None, "within a hundredth of the range's upper end there is none"
    assert fit_temperature(np.array(platt(math.exp(8.5)))) is None


def test_madpo_weights_have_mean_one_whatever_the_median() -> None:
    margins = np.array([np.nan, 4.0, -2.0, 1.0, 1.5])
    weights = pair_weights(margins, settings(beta_schedule="madpo", beta_scale=2.0))
    raw = [2 / (1 + math.exp(2.0 * (margin - 1.25))) for margin in (4.0, -2.0, 1.0, 1.5)]
    assert weights == pytest.approx([1.0, *(weight * 4 / sum(raw) for weight in raw)], rel=1e-12)
    assert pair_weights(np.array([np.nan, np.nan]), settings(beta_schedule="madpo")).tolist() == [1.0, 1.0]


# beta0 2 and w 0.5: betas from 2 to 3, of which the last twentieth from 2.95 on is the cap and the first up to 2.05 is the floor.
ENDS = np.array([2.95, 2.949, 3.0, 2.05, 2.051, 2.0, 2.0, 2.5])


def test_summary_of_betas_by_hand() -> None:
    chosen = settings(beta=2.0, beta_weight=0.5)
    assert at_cap(ENDS, chosen) == 2 / 8
    assert beta_summary(ENDS, chosen) == {
        "beta.min": 2.0,
        "beta.mean": pytest.approx(sum(ENDS.tolist()) / 8),
        "beta.max": 3.0,
        "beta.share_at_cap": 2 / 8,
        "beta.share_at_floor": 3 / 8,
    }


def test_summary_has_no_shares_where_beta_is_constant() -> None:
    summary = beta_summary(np.array([0.1, 0.1]), settings(beta_schedule="constant"))
    assert summary["beta.share_at_cap"] is None
    assert summary["beta.share_at_floor"] is None
    assert summary["beta.mean"] == pytest.approx(0.1)


def test_summary_of_weights_by_hand() -> None:
    assert weight_summary(np.array([1.5, 1.0, 0.25, 1.25])) == {
        "weight.min": 0.25,
        "weight.mean": 1.0,
        "weight.max": 1.5,
        "weight.share_above_one": 0.5,
        "weight.effective_share": pytest.approx(16 / (4 * (1.5**2 + 1 + 0.25**2 + 1.25**2))),
    }


def test_summary_of_margins_leaves_missing_ones_out() -> None:
    assert margin_summary([4.0, float("nan"), -1.0, 0.0, 2.0, 3.0], "m") == {
        "m.p25": 0.0,
        "m.median": 2.0,
        "m.p75": 3.0,
        "m.mean": pytest.approx(8 / 5),
        "m.negative": 1 / 5,
    }


@pytest.mark.parametrize("values", [[], [float("nan")]])
def test_summary_of_no_margins_is_empty(values: list[float]) -> None:
    assert margin_summary(values, "m") == dict.fromkeys(("m.p25", "m.median", "m.p75", "m.mean", "m.negative"))
