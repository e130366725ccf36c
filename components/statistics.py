"""Intervals of ratios and proportions, for significance in evaluation, the gate and validation.

- A ratio of two sums over queries has a percentile bootstrap over queries, seeded, so that equal inputs give equal intervals.
- A proportion has Wilson's bounds; the difference of paired proportions has Newcombe's (Statistics in Medicine 17, 1998, method 10).
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BOOTSTRAP_SEED = 20250214
RESAMPLES_AT_ONCE = 250  # rows of indices at once, to bound the memory of a resampling


@dataclass(frozen=True)
class Bootstrap:
    """The bootstrap's settings: `samples` resamples of the queries, intervals at `confidence`."""

    samples: int
    confidence: float

    def ratio(self, numerators: Sequence[float], denominators: Sequence[float] | None = None) -> tuple[float, float, float] | None:
        """(value, low, high) of sum(numerators) / sum(denominators), both one a query; None if all denominators are 0."""
        top = np.asarray(numerators, dtype=np.float64)
        bottom = np.ones_like(top) if denominators is None else np.asarray(denominators, dtype=np.float64)
        top, bottom = top[bottom > 0], bottom[bottom > 0]
        if len(top) == 0:
            return None
        values = self._resample(top, bottom)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(top.sum() / bottom.sum()), float(low), float(high)

    def _resample(self, top: Floats, bottom: Floats) -> Floats:
        random = np.random.default_rng(BOOTSTRAP_SEED)
        pieces = []
        for start in range(0, self.samples, RESAMPLES_AT_ONCE):
            drawn = random.integers(0, len(top), (min(RESAMPLES_AT_ONCE, self.samples - start), len(top)))
            pieces.append(top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1))
        return np.concatenate(pieces)

    def add(
        self,
        metrics: MutableMapping[str, float | int | None],
        key: str,
        numerators: Sequence[float],
        denominators: Sequence[float] | None = None,
    ) -> None:
        """Put the ratio's value and interval into `metrics` as key, key_low and key_high."""
        interval = self.ratio(numerators, denominators)
        metrics.update(zip((key, f"{key}_low", f"{key}_high"), interval or (None, None, None), strict=True))


def newcombe(both: int, first: int, second: int, neither: int, confidence: float) -> tuple[float, float]:
    """One-sided bounds (low, high) of p1 - p2 for paired proportions, each at `confidence`: Newcombe 1998, method 10.

    Of n pairs, `both` have the event in both members, `first` only in the first, `second` only in the second.
    """
    n = both + first + second + neither
    p1, p2 = (both + first) / n, (both + second) / n
    (l1, u1), (l2, u2) = wilson(both + first, n, confidence), wilson(both + second, n, confidence)
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    cross = float(both * neither - first * second)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = cross / math.sqrt(product) if product else 0.0
    below = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    above = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    return p1 - p2 - math.sqrt(max(below, 0)), p1 - p2 + math.sqrt(max(above, 0))


def wilson(events: int, n: int, confidence: float) -> tuple[float, float]:
    """One-sided Wilson score bounds of a proportion, each at `confidence`."""
    z = NormalDist().inv_cdf(confidence)
    p = events / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))
