"""Changes by alignment with their intervals, from queries that both policies answered, by the evaluation's method and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from components.report.estimates import Change, Estimate
from components.report.record import Record, Row
from components.statistics import Intervals

Pairs = Sequence[tuple[Row, Row]]  # a query's rows of two policies in the table of answers


class Changes:
    """The held-out queries of a run with what they share, and intervals at the evaluation's confidence."""

    def __init__(self, record: Record, answers: Mapping[str, Mapping[str, Row]]) -> None:
        self.confidence = float(record.lock_params("evaluate").get("evaluate.confidence", 0.95))
        self._intervals = Intervals(self.confidence)
        self.pairs: Pairs = [(row, answers["aligned"][key]) for key, row in answers["base"].items() if key in answers["aligned"]]
        rows = record.table("evaluate", "results/aligned.parquet", "id", "clusters", "pairs", "correct", "text_correct")
        self.ordered = [row for row in rows if row["pairs"] and row["text_correct"] is not None]  # have pairs that text alone orders too
        self._clusters = {row["id"]: dict(row["clusters"] or ()) for row in rows}

    def difference(self, ids: Sequence[str], changes: Sequence[float], cases: Sequence[float] | None = None) -> Estimate | None:
        """The difference of queries with their changes, in points; None without queries."""
        interval = self._intervals.difference(changes, cases, [self._clusters.get(key, {}) for key in ids])
        return None if interval is None else Estimate.shared(interval.value, interval.low, interval.high, sign=True)

    def share(self, ids: Sequence[str], events: Sequence[float], cases: Sequence[float]) -> Estimate:
        """The share of events in cases."""
        interval = self._intervals.share(events, cases, [self._clusters.get(key, {}) for key in ids])
        return Estimate(None) if interval is None else Estimate.shared(interval.value, interval.low, interval.high)

    def change(
        self, pairs: Pairs, outcome: Callable[[Row], float | None], base: Estimate, aligned: Estimate, *, more_is_better: bool
    ) -> Change:
        """The change of a metric over `pairs`; without answers, the difference of both metrics without an interval."""
        outcomes = [(before["id"], outcome(before), outcome(after)) for before, after in pairs]
        changes = [(key, after - before) for key, before, after in outcomes if before is not None and after is not None]
        change = self.difference([key for key, _ in changes], [change for _, change in changes])
        if change is None:
            both = base.value is not None and aligned.value is not None
            return Change(Estimate((aligned.value or 0) - (base.value or 0) if both else None, sign=True), "none")
        extreme = "" if any(value for _, value in changes) else "no query changed"
        return Change.of(replace(change, extreme=extreme), more_is_better=more_is_better)
