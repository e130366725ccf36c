"""How hard each pair is pushed: beta, pair by pair or step by step, and the weight of a pair's loss. `alignment.beta_schedule` chooses.

    constant  beta = beta0
    drs       beta(delta) = beta0 * (1 + w * (1 - exp(-k * delta)))   clamped to [beta0, (1 + w) * beta0]    (MM-RLHF section 4)
    beta_dpo  beta = beta0 * (1 + w * (M - M0)), never below BETA_FLOOR * beta0, one for all pairs of a step  (arXiv 2407.08639)
    madpo     beta = beta0, and the pair's preference loss is multiplied by a weight that falls with delta   (arXiv 2510.05342)

delta = r(winner) - r(loser) from the reward model, after scaling. M is a step's mean implicit margin under the policy, M0 its running mean.

- `drs` and `madpo` look at a pair alone, so beta and weight are known before training, the same on every rank and in every batch.
- `drs` pushes pairs that the reward model is sure of harder; `madpo` goes the other way and leans on pairs of small margin.
- Under `drs` a pair on which the reward model disagrees with the ranking has delta < 0 and so beta0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from components.errors import UserError

if TYPE_CHECKING:
    from components.config.alignment import AlignmentSettings

Array = np.ndarray[Any, np.dtype[np.float64]]
CAP_SHARE, FLOOR_SHARE = 0.95, 0.05  # a beta counts as at an end of its range within this share of w
LOG_TEMPERATURES = (-5.0, 8.0)  # where a temperature is looked for
BETA_FLOOR = 1e-3  # least beta of beta_dpo, as a share of beta0: at 0 a step would learn nothing, below 0 it would learn the reverse


def drs_beta(margin: Array, beta: float, weight: float, scale: float) -> Array:
    """Beta of each pair from its scaled margin (MM-RLHF section 4). `beta`, `weight`, `scale` are the paper's beta0, w and k."""
    # A margin below 0 would overflow the exponential before the clamp sets it to beta0, so it is clipped first.
    raw = beta * (1 + weight * (1 - np.exp(-scale * np.maximum(margin, 0))))
    return np.clip(raw, beta, (1 + weight) * beta)


def beta_dpo_beta(margin: float, running: float, beta: float, weight: float) -> float:
    """Beta of a step from its mean implicit margin M and the running mean M0, in nats (beta-DPO's batch-level beta; `weight` is w).

    NaN for a NaN margin, so that the loss is NaN too and the engine stops.
    """
    return max(beta * (1 + weight * (margin - running)), BETA_FLOOR * beta)


def running_margin(previous: float | None, margin: float, momentum: float) -> float:
    """M0 after a step of mean implicit margin `margin`; the first step's M where there is none yet."""
    return margin if previous is None else momentum * previous + (1 - momentum) * margin


def madpo_weight(margin: Array, middle: float, scale: float) -> Array:
    """2 / (1 + exp(k * (delta - middle))): from 2 for the hardest pair over 1 at `middle` to 0 for the easiest.

    MADPO's frame is E[-w(h) log sigmoid(beta h_theta)] with a weight that amplifies small reward margins and damps large ones. The shape
    of w is ours within that frame: bounded and continuous, so that no pair, however wrong its score, can take over a step.
    """
    return 1 - np.tanh(scale * (margin - middle) / 2)  # the same function, and no margin overflows it


@dataclass(frozen=True)
class MarginScale:
    """What raw margins are divided by. They are never centred: the sign says whether the reward model agrees with the ranking."""

    divisor: float
    kind: str


def varies(settings: AlignmentSettings) -> bool:
    """Whether beta can differ from pair to pair under these settings."""
    return settings.beta_weight > 0 and settings.beta_schedule == "drs"


def uses_margins(settings: AlignmentSettings) -> bool:
    """Whether training depends on the reward model's margins under these settings."""
    return varies(settings) or settings.beta_schedule == "madpo"


def margin_scale(settings: AlignmentSettings, raw_margins: Array, calibration_margins: Array) -> MarginScale:
    """The divisor by `alignment.margins`: raw 1, standardized the training pairs' standard deviation, calibrated a fitted temperature.

    Raises UserError where training depends on the margins and they can't be scaled: all equal, no calibration pairs, or no temperature.
    """
    kind = settings.margins
    scored = raw_margins[~np.isnan(raw_margins)]
    if kind == "raw":
        return MarginScale(1.0, kind)
    if kind == "standardized":
        deviation = float(np.std(scored)) if len(scored) else 0.0
        if deviation == 0 and not uses_margins(settings):
            return MarginScale(1.0, kind)
        if deviation == 0:
            raise UserError(
                "the reward model gives every training pair the same margin, so margins can't be standardized: "
                "retrain it, or set alignment.margins to raw"
            )
        return MarginScale(deviation, kind)
    if len(calibration_margins) == 0:
        raise UserError(
            "alignment.margins is calibrated, but no calibration pairs were kept: set reward.calibration_share above 0, such as 0.1"
        )
    temperature = fit_temperature(calibration_margins)
    if temperature is None and uses_margins(settings):
        raise UserError(
            "alignment.margins is calibrated, but the reward model orders the calibration pairs no better than a coin, so no temperature "
            "fits its margins: retrain it, or set alignment.margins to standardized"
        )
    return MarginScale(temperature or 1.0, kind)


