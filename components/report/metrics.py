"""The metrics of a run: the policy against base and champion, accuracy by category, the reward model.

- All values are in points of 100. Intervals of single metrics come from the evaluation. Intervals of changes are computed here, from queries
  that both policies answered, with the evaluation's method and settings.
- A change has a tone only when its interval excludes 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from components.report.record import Record, Row, lookup
from components.report.summary import CATEGORIES, PARTS, part_names
from components.report.table import POLICY_ROWS
from components.report.wording import count, number

Tone = Literal["good", "bad", "unclear", "none"]
# metric to the key of its count in the evaluation's metrics
COUNT_OF = {
    "conversation": "conversation",
    "unsafe_rate": "harmful",
    "over_refusal_rate": "harmless",
    "hallucination_rate": "descriptions",
    "degenerate_rate": "answers",
}
# key in the metrics, column of scores.parquet, words
VARIANTS = (
    ("acc", "own", "with its own critiques"),
    ("acc_gt_critique", "gt_critique", "with given critiques"),
    ("acc_no_critique", "no_critique", "without critiques"),
    ("acc_blank_image", "blank_image", "with the image blanked"),
    ("acc_text_only", "text_only", "word counts of the training responses, without model and image"),
)
# of a reward model that was trained without critiques
OF_CRITIQUES = ("own", "gt_critique", "no_critique")
VARIANTS_UNCRITIQUED = (("acc", "own", "on the response alone"), *(variant for variant in VARIANTS if variant[1] not in OF_CRITIQUES))


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval in points of 100; None where it was not computed."""

    value: float | None
    low: float | None = None
    high: float | None = None
    sign: bool = False  # for changes: written with a plus or a minus
    extreme: str = ""  # stands before the interval where all cases are equal

    @classmethod
    def of(cls, metrics: Mapping[str, Any], key: str, scale: float = 100, cases: int | None = None) -> Estimate:
        """The metric `key` of a stage, over `cases` cases."""
        value, low, high = (_scaled(metrics.get(f"{key}{end}"), scale) for end in ("", "_low", "_high"))
        extreme = f"{'none' if value == 0 else 'all'} of {count(cases)}" if cases and value in {0, 100} else ""
        return cls(value, low, high, extreme=extreme)

    @property
    def text(self) -> str:
        """The value as text."""
        return number(self.value, sign=self.sign)

    @property
    def interval(self) -> str:
        """The interval, empty without one."""
        if self.low is None or self.high is None:
            return self.extreme
        ends = f"{number(self.low, sign=self.sign)} to {number(self.high, sign=self.sign)}"
        return f"{self.extreme}: {ends}" if self.extreme else ends


@dataclass(frozen=True)
class Change:
    """The change of a metric by alignment, and whether it is good."""

    estimate: Estimate
    tone: Tone

    @classmethod
    def of(cls, estimate: Estimate, *, more_is_better: bool) -> Change:
        """The change with its tone: none without an interval, unclear when the interval contains 0."""
        if estimate.value is None or estimate.low is None or estimate.high is None:
            return cls(estimate, "none")
        if estimate.low <= 0 <= estimate.high:
            return cls(estimate, "unclear")
        return cls(estimate, "good" if (estimate.value > 0) == more_is_better else "bad")


@dataclass(frozen=True)
class MetricRow:
    """One line of the headline table."""

    name: str
    more_is_better: bool
    cases: int | None
    base: Estimate
    aligned: Estimate
    change: Change
    champion: Estimate


@dataclass(frozen=True)
class CategoryRow:
    """Accuracy in one category, and how many answers alignment repaired and broke."""

    name: str
    cases: int | None
    base: Estimate
    aligned: Estimate
    change: Change
    repaired: int | None
    broken: int | None


@dataclass(frozen=True)
class RewardRow:
    """ACC of the reward model in one variant; `change` is the difference to the first, which the pipeline uses."""

    name: str
    acc: Estimate
    change: Estimate


@dataclass(frozen=True)
class PartMetrics:
    """A named part of the held-out queries: (words, base, aligned) of each metric of the policy, ACC and its text-only baseline."""

    name: str
    queries: int | None
    pairs: int | None
    rows: list[tuple[str, Estimate, Estimate]]
    acc: Estimate
    acc_text_only: Estimate


@dataclass(frozen=True)
class RunMetrics:
    """All metrics of the models on the page."""

    confidence: float
    champion: str | None
    rows: list[MetricRow]
    wins: Estimate
    preferences: Estimate
    categories: list[CategoryRow]
    reward: list[RewardRow]
    reward_categories: list[tuple[str, Estimate, Estimate]]
    acc_plus: Estimate
    critique_verdicts: Estimate
    reward_pairs: int | None
    reward_queries: int | None
    reward_ties: int | None
    critique_source: str | None  # what the reward model was trained on; None where its stage does not record it
    parts: list[PartMetrics]


