"""Shares and paired differences, corrected for the error of the judges that gave the verdicts.

A row's verdict y (1 or 0) of a judge with sensitivity se and specificity sp counts as (y + sp - 1) / (se + sp - 1); their mean is Rogan and Gladen's
estimate (American Journal of Epidemiology 107, 1978). In a difference of two models each verdict has its own judge's error: with one judge it is the
raw difference over se + sp - 1.

- `corrected_share` and `corrected_difference` return a `components.statistics.Interval`. Without error it is the raw interval.
- The rows' part of an interval is that of components/statistics.py on the corrected values, so rows that share a picture or a wording count together.
- The sheet's part: se and sp of a judge have exact (Clopper-Pearson) bounds of their labels. The distances by which rows, se and sp move an end are
  squared and added (Zou and Donner's variance recovery, Statistics in Medicine 27, 2008). Both models of a difference share a judge's se and sp, so
  its uncertainty scales their difference and does not add to it.
- `benchmarks.coverage` measures how often such an interval contains the truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from components.evaluation.error_sheets import Error, Errors
from components.evaluation.labels import Task
from components.evaluation.verdict import GROUND_TRUTH
from components.statistics import Floats, Interval, Intervals

DIGITS = 12  # of a row's value: with one judge it is exactly its verdict


class JudgedRow(NamedTuple):
    """A verdict on the event that a metric counts, the judge and its task, that judge's error, and what the row shares with others."""

    event: bool
    judge: str
    error: Error
    clusters: Mapping[str, str]

    @property
    def judged_by(self) -> Judge:
        """The judge and its error."""
        return self.judge, self.error


class Bounds(NamedTuple):
    """A judge's sensitivity or specificity, or a share of rows, with both ends."""

    value: Any  # a number, or one a simulation
    low: Any
    high: Any


Judge = tuple[str, Error]
Sheet = tuple[Bounds, Bounds]  # sensitivity, specificity


class Part(NamedTuple):
    """Rows of one model with one judge: the judge's index, their weight in the mean (negative for the model that is compared with), their share."""

    judge: int
    weight: float
    share: Floats | float


def good_task(judge: str, *, harmful: bool, harmless: bool) -> tuple[Task, bool]:
    """The task by which a good answer is judged, and whether good is its negative. Ground truth says what is right of harmless requests too."""
    if harmful:
        return "safe", False
    return ("refused", True) if harmless and judge != GROUND_TRUTH else ("right", False)


def judged_row(event: bool, judge: str, task: tuple[Task, bool], errors: Errors, clusters: Mapping[str, str]) -> JudgedRow | str:
    """A row whose event is what `judge` calls positive in the task, or its negative; or why that judge has no error."""
    name, negative = task
    error = errors(judge, name)
    if isinstance(error, str):
        return error
    return JudgedRow(event, f"{judge} {name}", error.of_negative if negative else error, clusters)


def corrected_share(rows: Sequence[JudgedRow], intervals: Intervals) -> Interval | None:
    """The share of rows whose event is true; None without rows."""
    if not rows:
        return None
    sheets = {judge: sheet_bounds(judge[1], intervals.tail) for judge in _judges(rows)}
    sheets = {judge: pooled(sheet, judge[1], _counts(rows, judge)) for judge, sheet in sheets.items()}
    low, high = _range(sheets)
    values = [round((_value(row.event, sheets[row.judged_by]) - low) / (high - low), DIGITS) for row in rows]
    one = intervals.share(values, None, [row.clusters for row in rows])
    assert one is not None, "there are rows"
    return _widened([(1, rows)], sheets, _stretched(one, low, high), (0.0, intervals.tail))


def corrected_difference(pairs: Sequence[tuple[JudgedRow, JudgedRow]], intervals: Intervals) -> Interval | None:
    """The difference of the first model's share and the second's on the same rows; None without rows."""
    if not pairs:
        return None
    new, old = [one for one, _ in pairs], [other for _, other in pairs]
    sheets = {judge: sheet_bounds(judge[1], intervals.tail) for judge in _judges([*new, *old])}
    low, high = _range(sheets)
    values = [(_value(one.event, sheets[one.judged_by]), _value(other.event, sheets[other.judged_by])) for one, other in pairs]
    changes = [round((first - second) / (high - low), DIGITS) for first, second in values]
    one = intervals.difference(changes, None, [row.clusters for row in new])
    assert one is not None, "there are rows"
    return _widened([(1, new), (-1, old)], sheets, _stretched(one, 0.0, high - low), (-1.0, intervals.tail))


def _widened(
    models: Sequence[tuple[int, Sequence[JudgedRow]]], sheets: Mapping[Judge, Sheet], rows: Interval, least_and_tail: tuple[float, float]
) -> Interval:
    """The interval of the rows with the sheets' part in it."""
    least, tail = least_and_tail
    if rows.low is None or rows.high is None:
        return replace(rows, value=_clipped(rows.value, least))
    parts = []
    for sign, own in models:
        for index, judge in enumerate(sheets):
            events, cases = _counts(own, judge)
            parts += [Part(index, sign * cases / len(own), events / cases)] if cases else []
    low, high = (corrected_end(parts, list(sheets.values()), end, sign) for end, sign in ((rows.low, -1), (rows.high, 1)))
    # What the sheets add to the standard error, as the mean of both sides: the detectable difference has it too.
    squares = [(end - rows.value) ** 2 - (of_rows - rows.value) ** 2 for end, of_rows in ((low, rows.low), (high, rows.high))]
    error = math.hypot(rows.error, math.sqrt(max(sum(map(float, squares)) / 2, 0.0)) / NormalDist().inv_cdf(1 - tail))
    value, low, high = (_clipped(one, least) for one in (rows.value, low, high))
    return replace(rows, value=value, low=low, high=high, error=error)


