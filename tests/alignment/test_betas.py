from __future__ import annotations

import math

import numpy as np
import pytest

from components.alignment.betas import (
    beta_dpo_beta,
    beta_summary,
    drs_beta,
    fit_temperature,
    madpo_weight,
    margin_scale,
    pair_betas,
    pair_weights,
    running_margin,
    weight_summary,
)
from components.config.alignment import AlignmentSettings
from components.config.settings import load_settings
from components.errors import UserError
from tests.conftest import ROOT


def settings(**changes: object) -> AlignmentSettings:
    return load_settings(ROOT / "params.yaml").alignment.model_copy(update=changes)


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (0.0, 0.1),
        (2.0, 0.1 * (1 + 0.5 * (1 - math.exp(-1.0)))),
        (1e6, 0.15),
        (-0.5, 0.1),
        (-1e6, 0.1),
    ],
)
def test_beta_follows_the_formula_and_stays_in_its_range(margin: float, expected: float) -> None:
    assert drs_beta(np.array([margin]), 0.1, 0.5, 0.5)[0] == pytest.approx(expected, rel=1e-12)


def test_without_weight_beta_is_beta0_exactly() -> None:
    assert set(drs_beta(np.array([-3.0, 0.0, 0.7, 50.0]), 0.1, 0.0, 0.5).tolist()) == {0.1}


def test_the_constant_schedule_gives_what_weight_zero_gives() -> None:
    margins = np.array([-1.0, 0.3, 4.0])
    assert pair_betas(margins, settings(beta_schedule="constant")).tolist() == pair_betas(margins, settings(beta_weight=0.0)).tolist()


def test_a_missing_margin_is_trained_at_beta0() -> None:
    betas = pair_betas(np.array([np.nan, 3.0]), settings())
    assert betas[0] == 0.1
    assert betas[1] > 0.1


def test_standardized_margins_are_divided_and_never_centred() -> None:
    raw = np.array([1.0, 3.0, 5.0, -1.0])
    assert margin_scale(settings(margins="standardized"), raw, np.array([])).divisor == pytest.approx(np.std(raw))


def test_equal_margins_are_standardized_only_for_a_constant_beta() -> None:
    raw = np.array([2.0, 2.0])
    with pytest.raises(UserError, match="same margin"):
        margin_scale(settings(margins="standardized"), raw, np.array([]))
    assert margin_scale(settings(margins="standardized", beta_weight=0.0), raw, np.array([])).divisor == 1


def test_calibrated_margins_need_a_calibration_part() -> None:
    with pytest.raises(UserError, match="calibration_share"):
        margin_scale(settings(margins="calibrated"), np.array([1.0, 2.0]), np.array([]))


def test_temperature_recovers_the_one_that_drew_the_labels() -> None:
    generator = np.random.default_rng(0)
    margins = generator.normal(0, 6, 20_000)
    agreed = generator.random(20_000) < 1 / (1 + np.exp(-margins / 3))
    assert fit_temperature(np.where(agreed, margins, -margins)) == pytest.approx(3, rel=0.05)


def test_agreeing_margins_have_a_finite_temperature_by_platt() -> None:
    margins = np.array([2.0, 2.0])  # the target is 3 of 4, so sigmoid(2 / T) = 3 / 4
    assert fit_temperature(margins) == pytest.approx(2 / math.log(3), rel=1e-3)


def test_a_reward_model_no_better_than_a_coin_has_no_temperature() -> None:
    margins = np.array([3.0, -3.0, -1.0])
    assert fit_temperature(margins) is None
    with pytest.raises(UserError, match="no better than a coin"):
        margin_scale(settings(margins="calibrated"), margins, margins)
    assert margin_scale(settings(margins="calibrated", beta_schedule="constant"), margins, margins).divisor == 1


def test_shares_at_the_ends_are_null_when_beta_cannot_vary() -> None:
    betas = np.array([0.1, 0.1])
    assert beta_summary(betas, settings(beta_weight=0.0))["beta.share_at_cap"] is None
    assert beta_summary(np.array([0.1, 0.15, 0.149, 0.12]), settings())["beta.share_at_cap"] == 0.5


def test_beta_dpo_follows_the_distance_from_the_running_margin() -> None:
    assert beta_dpo_beta(3.0, 1.0, 0.1, 0.5) == pytest.approx(0.1 * (1 + 0.5 * 2))
    assert beta_dpo_beta(0.5, 1.0, 0.1, 0.5) == pytest.approx(0.1 * (1 - 0.5 * 0.5))
    assert beta_dpo_beta(2.5, 2.5, 0.1, 0.5) == 0.1


def test_beta_dpo_stays_above_zero_and_does_not_hide_a_nan() -> None:
    assert beta_dpo_beta(-100.0, 0.0, 0.1, 0.5) == pytest.approx(1e-4)
    assert math.isnan(beta_dpo_beta(math.nan, 0.0, 0.1, 0.5))


def test_running_margin_starts_at_the_first_and_keeps_its_share() -> None:
    margins, average = [4.0, 0.0, 1.0], None
    for margin in margins:
        average = running_margin(average, margin, 0.75)
    assert average == pytest.approx(0.75 * (0.75 * 4 + 0.25 * 0) + 0.25 * 1)


def test_madpo_weighs_hard_pairs_more_by_the_formula() -> None:
    margins = np.array([-1.0, 0.5, 3.0])
    assert madpo_weight(margins, 0.5, 0.8) == pytest.approx([2 / (1 + math.exp(0.8 * (m - 0.5))) for m in (-1.0, 0.5, 3.0)], rel=1e-12)
    assert madpo_weight(np.array([-1e6, 1e6]), 0.0, 0.5).tolist() == [2, 0]


def test_madpo_weights_are_around_the_median_and_have_mean_one() -> None:
    margins = np.array([0.0, 1.0, 5.0, np.nan])
    weights = pair_weights(margins, settings(beta_schedule="madpo", beta_scale=0.5))
    raw = [2 / (1 + math.exp(0.5 * (margin - 1))) for margin in (0.0, 1.0, 5.0)]
    assert weights[:3] == pytest.approx([weight * 3 / sum(raw) for weight in raw])
    assert weights[3] == 1, "a pair without a margin weighs as much as one does without the schedule"
    assert pair_betas(margins, settings(beta_schedule="madpo")).tolist() == [0.1] * 4


@pytest.mark.parametrize("schedule", ["constant", "drs", "beta_dpo"])
def test_other_schedules_weigh_all_pairs_alike(schedule: str) -> None:
    assert pair_weights(np.array([0.0, 9.0]), settings(beta_schedule=schedule)).tolist() == [1, 1]


def test_the_effective_share_counts_the_pairs_that_have_a_say() -> None:
    assert weight_summary(np.array([2.0, 2.0, 0.0, 0.0]))["weight.effective_share"] == 0.5
    assert weight_summary(np.array([1.0, 1.0]))["weight.effective_share"] == 1


def test_madpo_needs_margins_that_differ_and_beta_dpo_needs_none() -> None:
    equal = np.array([2.0, 2.0])
    with pytest.raises(UserError, match="same margin"):
        margin_scale(settings(beta_schedule="madpo", beta_weight=0.0), equal, np.array([]))
    assert margin_scale(settings(beta_schedule="beta_dpo"), equal, np.array([])).divisor == 1
