"""Intervals that hold where rows share a picture or a wording: shares, ratios and paired differences, for evaluation, the gate and comparisons.

Callers use `Intervals(confidence)`: `.share(events, cases, clusters)` for a proportion or a ratio from 0 to 1, `.difference(changes, cases, clusters)`
for a paired difference of two models on the same rows, and `.add` to write a share's value and both ends as metrics. `clusters` has each row's names,
as `Query.clusters`. The results are an `Interval`: value, low, high, `chance` (the p value of no difference), `detectable` (what so many rows can see).
`share_bounds` and `difference_bounds` are the same methods over many samples at once; `benchmarks.coverage` measures them.

- The variance is that of sums over clusters, by inclusion and exclusion where there are several ways to share (Cameron, Gelbach and Miller, Journal
  of Business and Economic Statistics 29, 2011), each sum scaled by its leverage (CR3, the jackknife; Bell and McCaffrey, Survey Methodology 28, 2002).
- Its degrees of freedom follow from the kurtosis of those sums, and are at most the smallest number of groups less one: few groups with an event
  say little of the variance.
- A share has the exact (Clopper-Pearson) interval of its effective sample size (Korn and Graubard, Survey Methodology 24, 1998), moved inwards by
  `CONTINUITY`, because the exact one covers too often. So no event in 200 rows leaves a share of some percent.
- A difference has Bonett and Price's interval (Statistics in Medicine 31, 2012): one more row with +1 and one with -1. So no change in any row
  leaves a width.
- The fewer rows differ (half at `FEWEST`), the more the design effect is drawn to that of an intraclass correlation of `CORRELATION`: no event can
  measure it.
- With fewer than `LEAST_GROUPS` groups there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Clusters = Sequence[Mapping[str, str]]
LEAST_GROUPS = 20
CORRELATION, FEWEST = 0.1, 1.0
CONTINUITY = 0.3
PSEUDO_ROWS = 2  # +1 and -1
POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """A value with both ends of its two-sided interval; the ends are None with too few groups.

    `error` is the standard error with the design effect, `freedom` its degrees of freedom, `rows` and `groups` how many there are of each.
    """

    value: float
    low: float | None
    high: float | None
    error: float
    freedom: float
    rows: int
    groups: int

    @property
    def chance(self) -> float | None:
        """The two-sided p value of a true difference of 0; None with too few groups."""
        from scipy.special import stdtr

        if self.low is None:
            return None
        return float(2 * stdtr(self.freedom, -abs(self.value) / self.error)) if self.error else float(self.value == 0)

    def detectable(self, tail: float, power: float = POWER) -> float:
        """The smallest difference that a test with `tail` on one side sees with `power`."""
        from scipy.special import stdtrit

        return float((stdtrit(self.freedom, 1 - tail) + NormalDist().inv_cdf(power)) * self.error)


class Groups:
    """Which rows share a cluster, by every name of a cluster. A row without a name's cluster is a group of its own in it.

    A name whose groups all lie inside those of another name adds nothing, and is left out.
    """

    def __init__(self, clusters: Clusters) -> None:
        from scipy.sparse import csr_array

        self.rows = len(clusters)
        codes = _coarsest([_codes([row.get(name) for row in clusters]) for name in sorted({name for row in clusters for name in row})])
        codes = codes or [np.arange(self.rows)]
        self._ways: list[tuple[int, bool, csr_array]] = []  # sign, whether it is one name's, rows by groups
        for size in range(1, len(codes) + 1):
            for chosen in combinations(codes, size):
                code = _joined(chosen)
                shape = (self.rows, int(code.max(initial=-1)) + 1)
                self._ways.append(
                    (1 if size % 2 else -1, size == 1, csr_array((np.ones(self.rows), (np.arange(self.rows), code)), shape=shape))
                )

    @property
    def least(self) -> int:
        """The number of groups of the name that has fewest."""
        return min(int(matrix.shape[1]) for _, single, matrix in self._ways if single)

    def assumed(self) -> float:
        """The design effect of an intraclass correlation of `CORRELATION` in every name's groups."""
        sizes = [matrix.sum(axis=0) for _, single, matrix in self._ways if single]
        return 1 + CORRELATION * sum(float((size**2).sum() / size.sum()) - 1 for size in sizes)

    def variance(self, scores_SN: Floats, cases_N: Floats) -> tuple[Floats, Floats]:
        """Variance of the sum of scores, and its degrees of freedom, of each sample S; `cases` are the rows' denominators."""
        total, largest, freedom = np.zeros(len(scores_SN)), np.zeros(len(scores_SN)), np.full(len(scores_SN), float(self.least - 1))
        for sign, single, matrix in self._ways:
            share_G = (cases_N @ matrix) / cases_N.sum()
            squares_SG = ((scores_SN @ matrix) / np.maximum(1 - share_G, 1e-9)) ** 2
            variance = squares_SG.sum(axis=1)
            total += sign * variance
            if single:
                largest = np.maximum(largest, variance)
                fourth = matrix.shape[1] * (squares_SG**2).sum(axis=1)
                kurtosis = np.divide(fourth, variance**2, out=np.ones_like(variance), where=variance > 0)
                freedom = np.minimum(freedom, 2 * matrix.shape[1] / np.maximum(kurtosis - 1, 1e-9))
        return np.maximum(total, largest / 2), np.maximum(freedom, 1)


