"""Differences of two arms, paired by seed: interval, what was to be seen, and how many seeds would show two points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats

POINTS = 2.0  # the difference that a study should see
POWER = 0.8
ALPHA = 0.05
MOST_SEEDS = 10_000
GRID = 4000


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> dict[str, Any]:
    """The mean of first - second over the seeds that both have, with Student's interval at 95 %; None without two of them.

    `detectable` is the difference that so many seeds show with power .8, `seeds_for_2_points` how many show two points.
    """
    seeds = sorted(first.keys() & second.keys())
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    report: dict[str, Any] = {"seeds": len(seeds), "mean": float(differences.mean()) if seeds else None}
    if len(seeds) < 2:
        return report | dict.fromkeys(("sd", "low", "high", "p", "detectable", "seeds_for_2_points"))
    deviation = float(differences.std(ddof=1))
    half = float(stats.t.ppf(1 - ALPHA / 2, len(seeds) - 1)) * deviation / math.sqrt(len(seeds))
    return report | {
        "sd": deviation,
        "low": report["mean"] - half,
        "high": report["mean"] + half,
        "p": float(stats.ttest_1samp(differences, 0.0).pvalue) if deviation > 0 else None,
        "detectable": detectable(deviation, len(seeds)),
        "seeds_for_2_points": seeds_needed(deviation),
    }


def power(difference: float, deviation: float, seeds: int) -> float:
    """Of a two-sided paired t-test at .05, for a true difference, both in the same unit."""
    if deviation == 0:
        return 1.0
    critical = stats.t.ppf(1 - ALPHA / 2, seeds - 1)
    shift = difference / deviation * math.sqrt(seeds)
    # SciPy's noncentral t is NaN at few degrees of freedom, so the normal's tails are averaged over the deviation's own distribution.
    measured = np.sqrt(stats.chi2.ppf((np.arange(GRID) + 0.5) / GRID, seeds - 1) / (seeds - 1))
    return float(np.mean(stats.norm.sf(critical * measured - shift) + stats.norm.cdf(-critical * measured - shift)))


def detectable(deviation: float, seeds: int) -> float:
    """The least difference that `seeds` pairs show with power .8."""
    if deviation == 0:
        return 0.0
    return float(optimize.brentq(lambda difference: power(difference, deviation, seeds) - POWER, 1e-9, 100 * deviation))


def seeds_needed(deviation: float, difference: float = POINTS) -> int:
    """The fewest seeds with which `difference` is seen with power .8, at least 2."""
    low, high = 1, 2
    while power(difference, deviation, high) < POWER:
        low, high = high, high * 2
        if high > MOST_SEEDS:
            return MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power(difference, deviation, middle) < POWER else (low, middle)
    return high


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean and standard deviation of an arm's endpoint over its seeds."""
    return {"seeds": len(values), "mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}
