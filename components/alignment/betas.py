"""Beta, pair by pair, from the reward model's margins (paper section 4, Dynamic Reward Scaling).

    beta(delta) = beta0 * (1 + w * (1 - exp(-k * delta)))   clamped to [beta0, (1 + w) * beta0]

delta = r(winner) - r(loser) after scaling. A pair on which the reward model disagrees with the ranking has delta < 0 and so beta0.
Beta depends on the pair alone, so it is the same on every rank and in every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.config import AlignmentSettings
from components.errors import UserError

Array = np.ndarray[Any, np.dtype[np.float64]]
CAP_SHARE, FLOOR_SHARE = 0.95, 0.05  # a beta counts as at an end of its range within this share of w


def drs_beta(margin: Array, beta: float, weight: float, scale: float) -> Array:
    """Beta of each pair from its scaled margin. `beta`, `weight`, `scale` are the paper's beta0, w and k."""
    # A margin below 0 would overflow the exponential before the clamp sets it to beta0, so it is clipped first.
    raw = beta * (1 + weight * (1 - np.exp(-scale * np.maximum(margin, 0))))
    return np.clip(raw, beta, (1 + weight) * beta)


@dataclass(frozen=True)
class MarginScale:
    """What raw margins are divided by. They are never centred: the sign says whether the reward model agrees with the ranking."""

    divisor: float
    kind: str


def varies(settings: AlignmentSettings) -> bool:
    """Whether beta can differ from pair to pair under these settings."""
    return settings.beta_weight > 0 and settings.beta_schedule != "constant"


def margin_scale(settings: AlignmentSettings, raw_margins: Array, calibration_margins: Array) -> MarginScale:
    """The divisor by `alignment.margins`: raw 1, standardised the training pairs' standard deviation, calibrated a fitted temperature.

    Raises UserError where the margins can't be scaled though beta depends on them: all equal, or no calibration pairs.
    """
    kind = settings.margins
    known = raw_margins[~np.isnan(raw_margins)]
    if kind == "raw":
        return MarginScale(1.0, kind)
    if kind == "standardised":
        deviation = float(np.std(known)) if len(known) else 0.0
        if deviation == 0 and not varies(settings):
            return MarginScale(1.0, kind)
        if deviation == 0:
            raise UserError(
                "the reward model gives every training pair the same margin, so margins can't be standardised: "
                "retrain it, or set alignment.margins to raw"
            )
        return MarginScale(deviation, kind)
    if len(calibration_margins) == 0:
        raise UserError(
            "alignment.margins is calibrated, but no calibration pairs were kept: set reward.calibration_share above 0, such as 0.1"
        )
    return MarginScale(fit_temperature(calibration_margins), kind)


def fit_temperature(margins: Array) -> float:
    """The temperature T that makes sigmoid(margin / T) the likeliest probability of the human ranking (Platt scaling without a bias)."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda log_t: float(np.mean(np.logaddexp(0, -margins / np.exp(log_t)))), bounds=(-5, 8), method="bounded")
    return float(np.exp(found.x))


def pair_betas(margins: Array, settings: AlignmentSettings) -> Array:
    """Beta of every pair by `alignment.beta_schedule`; NaN margins (no score) give beta0."""
    if settings.beta_schedule == "constant":
        return np.full(len(margins), settings.beta)
    betas = drs_beta(np.nan_to_num(margins, nan=0.0), settings.beta, settings.beta_weight, settings.beta_scale)
    return np.where(np.isnan(margins), settings.beta, betas)


def beta_summary(betas: Array, settings: AlignmentSettings) -> dict[str, float | None]:
    """min, mean, max, and the shares at the cap and at the floor (None when beta can't vary)."""
    span = settings.beta * settings.beta_weight
    return {
        "beta.min": float(betas.min()),
        "beta.mean": float(betas.mean()),
        "beta.max": float(betas.max()),
        "beta.share_at_cap": float(np.mean(betas >= settings.beta + CAP_SHARE * span)) if varies(settings) else None,
        "beta.share_at_floor": float(np.mean(betas <= settings.beta + FLOOR_SHARE * span)) if varies(settings) else None,
    }


def margin_summary(margins: Sequence[float] | Array, prefix: str) -> dict[str, float | None]:
    """Quartiles, mean and share of negative margins, for logs and the comparison of two sets."""
    values = np.asarray(margins, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return {f"{prefix}.{name}": None for name in ("p25", "median", "p75", "mean", "negative")}
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {
        f"{prefix}.p25": float(low),
        f"{prefix}.median": float(middle),
        f"{prefix}.p75": float(high),
        f"{prefix}.mean": float(values.mean()),
        f"{prefix}.negative": float(np.mean(values < 0)),
    }