def share_bounds(events_SN: Floats, cases_N: Floats, groups: Groups, tail: float) -> tuple[Floats, Floats, Floats]:
    """(share, low, high) of sum(events) / sum(cases) for each sample S, with `tail` outside each end. 0 <= events <= cases."""
    from scipy.special import betaincinv, stdtrit  # bit for bit the quantiles of scipy.stats, whose import takes a second

    share, effect, freedom = _shares(events_SN, cases_N, groups)
    spread = _row_variance(events_SN, cases_N, share)
    whole = np.where(spread > 0, share * (1 - share) / np.where(spread > 0, spread, 1), groups.rows)
    whole = np.minimum(whole, cases_N.sum())  # rows that say so much independently
    freedom = np.minimum(freedom + 2 * PSEUDO_ROWS, max(groups.least - 1, 1))  # a single event leaves some degrees too
    ratio = np.where(spread > 0, (stdtrit(max(groups.rows - 1, 1), 1 - tail) / stdtrit(freedom, 1 - tail)) ** 2, 1)
    size = np.minimum(whole / effect * ratio, whole)
    yes, no = share * size, (1 - share) * size
    end = tail ** (1 / size)
    low = np.where(no <= 0, end, betaincinv(np.maximum(yes, 1e-12) + CONTINUITY, no + 1 - CONTINUITY, tail))
    high = np.where(yes <= 0, 1 - end, betaincinv(yes + 1 - CONTINUITY, np.maximum(no, 1e-12) + CONTINUITY, 1 - tail))
    return share, np.where(yes <= 0, 0.0, low), np.where(no <= 0, 1.0, high)


def difference_bounds(changes_SN: Floats, cases_N: Floats, groups: Groups, tail: float) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """(difference, low, high, standard error, degrees of freedom) of sum(changes) / sum(cases) for each sample S; -cases <= changes <= cases."""
    from scipy.special import stdtrit

    value, effect, freedom = _differences(changes_SN, cases_N, groups)
    size = cases_N.mean()
    total = cases_N.sum() + PSEUDO_ROWS * size
    center = changes_SN.sum(axis=1) / total
    squares = ((changes_SN - center[:, None] * cases_N) ** 2).sum(axis=1) + size**2 * ((1 - center) ** 2 + (1 + center) ** 2)
    error = np.sqrt(squares * effect) / total
    freedom = np.minimum(freedom + 2 * PSEUDO_ROWS, max(groups.least - 1, 1))  # each row that differs gives some two, the added ones too
    half = stdtrit(freedom, 1 - tail) * error
    return value, np.maximum(center - half, -1.0), np.minimum(center + half, 1.0), error, freedom


def _shares(events_SN: Floats, cases_N: Floats, groups: Groups) -> tuple[Floats, Floats, Floats]:
    differing = np.minimum((events_SN > 0).sum(axis=1), (events_SN < cases_N).sum(axis=1))
    return _estimates(events_SN, cases_N, groups, differing)


def _differences(changes_SN: Floats, cases_N: Floats, groups: Groups) -> tuple[Floats, Floats, Floats]:
    return _estimates(changes_SN, cases_N, groups, (changes_SN != 0).sum(axis=1))


