"""The metrics of a run: the policy against base and champion, accuracy by category, the reward model.

- All values are in points of 100. Intervals of single metrics come from the evaluation. Intervals of changes are computed here, from queries
  that both policies answered, with the evaluation's method and settings.
- A change has a tone only when its interval excludes 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.registry.judgement import CURES
from components.report.changes import Changes
from components.report.estimates import Change, Estimate, scaled
from components.report.judgements import OUTCOMES, JudgedBy, good, judge_table, judges_of
from components.report.parts import COUNT_OF, PairOrder, PartMetrics, read_order, read_parts
from components.report.record import Record, Row, lookup
from components.report.summary import CATEGORIES, CORRECTED
from components.report.table import POLICY_ROWS

COLUMNS = {  # of the results that the gate reads, by metric
    "conversation": "good",
    "unsafe_rate": "unsafe",
    "over_refusal_rate": "over_refused",
    "hallucination_rate": "hallucinated",
    "degenerate_rate": "degenerate",
}
JUDGES_PAGE = "docs/judges.md"
NO_VERDICTS = f"No judge decided on an answer of this run, so nothing says how good the answers are ({JUDGES_PAGE} names the judges)."
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
class MetricRow:
    """One line of the headline table."""

    name: str
    more_is_better: bool
    cases: int | None
    base: Estimate
    aligned: Estimate
    change: Change
    champion: Estimate
    corrected: tuple[Estimate, Estimate] | None  # of base and aligned, for the error of the judges; None where one of them has none
    judged_share: float | None  # of the aligned policy's answers of this kind, those that a judge decided, from 0 to 100
    judges: list[JudgedBy]
    gap: str | None  # what is missing of the metric, and what to do


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
class RunMetrics:
    """All metrics of the models on the page."""

    confidence: float
    champion: str | None
    rows: list[MetricRow]
    wins: Estimate
    wins_by: list[JudgedBy]
    wins_by_reward: bool  # the reward model compared the policies, as no other judge did
    judges: list[JudgedBy]  # each on each question
    good_by: list[JudgedBy]  # of the accuracy by category
    order: PairOrder
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

    @property
    def orders(self) -> list[tuple[str, PairOrder]]:
        """The order of all ranked pairs, and of those of each part; none without any."""
        if self.order.policy.value is None and self.order.acc.value is None:
            return []
        return [("all pairs", self.order), *((f"{part.name} part", part.order) for part in self.parts)]

    @property
    def gaps(self) -> list[str]:
        """What the metrics lack, and what to do."""
        return list(dict.fromkeys(row.gap for row in self.rows if row.gap is not None))

    @property
    def unjudged(self) -> bool:
        """Whether no judge said anything of an answer but whether it is degenerate."""
        return all(row.aligned.value is None for row in self.rows[:-1])

    @property
    def no_judges(self) -> str:
        """Why the page names no judge."""
        if self.unjudged:
            return NO_VERDICTS
        return "The run's summary names no judges: the version that wrote it did not record them."


def read_metrics(record: Record, answers: Mapping[str, dict[str, Row]]) -> RunMetrics:
    """The metrics of a run; `answers` is policy to query id to row of answers.parquet."""
    metrics = record.metrics("evaluate")
    changes = Changes(record, answers)
    champion = lookup(record.summary, "gate", "mm-policy", "champion")
    version = lookup(champion, "version")
    return RunMetrics(
        confidence=changes.confidence,
        champion=None if champion is None else f"champion {version}" if version is not None else "champion",
        rows=[_row(record, changes, *row) for row in POLICY_ROWS],
        wins=Estimate.of(metrics, "policy.win_rate"),
        wins_by=judges_of(record.summary, "win_rate"),
        wins_by_reward=bool(metrics.get("policy.win_rate_by_reward_model")),
        judges=judge_table(record.summary),
        good_by=judges_of(record.summary, "accuracy"),
        order=read_order(record, changes),
        categories=[_category(name, metrics, changes) for name in CATEGORIES],
        reward=_reward_rows(record, metrics, changes),
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
        parts=read_parts(record, changes),
    )


def read_answers(record: Record) -> dict[str, dict[str, Row]]:
    """Policy to query id to row of answers.parquet."""
    columns = ("id", "policy", "category", "prompt", "media", "answer", "right", "safe", "refused", "hallucinated", "degenerate")
    answers: dict[str, dict[str, Row]] = {"base": {}, "aligned": {}}
    for row in record.table("evaluate", "answers.parquet", *columns):
        answers.setdefault(row["policy"], {})[row["id"]] = row
    return answers


def _row(record: Record, changes: Changes, name: str, words: str, more_is_better: bool, share: bool) -> MetricRow:
    metrics, scale = record.metrics("evaluate"), 100 if share else 1
    cases = metrics.get(f"policy.aligned.counts.{COUNT_OF[name]}")
    base, aligned = (Estimate.of(metrics, f"policy.{model}.{name}", scale, cases) for model in ("base", "aligned"))
    corrected = tuple(Estimate.of(metrics, f"policy.{model}.{name}_corrected", scale) for model in ("base", "aligned"))
    words, judges = words.replace(" (of 100)", ""), judges_of(record.summary, name)
    gap = None
    if aligned.value is None:
        gap = (
            f"{words}: no held-out answer of this kind was judged; {CURES[COLUMNS[name]]}, or name a judge that reads them ({JUDGES_PAGE})"
        )
    elif name in CORRECTED and corrected[1].value is None:
        gap = f"{words}, corrected: {'; '.join(judge.missing for judge in judges if judge.missing) or 'the evaluation wrote none'}"
    return MetricRow(
        words,
        more_is_better,
        cases,
        base,
        aligned,
        changes.change(changes.pairs, OUTCOMES[name], base, aligned, more_is_better=more_is_better),
        Estimate(scaled(lookup(record.summary, "gate", "mm-policy", "champion", name), scale)),
        (corrected[0], corrected[1]) if all(one.value is not None for one in corrected) else None,
        scaled(metrics.get(f"policy.aligned.judged_share.{name}"), 100),
        judges,
        gap,
    )


def _category(name: str, metrics: Mapping[str, Any], changes: Changes) -> CategoryRow:
    own = [(before, after) for before, after in changes.pairs if before["category"] == name]
    changed = [(good(before), good(after)) for before, after in own]
    cases = metrics.get(f"policy.aligned.counts.{name}")
    base, aligned = (Estimate.of(metrics, f"policy.{model}.accuracy.{name}", cases=cases) for model in ("base", "aligned"))
    return CategoryRow(
        name,
        cases,
        base,
        aligned,
        changes.change(own, OUTCOMES["accuracy"], base, aligned, more_is_better=True),
        changed.count((False, True)) if own else None,
        changed.count((True, False)) if own else None,
    )


def _reward_rows(record: Record, metrics: Mapping[str, Any], changes: Changes) -> list[RewardRow]:
    responses: dict[str, list[Row]] = {}
    for row in record.table("evaluate", "scores.parquet", "id", "rank", *(column for _, column, _ in VARIANTS)):
        responses.setdefault(row["id"], []).append(row)
    rows = []
    uncritiqued = lookup(record.summary, "reward", "critique_source") == "none"
    for key, column, name in VARIANTS_UNCRITIQUED if uncritiqued else VARIANTS:
        change = Estimate(None)
        if column != "own":
            gains = [(key, *gain) for key, query in responses.items() if (gain := _gain(query, column)) is not None]
            change = (
                changes.difference([key for key, *_ in gains], [gained for _, gained, _ in gains], [pairs for *_, pairs in gains]) or change
            )
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
