from __future__ import annotations

import math

import numpy as np
import pytest

from components.alignment.betas import beta_summary, drs_beta, fit_temperature, margin_scale, pair_betas
from components.config import AlignmentSettings, load_settings
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


def test_standardised_margins_are_divided_and_never_centred() -> None:
    raw = np.array([1.0, 3.0, 5.0, -1.0])
    assert margin_scale(settings(margins="standardised"), raw, np.array([])).divisor == pytest.approx(np.std(raw))


def test_equal_margins_cannot_be_standardised_unless_beta_is_constant() -> None:
    raw = np.array([2.0, 2.0])
    with pytest.raises(UserError, match="same margin"):
        margin_scale(settings(margins="standardised"), raw, np.array([]))
    assert margin_scale(settings(margins="standardised", beta_weight=0.0), raw, np.array([])).divisor == 1


def test_calibrated_margins_need_a_calibration_part() -> None:
    with pytest.raises(UserError, match="calibration_share"):
        margin_scale(settings(margins="calibrated"), np.array([1.0, 2.0]), np.array([]))


def test_the_temperature_recovers_the_one_that_the_labels_were_drawn_with() -> None:
    generator = np.random.default_rng(0)
    margins = generator.normal(0, 6, 20_000)
    agreed = generator.random(20_000) < 1 / (1 + np.exp(-margins / 3))
    assert fit_temperature(np.where(agreed, margins, -margins)) == pytest.approx(3, rel=0.05)


def test_shares_at_the_ends_are_null_when_beta_cannot_vary() -> None:
    betas = np.array([0.1, 0.1])
    assert beta_summary(betas, settings(beta_weight=0.0))["beta.share_at_cap"] is None
    assert beta_summary(np.array([0.1, 0.15, 0.149, 0.12]), settings())["beta.share_at_cap"] == 0.5