def _estimates(top_SN: Floats, cases_N: Floats, groups: Groups, differing: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """(ratio, design effect, degrees of freedom); the effect is drawn to the assumed one where few rows differ."""
    ratio = top_SN.sum(axis=1) / cases_N.sum()
    variance, freedom = groups.variance(top_SN - ratio[:, None] * cases_N, cases_N)
    alike = _row_variance(top_SN, cases_N, ratio) * cases_N.sum() ** 2
    measured = np.divide(variance, alike, out=np.ones_like(variance), where=alike > 0)
    weight = FEWEST**2 / (differing**2 + FEWEST**2)
    effect = np.maximum(measured, (1 - weight) * measured + weight * groups.assumed())
    return ratio, effect, freedom


def _row_variance(top_SN: Floats, cases_N: Floats, ratio: Floats) -> Floats:
    """The ratio's variance if every row were a group of its own."""
    return np.asarray(((top_SN - ratio[:, None] * cases_N) ** 2).sum(axis=1) / cases_N.sum() ** 2)


@dataclass(frozen=True)
class Intervals:
    """Two-sided intervals at `confidence`."""

    confidence: float

    @property
    def tail(self) -> float:
        """The chance outside each end."""
        return (1 - self.confidence) / 2

    def share(self, events: Sequence[float], cases: Sequence[float] | None = None, clusters: Clusters | None = None) -> Interval | None:
        """The interval of sum(events) / sum(cases), both one a row (cases: 1); None without cases."""
        rows = _rows(events, cases, clusters)
        if rows is None:
            return None
        top, bottom, groups = rows
        (value,), (low,), (high,) = share_bounds(top, bottom, groups, self.tail)
        _, effect, freedom = _shares(top, bottom, groups)
        error = math.sqrt(float(_row_variance(top, bottom, np.array([value]))[0] * effect[0]))
        return _interval((value, low, high), error, float(freedom[0]), groups)

    def difference(
        self, changes: Sequence[float], cases: Sequence[float] | None = None, clusters: Clusters | None = None
    ) -> Interval | None:
        """The interval of sum(changes) / sum(cases): a row's change is one model's events less the other's; None without cases."""
        rows = _rows(changes, cases, clusters)
        if rows is None:
            return None
        top, bottom, groups = rows
        (value,), (low,), (high,), (error,), (freedom,) = difference_bounds(top, bottom, groups, self.tail)
        return _interval((value, low, high), float(error), float(freedom), groups)

    def add(
        self,
        metrics: MutableMapping[str, float | int | None],
        key: str,
        rows: tuple[Sequence[float], Sequence[float] | None, Clusters | None],
        scale: float = 1,
    ) -> None:
        """Put a share's value and both ends, times `scale`, into `metrics` as key, key_low and key_high; `rows` are events, cases, clusters."""
        interval = self.share(*rows)
        values = (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
        for name, value in zip((key, f"{key}_low", f"{key}_high"), values, strict=True):
            metrics[name] = None if value is None else scale * value


def _interval(values: tuple[float, float, float], error: float, freedom: float, groups: Groups) -> Interval:
    value, low, high = map(float, values)
    whole = groups.least >= LEAST_GROUPS
    return Interval(value, low if whole else None, high if whole else None, error, freedom, groups.rows, groups.least)


def _rows(top: Sequence[float], cases: Sequence[float] | None, clusters: Clusters | None) -> tuple[Floats, Floats, Groups] | None:
    values = np.asarray(top, dtype=np.float64)
    bottom = np.ones_like(values) if cases is None else np.asarray(cases, dtype=np.float64)
    chosen = np.flatnonzero(bottom > 0)
    if not len(chosen):
        return None
    names: Clusters = [{} for _ in chosen] if clusters is None else [clusters[int(index)] for index in chosen]
    return values[None, chosen], bottom[chosen], Groups(names)


def _codes(names: Sequence[str | None]) -> NDArray[np.int64]:
    """A number a group; a row without a name has its own."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(index if name is None else name, len(numbers)) for index, name in enumerate(names)], dtype=np.int64)


def _joined(codes: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The groups of rows that share a group in all of `codes`."""
    joined = codes[0]
    for code in codes[1:]:
        joined = np.unique(joined * (code.max(initial=0) + 1) + code, return_inverse=True)[1].reshape(-1)
    return joined


def _coarsest(codes: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Those of `codes` whose groups don't all lie inside the groups of another."""
    chosen: list[NDArray[np.int64]] = []
    for code in sorted(codes, key=lambda code: int(code.max(initial=-1))):
        groups = int(code.max(initial=-1)) + 1
        if not any(int(_joined((code, coarser)).max(initial=-1)) + 1 == groups for coarser in chosen):
            chosen.append(code)
    return chosen


def wilson(events: float, n: float, confidence: float) -> tuple[float, float]:
    """One-sided Wilson score bounds of a proportion, each at `confidence`."""
    z = NormalDist().inv_cdf(confidence)
    p = events / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))