def controlled(margins: Array, settings: AlignmentSettings) -> Array:
    """The margins [P] as `alignment.margin_control` hands them to the pairs: the same values, so the same betas on the whole.

    `shuffled` draws who has which with `alignment.seed`, or 0; `reversed` gives the pair of the greatest margin the least one, and so on. A
    NaN stays where it is.
    """
    if settings.margin_control == "none":
        return margins
    changed = margins.copy()
    scored = np.flatnonzero(~np.isnan(margins))
    if settings.margin_control == "shuffled":
        changed[scored] = np.random.default_rng(settings.seed or 0).permutation(margins[scored])
    else:
        ascending = scored[np.argsort(margins[scored], kind="stable")]
        changed[ascending] = margins[ascending[::-1]]
    return changed


def fit_temperature(margins: Array) -> float | None:
    """The temperature T that makes sigmoid(margin / T) the likeliest probability of the ranking; None where none is better than none.

    Platt scaling without a bias, with Platt's targets: n pairs that all agree have the target (n + 1) / (n + 2), not 1, which would send T
    to 0 and every beta to its cap.
    """
    from scipy.optimize import minimize_scalar

    target = (len(margins) + 1) / (len(margins) + 2)

    def loss(log_t: float) -> float:
        logits = margins / np.exp(log_t)
        return float(np.mean(target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits)))

    low, high = LOG_TEMPERATURES
    log_temperature = float(minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded").x)
    return None if log_temperature > high - 0.01 * (high - low) else float(np.exp(log_temperature))


def pair_betas(margins: Array, settings: AlignmentSettings) -> Array:
    """Beta of every pair as known before training; NaN margins (no score) give beta0, and so do schedules that are not pair by pair."""
    if settings.beta_schedule != "drs":
        return np.full(len(margins), settings.beta)
    betas = drs_beta(np.nan_to_num(margins, nan=0.0), settings.beta, settings.beta_weight, settings.beta_scale)
    return np.where(np.isnan(margins), settings.beta, betas)


def pair_weights(margins: Array, settings: AlignmentSettings) -> Array:
    """What every pair's preference loss is multiplied by: 1, or under madpo its weight around the training pairs' median margin.

    The weights' mean over the pairs with a margin is 1, so the learning rate means what it means without; a NaN margin has weight 1.
    """
    weights = np.ones(len(margins))
    scored = ~np.isnan(margins)
    if settings.beta_schedule != "madpo" or not scored.any():
        return weights
    raw = madpo_weight(margins[scored], float(np.median(margins[scored])), settings.beta_scale)
    weights[scored] = raw / raw.mean()
    return weights


def at_cap(betas: Array, settings: AlignmentSettings) -> float:
    """Share of the betas that lie at the upper end of their range."""
    return float(np.mean(betas >= settings.beta + CAP_SHARE * settings.beta * settings.beta_weight))


def beta_summary(betas: Array, settings: AlignmentSettings) -> dict[str, float | None]:
    """min, mean, max, and the shares at the cap and at the floor (None when beta can't vary)."""
    span = settings.beta * settings.beta_weight
    return {
        "beta.min": float(betas.min()),
        "beta.mean": float(betas.mean()),
        "beta.max": float(betas.max()),
        "beta.share_at_cap": at_cap(betas, settings) if varies(settings) else None,
        "beta.share_at_floor": float(np.mean(betas <= settings.beta + FLOOR_SHARE * span)) if varies(settings) else None,
    }


def weight_summary(weights: Array) -> dict[str, float]:
    """min, mean and max of the pairs' weights, the share of pairs that gain by theirs, and how many pairs' worth they are, as a share.

    `weight.effective_share` is (sum w)^2 / (n sum w^2): 1 where all weigh the same, 1 / n where one pair has everything.
    """
    return {
        "weight.min": float(weights.min()),
        "weight.mean": float(weights.mean()),
        "weight.max": float(weights.max()),
        "weight.share_above_one": float(np.mean(weights > 1)),
        "weight.effective_share": float(weights.sum() ** 2 / (len(weights) * np.sum(weights**2))),
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