Outcome = Callable[[Row], float | None]
Difference = Callable[..., "Estimate | None"]  # of query ids, changes and cases, in points


def good(row: Row) -> bool | None:
    """Whether an answer is good: safe for harmful requests, right for all others."""
    outcome: bool | None = row["right"] if row["safe"] is None else row["safe"]
    return outcome


OUTCOMES: dict[str, Outcome] = {
    "conversation": lambda row: _float(row["right"]) if row["category"] in {"long", "short"} else None,
    "unsafe_rate": lambda row: None if row["safe"] is None else 1.0 - row["safe"],
    "over_refusal_rate": lambda row: _float(row["refused"]) if row["safe"] is None else None,
    "hallucination_rate": lambda row: _float(row["hallucinated"]),
    "degenerate_rate": lambda row: _float(row["degenerate"]),
}


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else scale * value


def _float(value: bool | None) -> float | None:
    return None if value is None else float(value)


def read_metrics(record: Record, answers: Mapping[str, dict[str, Row]]) -> RunMetrics:
    """The metrics of a run; `answers` is policy to query id to row of answers.parquet."""
    from components.statistics import Intervals

    metrics = record.metrics("evaluate")
    settings = record.lock_params("evaluate")
    confidence = float(settings.get("evaluate.confidence", 0.95))
    intervals = Intervals(confidence)
    clusters = {row["id"]: dict(row["clusters"] or ()) for row in record.table("evaluate", "results/aligned.parquet", "id", "clusters")}

    def difference(ids: Sequence[str], changes: Sequence[float], cases: Sequence[float] | None = None) -> Estimate | None:
        interval = intervals.difference(changes, cases, [clusters.get(key, {}) for key in ids])
        if interval is None:
            return None
        low, high = _scaled(interval.low, 100), _scaled(interval.high, 100)
        return Estimate(100 * interval.value, low, high, sign=True)

    pairs = [(row, answers["aligned"][key]) for key, row in answers["base"].items() if key in answers["aligned"]]
    champion = lookup(record.summary, "gate", "mm-policy", "champion")

    rows = []
    for name, words, more_is_better, share in POLICY_ROWS:
        scale = 100 if share else 1
        cases = metrics.get(f"policy.aligned.counts.{COUNT_OF[name]}")
        base, aligned = (Estimate.of(metrics, f"policy.{model}.{name}", scale, cases) for model in ("base", "aligned"))
        rows.append(
            MetricRow(
                words.replace(" (of 100)", ""),
                more_is_better,
                cases,
                base,
                aligned,
                _change(pairs, OUTCOMES[name], base, aligned, difference, more_is_better=more_is_better),
                Estimate(_scaled(lookup(champion, name), scale)),
            )
        )
    version = lookup(champion, "version")
    return RunMetrics(
        confidence=confidence,
        champion=None if champion is None else f"champion {version}" if version is not None else "champion",
        rows=rows,
        wins=Estimate.of(metrics, "policy.win_rate"),
        preferences=Estimate.of(metrics, "policy.preference_accuracy"),
        categories=[_category(name, metrics, pairs, difference) for name in CATEGORIES],
        reward=_reward_rows(record, metrics, difference),
        reward_categories=[
            (name, Estimate.of(metrics, f"reward.category_acc.{name}"), Estimate.of(metrics, f"reward.category_acc_plus.{name}"))
            for name in CATEGORIES
            if metrics.get(f"reward.category_acc.{name}") is not None
        ],
        acc_plus=Estimate.of(metrics, "reward.acc_plus"),
        critique_verdicts=Estimate.of(metrics, "reward.critique_verdict_accuracy"),
        reward_pairs=metrics.get("reward.pairs"),
        reward_queries=metrics.get("reward.queries"),
        reward_ties=metrics.get("reward.score_ties"),
        critique_source=lookup(record.summary, "reward", "critique_source"),
        parts=[_part(name, metrics) for name in part_names(metrics)],
    )


def read_answers(record: Record) -> dict[str, dict[str, Row]]:
    """Policy to query id to row of answers.parquet."""
    columns = ("id", "policy", "category", "prompt", "media", "answer", "right", "safe", "refused", "hallucinated", "degenerate")
    answers: dict[str, dict[str, Row]] = {"base": {}, "aligned": {}}
    for row in record.table("evaluate", "answers.parquet", *columns):
        answers.setdefault(row["policy"], {})[row["id"]] = row
    return answers


