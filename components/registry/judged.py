"""Verdicts on answers as the gate reads them: corrected for the judges' errors, the raw interval beside it.

A row of the results has the judge that decided; the evaluation recorded each judge's error (components/evaluation/error_sheets.py). A judge without
one gives no metric, and the reason names the command that measures it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from components.checkout import IN_CHECKOUT
from components.evaluation.correction import JudgedRow, corrected_difference, corrected_share, good_task, judged_row
from components.evaluation.error_sheets import Errors
from components.evaluation.labels import Task
from components.registry.decision import NoMetricError
from components.statistics import Interval, Intervals

Row = Mapping[str, Any]
JUDGED: dict[
    str, tuple[Task, bool] | None
] = {  # the task of a column, and whether its event is the task's negative; None: each row has its own
    "good": None,
    "unsafe": ("safe", True),
    "over_refused": ("refused", False),
    "hallucinated": ("hallucinated", False),
}


class Judged(NamedTuple):
    """What the gate judges: a metric, and the same as the judges said it, where judges decided it."""

    metric: Interval
    raw: Interval | None = None

    def beside(self, end: str = "") -> str:
        """The raw metric for a sentence: with both ends, or `low` or `high` alone."""
        one = self.raw
        if one is None or one.low is None or one.high is None:
            return ""
        words = {"low": f", at least {percent(one.low)}", "high": f", at most {percent(one.high)}"}
        return f"; raw {percent(one.value)}{words.get(end, f', interval {percent(one.low)} to {percent(one.high)}')}"


class Measures:
    """Shares and differences of a column of the results.

    `good`, `unsafe`, `over_refused` and `hallucinated` are verdicts; `correct` counts pairs; other columns are read from the answers' form or from
    scores, and have no judge.
    """

    def __init__(self, errors: Errors, intervals: Intervals) -> None:
        self._errors, self._intervals = errors, intervals

    def share(self, rows: Sequence[Row], column: str) -> Judged:
        """The share of rows, or of their pairs, with the column's event. NoMetricError where a judge has no error sheet."""
        cases = [float(row["pairs"]) for row in rows] if column == "correct" else None
        raw = self._intervals.share([float(row[column]) for row in rows], cases, [clusters_of(row) for row in rows])
        assert raw is not None, "there are rows"
        if column not in JUDGED:
            return Judged(raw)
        corrected = corrected_share([self._row(row, column) for row in rows], self._intervals)
        assert corrected is not None, "there are rows"
        return Judged(corrected, raw)

    def difference(self, pairs: Sequence[tuple[Row, Row]], column: str, intervals: Intervals | None = None) -> Judged:
        """The first model's share less the second's on the same rows. NoMetricError where a judge has no error sheet."""
        intervals = intervals or self._intervals
        cases = [float(new["pairs"]) for new, _ in pairs] if column == "correct" else None
        changes = [float(new[column]) - float(old[column]) for new, old in pairs]
        raw = intervals.difference(changes, cases, [clusters_of(new) for new, _ in pairs])
        assert raw is not None, "there are rows"
        if column not in JUDGED:
            return Judged(raw)
        corrected = corrected_difference([(self._row(new, column), self._row(old, column)) for new, old in pairs], intervals)
        assert corrected is not None, "there are rows"
        return Judged(corrected, raw)

    def can_compare(self, judge: str) -> None:
        """NoMetricError for a judge that compares answers without an error sheet on what is right."""
        error = self._errors(judge, "right")
        if isinstance(error, str):
            raise NoMetricError(error)

    def _row(self, row: Row, column: str) -> JudgedRow:
        judge = row["description_judge" if column == "hallucinated" else "judge"]
        harmful, harmless = row["unsafe"] is not None, row["over_refused"] is not None
        task = JUDGED[column] or good_task(judge, harmful=harmful, harmless=harmless)
        one = judged_row(row[column], judge, task, self._errors, clusters_of(row))
        if isinstance(one, str):
            raise NoMetricError(one)
        return one


def clusters_of(row: Row) -> dict[str, str]:
    """What the row's query shares with others; Parquet reads a map as its items."""
    return dict(row.get("clusters") or ())


def check_numbers(values: Sequence[Any], words: str) -> None:
    """NoMetricError for a value that is no finite number."""
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise NoMetricError(f"{words}: a value is not a finite number: check {IN_CHECKOUT.results}")


def percent(value: float) -> str:
    """A share for a sentence."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference for a sentence."""
    return f"{100 * value:+.1f}"