def _stretched(one: Interval, low: float, high: float) -> Interval:
    """An interval of values from 0 to 1 on the scale from `low` to `high`."""
    value, *ends = (None if x is None else low + (high - low) * x for x in (one.value, one.low, one.high))
    assert value is not None
    return replace(one, value=value, low=ends[0], high=ends[1], error=(high - low) * one.error)


def corrected_end(parts: Sequence[Part], sheets: Sequence[Sheet], end: Any, sign: int) -> Any:
    """The lower (sign -1) or upper end, from the end `end` that the rows alone give it. Works on numbers and on one value a simulation."""
    value = mean_of(parts, sheets)
    squares = (end - value) ** 2
    for index, judge in enumerate(sheets):
        for which in (0, 1):
            moved = [_moved(parts, sheets, (index, which, bound), end - value) for bound in judge[which][1:]]
            farthest = np.maximum(*(sign * (one - end) for one in moved))
            squares = squares + np.maximum(farthest, 0.0) ** 2
    return value + sign * np.sqrt(squares)


def mean_of(parts: Sequence[Part], sheets: Sequence[Sheet]) -> Any:
    """The corrected share or difference by the sheets' own values."""
    return sum(part.weight * _corrected(part.share, sheets[part.judge][0].value, sheets[part.judge][1].value) for part in parts)


def sheet_bounds(error: Error, tail: float) -> Sheet:
    """Sensitivity and specificity with exact bounds of their labels, `tail` outside each end."""
    sensitivity, specificity = (exact_bounds(events, n, tail) for events, n in error)
    return sensitivity, specificity


def exact_bounds(events: Any, n: Any, tail: float) -> Bounds:
    """Clopper and Pearson's interval of events / n."""
    from scipy.stats import beta

    low = np.where(events > 0, beta.ppf(tail, np.maximum(events, 1), n - events + 1), 0.0)
    high = np.where(events < n, beta.ppf(1 - tail, events + 1, np.maximum(n - events, 1)), 1.0)
    return Bounds(np.divide(events, n), low, high)


def pooled(sheet: Sheet, error: tuple[tuple[Any, int], tuple[Any, int]], rows: tuple[Any, int]) -> Sheet:
    """Error rates that the rows contradict, pooled with them: a judge finds at least its false alarms, and at most what it does not miss.

    So a share of 2 % by a judge with 4 false alarms on 40 labels is not surely 0: its false alarms are fewer than the labels say.
    """
    (hits, n), (positive, negatives) = error
    events, cases = rows
    most, least = np.divide(hits + events, n + cases), np.divide(positive + cases - events, negatives + cases)
    sensitivity = np.where(events / cases > sheet[0].value, most, sheet[0].value)
    specificity = np.where(events / cases < 1 - sheet[1].value, least, sheet[1].value)
    return (
        Bounds(sensitivity, sheet[0].low, np.maximum(sheet[0].high, sensitivity)),
        Bounds(specificity, sheet[1].low, np.maximum(sheet[1].high, specificity)),
    )


def _moved(parts: Sequence[Part], sheets: Sequence[Sheet], change: tuple[int, int, Any], shift: Any) -> Any:
    """The end of the rows, `shift` above the mean, where one judge's sensitivity (0) or specificity (1) has another value.

    The rows' verdicts stay as they are, so a judge that says less moves their end too. A judge that says nothing moves it anywhere.
    """
    index, which, bound = change
    total = 0.0
    for part in parts:
        sensitivity, specificity = (one.value for one in sheets[part.judge])
        information = sensitivity + specificity - 1
        if part.judge == index:
            sensitivity, specificity = (bound, specificity) if which == 0 else (sensitivity, bound)
        share = part.share + shift * information if part.weight > 0 else part.share
        total = total + part.weight * _corrected(share, sensitivity, specificity)
    return total


def _corrected(share: Any, sensitivity: Any, specificity: Any) -> Any:
    return (share + specificity - 1) / np.maximum(sensitivity + specificity - 1, 1e-9)


def _judges(rows: Sequence[JudgedRow]) -> list[Judge]:
    return list(dict.fromkeys(row.judged_by for row in rows))


def _counts(rows: Sequence[JudgedRow], judge: Judge) -> tuple[int, int]:
    """Events and rows of a judge."""
    own = [row.event for row in rows if row.judged_by == judge]
    return sum(own), len(own)


def _value(event: bool, sheet: Sheet) -> float:
    sensitivity, specificity = (float(one.value) for one in sheet)
    return (float(event) + specificity - 1) / (sensitivity + specificity - 1)


def _range(sheets: Mapping[Judge, Sheet]) -> tuple[float, float]:
    """The least and the largest value that a verdict of these judges counts."""
    values = [_value(event, sheet) for sheet in sheets.values() for event in (False, True)]
    return min(values), max(values)


def _clipped(value: Any, least: float) -> float:
    return float(min(max(float(value), least), 1.0))
