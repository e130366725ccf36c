"""Held-out pairs in their ranks' order, by the policy and by the text-only baseline; and the parts that the evaluation reports apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.report.changes import Changes
from components.report.estimates import Change, Estimate
from components.report.judgements import OUTCOMES
from components.report.record import Record, Row
from components.report.summary import PARTS, part_names
from components.report.table import POLICY_ROWS
from components.statistics import LEAST_GROUPS

# metric to the key of its count in the evaluation's metrics
COUNT_OF = {
    "conversation": "conversation",
    "unsafe_rate": "harmful",
    "over_refusal_rate": "harmless",
    "hallucination_rate": "descriptions",
    "degenerate_rate": "answers",
}


@dataclass(frozen=True)
class PairOrder:
    """The share of held-out pairs that the policy and the text-only baseline order as ranked, and the policy's gain over the baseline."""

    pairs: int | None
    policy: Estimate
    text: Estimate
    gain: Change
    acc: Estimate  # of the reward model


@dataclass(frozen=True)
class PartRow:
    """One metric of a part of the held-out queries; `whole` is the aligned policy's over all of them."""

    name: str
    cases: int
    more_is_better: bool
    base: Estimate
    aligned: Estimate
    change: Change
    whole: Estimate


@dataclass(frozen=True)
class PartMetrics:
    """A named part of the held-out queries."""

    name: str
    queries: int | None
    rows: list[PartRow]
    order: PairOrder

    @property
    def few(self) -> int | None:
        """The groups that an interval needs, where a metric has none; None where all have one."""
        return LEAST_GROUPS if any(row.aligned.low is None for row in self.rows) else None


def read_order(record: Record, changes: Changes) -> PairOrder:
    """The order of all held-out pairs."""
    metrics = record.metrics("evaluate")
    policy, text, acc = (Estimate.of(metrics, name) for name in ("policy.preference_accuracy", "reward.acc_text_only", "reward.acc"))
    return PairOrder(metrics.get("reward.pairs"), policy, text, _gain(changes, changes.ordered), acc)


def read_parts(record: Record, changes: Changes) -> list[PartMetrics]:
    """The parts that the source of held-out rows names."""
    metrics = record.metrics("evaluate")
    names = part_names(metrics)
    sources = record.table("validate", "heldout/queries.parquet", "id", "source") if names else []
    return [
        _part(name, metrics, changes, {row["id"] for row in sources if str(row["source"]).endswith(f"; {name} part")}) for name in names
    ]


def _part(name: str, metrics: Mapping[str, Any], changes: Changes, ids: Collection[str]) -> PartMetrics:
    prefix = f"{PARTS}{name}."
    own = [(before, after) for before, after in changes.pairs if before["id"] in ids]
    rows = []
    for key, words, more_is_better, share in POLICY_ROWS:
        cases = metrics.get(f"{prefix}policy.aligned.counts.{COUNT_OF[key]}")
        if cases:
            scale = 100 if share else 1
            base, aligned = (Estimate.of(metrics, f"{prefix}policy.{model}.{key}", scale, cases) for model in ("base", "aligned"))
            whole = Estimate.of(metrics, f"policy.aligned.{key}", scale, metrics.get(f"policy.aligned.counts.{COUNT_OF[key]}"))
            change = changes.change(own, OUTCOMES[key], base, aligned, more_is_better=more_is_better)
            rows.append(PartRow(words.replace(" (of 100)", ""), cases, more_is_better, base, aligned, change, whole))
    ordered = [row for row in changes.ordered if row["id"] in ids]
    keys, pairs = [row["id"] for row in ordered], [row["pairs"] for row in ordered]
    policy = changes.share(keys, [row["correct"] for row in ordered], pairs)
    text, acc = (Estimate.of(metrics, f"{prefix}reward.{name}") for name in ("acc_text_only", "acc"))
    order = PairOrder(metrics.get(f"{prefix}reward.pairs"), policy, text, _gain(changes, ordered), acc)
    return PartMetrics(name, metrics.get(f"{prefix}policy.aligned.counts.answers"), rows, order)


def _gain(changes: Changes, ordered: Sequence[Row]) -> Change:
    gains = [row["correct"] - row["text_correct"] for row in ordered]
    gain = changes.difference([row["id"] for row in ordered], gains, [row["pairs"] for row in ordered])
    return Change.of(Estimate(None) if gain is None else gain, more_is_better=True)