def _change(
    pairs: Sequence[tuple[Row, Row]], outcome: Outcome, base: Estimate, aligned: Estimate, difference: Difference, *, more_is_better: bool
) -> Change:
    """The change of a metric over queries that both policies answered; without answers, the difference without an interval."""
    outcomes = [(before["id"], outcome(before), outcome(after)) for before, after in pairs]
    changes = [(key, after - before) for key, before, after in outcomes if before is not None and after is not None]
    change = difference([key for key, _ in changes], [change for _, change in changes])
    if change is None:
        both = base.value is not None and aligned.value is not None
        return Change(Estimate((aligned.value or 0) - (base.value or 0) if both else None, sign=True), "none")
    extreme = "" if any(value for _, value in changes) else "no query changed"
    return Change.of(replace(change, extreme=extreme), more_is_better=more_is_better)


def _category(name: str, metrics: Mapping[str, Any], pairs: Sequence[tuple[Row, Row]], difference: Difference) -> CategoryRow:
    own = [(before, after) for before, after in pairs if before["category"] == name]
    changed = [(good(before), good(after)) for before, after in own]
    cases = metrics.get(f"policy.aligned.counts.{name}")
    base, aligned = (Estimate.of(metrics, f"policy.{model}.accuracy.{name}", cases=cases) for model in ("base", "aligned"))
    return CategoryRow(
        name,
        cases,
        base,
        aligned,
        _change(own, lambda row: _float(good(row)), base, aligned, difference, more_is_better=True),
        changed.count((False, True)) if own else None,
        changed.count((True, False)) if own else None,
    )


def _part(name: str, metrics: Mapping[str, Any]) -> PartMetrics:
    prefix = f"{PARTS}{name}."
    rows = []
    for key, words, _, share in POLICY_ROWS:
        cases = metrics.get(f"{prefix}policy.aligned.counts.{COUNT_OF[key]}")
        if cases:
            scale = 100 if share else 1
            base, aligned = (Estimate.of(metrics, f"{prefix}policy.{model}.{key}", scale, cases) for model in ("base", "aligned"))
            rows.append((f"{words.replace(' (of 100)', '')}, of {count(cases)}", base, aligned))
    return PartMetrics(
        name,
        metrics.get(f"{prefix}policy.aligned.counts.answers"),
        metrics.get(f"{prefix}reward.pairs"),
        rows,
        Estimate.of(metrics, f"{prefix}reward.acc"),
        Estimate.of(metrics, f"{prefix}reward.acc_text_only"),
    )


def _reward_rows(record: Record, metrics: Mapping[str, Any], difference: Difference) -> list[RewardRow]:
    responses: dict[str, list[Row]] = {}
    for row in record.table("evaluate", "scores.parquet", "id", "rank", *(column for _, column, _ in VARIANTS)):
        responses.setdefault(row["id"], []).append(row)
    rows = []
    uncritiqued = lookup(record.summary, "reward", "critique_source") == "none"
    for key, column, name in VARIANTS_UNCRITIQUED if uncritiqued else VARIANTS:
        change = Estimate(None)
        if column != "own":
            gains = [(key, *gain) for key, query in responses.items() if (gain := _gain(query, column)) is not None]
            change = difference([key for key, *_ in gains], [gained for _, gained, _ in gains], [pairs for *_, pairs in gains]) or change
        acc = Estimate.of(metrics, f"reward.{key}")
        if acc.value is not None:
            rows.append(RewardRow(name, acc, change))
    return rows


def _gain(responses: list[Row], column: str) -> tuple[int, int] | None:
    """(correct pairs of one query by `column` minus those by own critiques, its pairs); None when a score is missing."""
    if any(row[column] is None or row["own"] is None for row in responses):
        return None
    pairs = [(a, b) for a in responses for b in responses if a["rank"] < b["rank"]]
    return sum((a[column] > b[column]) - (a["own"] > b["own"]) for a, b in pairs), len(pairs)


def evidence(metrics: RunMetrics) -> str | None:
    """The most important metrics of a verdict, in one sentence."""
    first, unsafe = metrics.rows[0], metrics.rows[1]
    if first.aligned.value is None or first.base.value is None:
        return None
    change = first.change
    bounds = change.estimate.interval
    interval = f", {100 * metrics.confidence:g} % interval {bounds}" if bounds and not change.estimate.extreme else ""
    verb = {"good": "rose", "bad": "fell"}.get(change.tone, "went")
    sentence = f"Right answers {_moved(first.base, first.aligned, verb)} of 100"
    if change.estimate.value:
        sentence += f" ({change.estimate.text}{interval})" + (", which can be chance" if change.tone == "unclear" else "")
    if unsafe.aligned.value is not None and unsafe.base.value is not None:
        sentence += f"; unsafe answers to harmful requests {_moved(unsafe.base, unsafe.aligned, 'went')} %"
    return f"{sentence}."


def _moved(before: Estimate, after: Estimate, verb: str) -> str:
    return f"stayed at {after.text}" if before.text == after.text else f"{verb} from {before.text} to {after.text}"
