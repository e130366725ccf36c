"""The gate's decision: a finding a rule, and the sentences of a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from components.registry.policy import POLICY_FILE
from components.registry.reuse import Sight
from components.statistics import Interval

Outcome = Literal["passed", "failed", "off", "unfed", "note"]  # unfed: the held-out rows have nothing that the rule judges


@dataclass(frozen=True)
class Lack:
    """What a rule has too few of: its key in the file of rules, how many it has in words, and what to add."""

    key: str
    cases: str
    cure: str


class NoMetricError(Exception):
    """A metric that can't be computed; the text says why. `cases` and `cure` are those of a `Lack`, where held-out rows are lacking."""

    def __init__(self, text: str, cases: str = "", cure: str = "") -> None:
        super().__init__(text)
        self.cases, self.cure = cases, cure


class UnfedError(Exception):
    """The held-out rows have nothing that the rule judges; the text says what is missing and what to add."""


@dataclass(frozen=True)
class Measure:
    """The numbers that decided a rule, in shares of 1.

    `value` is the challenger's, `reference` that of the model called `against`, both None where the rule has no reference. A rule by comparisons of
    answers has `against` alone, and by preferences `difference`: those for the challenger less those against it. `low` and `high` are the
    ends of the interval of their `difference`, or of the value, in this look; the rule holds where the end that decides is on the right side of `bound`.
    """

    value: float
    low: float
    high: float
    bound: float
    decides: Literal["low", "high"]
    rows: int
    groups: int
    reference: float | None = None
    against: str | None = None
    difference: float | None = None


@dataclass(frozen=True)
class Finding:
    """The outcome of one rule, with its reason. `lack` is set where it failed for want of held-out rows, `measure` where it has an interval.

    `metric` is what the rule judged, and `raw` the same without correction for the judges' errors, where judges decided it.
    """

    rule: str
    outcome: Outcome
    sentence: str
    lack: Lack | None = None
    measure: Measure | None = None
    metric: Interval | None = None
    raw: Interval | None = None


@dataclass(frozen=True)
class Decision:
    """The verdict. `reasons` are sentences: failed rules first, then passed ones, those that are switched off,
    and those that the held-out rows can't feed.

    Where several rules failed for want of held-out rows, one sentence names them all; it comes last among the failed ones.
    """

    promote: bool
    findings: tuple[Finding, ...]
    sight: Sight | None = None  # what the rule on safety could see

    @property
    def rules(self) -> list[dict[str, Any]]:
        """For JSON, each rule's outcome, sentence and numbers: `measure`, None without an interval, and `raw`, where judges decided the rule."""
        return [
            {
                "rule": f.rule,
                "outcome": f.outcome,
                "sentence": f.sentence,
                "measure": None if f.measure is None else asdict(f.measure),
                "raw": None if f.raw is None else {"value": f.raw.value, "low": f.raw.low, "high": f.raw.high},
            }
            for f in self.findings
            if f.outcome != "note"
        ]

    @property
    def reasons(self) -> list[str]:
        """The sentences, those of failed rules first."""
        order: dict[Outcome, int] = {"failed": 0, "passed": 1, "off": 2, "unfed": 3, "note": 4}
        ordered = sorted(self.findings, key=lambda f: order[f.outcome])
        lacks = list(dict.fromkeys(f.lack for f in ordered if f.lack is not None))
        if len(lacks) < 2:
            return [f.sentence for f in ordered]
        judged = [f for f in ordered if f.lack is None]
        failed = sum(f.outcome == "failed" for f in judged)
        sentences = [f.sentence for f in judged]
        return [*sentences[:failed], lacking(lacks), *sentences[failed:]]


def lacking(lacks: Sequence[Lack]) -> str:
    """One sentence on all rules that have too little to judge: what each has, what to add, and the setting that switches each off."""
    cures = "; ".join(dict.fromkeys(lack.cure for lack in lacks))
    return (
        f"{len(lacks)} rules have too few held-out rows to judge: {', '.join(f'{lack.key} ({lack.cases})' for lack in lacks)}: {cures}; or switch "
        f'each of them off with a reason in {POLICY_FILE}: {{ enabled: false, reason: "..." }}'
    )
