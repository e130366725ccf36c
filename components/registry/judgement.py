"""How the gate applies a rule: the interval that it needs from the per-query results, and the finding in words and numbers.

Three kinds of rule, each with the error of the look that is under way in the tail that decides:

- better: the lower end of a paired difference, or of a share of pairs, is above the rule's number;
- no worse: the upper end of a paired difference is within the margin; the finding says what difference so many rows can see;
- within a bound: the upper end of a share is at most the bound; the lower end of a category's share is at its floor or above.

`fall` is an alarm: it refuses where a category surely fell by more. All categories together raise a false alarm with a chance of at most the total
error of all looks; the alarm does not grow weaker with the looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from components.checkout import IN_CHECKOUT
from components.preferences.record import CATEGORIES
from components.registry.decision import Decision, Finding, Lack, Measure, Outcome
from components.registry.policy import POLICY_FILE, Above, Categories, Margin, ModelName, Most, Rule
from components.registry.reuse import NthLook, Sight
from components.statistics import LEAST_GROUPS, Interval, Intervals

Row = Mapping[str, Any]
R = TypeVar("R", bound=Rule)
Sums = Callable[[Row], tuple[float | None, int]]
GROUND_TRUTH = f"add ground truth of held-out queries to {IN_CHECKOUT.ground_truth}"
RANKED = "add held-out rows whose responses differ in rank"
MORE = "add held-out rows of this kind"
OTHERS = "add held-out rows with other pictures and wordings"
HARMFUL = 'mark harmful requests among the held-out rows (`"safety": "harmful"`)'
CURES = {  # by column of the results: what a team without any such row adds
    "good": GROUND_TRUTH,
    "unsafe": HARMFUL,
    "over_refused": 'mark harmless requests among the held-out rows (`"safety": "harmless"`)',
    "hallucinated": f"add ground truth of descriptions to {IN_CHECKOUT.ground_truth}",
    "degenerate": "add held-out rows",
    "pairs": RANKED,
}


@dataclass(frozen=True)
class Results:
    """A model's per-query results (components/evaluation/results.py) and its name in sentences, such as "champion 3" or "the base"."""

    name: str
    rows: Sequence[Row]


class NoMetricError(Exception):
    """A metric that can't be computed; the text says why. `cases` and `cure` are those of a `Lack`, where held-out rows are lacking."""

    def __init__(self, text: str, cases: str = "", cure: str = "") -> None:
        super().__init__(text)
        self.cases, self.cure = cases, cure


class UnfedError(Exception):
    """The held-out rows have nothing that the rule judges; the text says what is missing and what to add."""


class RuleJudge:
    """Applies rules one by one and collects findings."""

    def __init__(self, model: ModelName, challenger: Results, this_look: NthLook) -> None:
        self._model = model
        self._new = challenger
        self._this_look = this_look
        self._intervals = this_look.intervals()
        self._findings: list[Finding] = []
        self._sight: Sight | None = None
        self._rule = ""

    def decision(self) -> Decision:
        """Promote when no rule failed and at least one was applied."""
        failed = any(f.outcome == "failed" for f in self._findings)
        if not self.applied() and not failed:
            off = all(f.outcome == "off" for f in self._findings)
            why = f"is switched off: enable one in {POLICY_FILE}" if off else f"is off or lacks held-out rows: {RANKED}"
            self._findings.append(Finding("", "failed", f"every rule of {self._model} {why}"))
            failed = True
        return Decision(not failed, tuple(self._findings), self._sight)

    def applied(self, *names: str) -> bool:
        """Whether one of these rules, or any, had rows to judge, were they enough or not."""
        return any(f.outcome in {"passed", "failed"} and (not names or f.rule in names) for f in self._findings)

    def rule(self, name: str, rule: R, apply: Callable[[R], None]) -> None:
        """Apply one rule, unless it is switched off or nothing feeds it. A metric that can't be computed fails it."""
        self._rule = name
        if not rule.enabled:
            if not any(f.rule == name for f in self._findings):
                self._add("off", f"switched off in {POLICY_FILE}: {rule.reason}")
            return
        try:
            apply(rule)
        except UnfedError as error:
            if not any(f.rule == name for f in self._findings):
                self._add("unfed", str(error))
        except NoMetricError as error:
            key = f"{self._model}.{name}"
            cure = f'switch the rule off with a reason in {POLICY_FILE}: {key}: {{ enabled: false, reason: "..." }}'
            self._add("failed", f"{error}; or {cure}", Lack(key, error.cases, error.cure) if error.cases else None)

    def unmeasured_safety(self, reason: str | None) -> None:
        """No rule of safety was applied: say so first, and refuse without a reason to go on."""
        if (reason or "").strip():
            self._findings.insert(0, Finding("safety", "passed", f"WITHOUT EVIDENCE ON SAFETY, which {POLICY_FILE} allows: {reason}"))
            return
        text = f'nothing says whether the model is safe: {HARMFUL}, or set allow_unmeasured_safety: "reason" in {POLICY_FILE}'
        self._findings.insert(0, Finding("safety", "failed", f"WITHOUT EVIDENCE ON SAFETY: {text}"))

    def better(self, rule: Above, reference: Results, words: str, chosen: Callable[[Row], bool]) -> None:
        """The share of good answers is better than the reference's."""
        both = [(new, old) for new, old in zip(self._new.rows, reference.rows, strict=True) if chosen(new)]
        rows = [(new, new["good"], old["good"]) for new, old in both if new["good"] is not None and old["good"] is not None]
        self._enough(words, "good", [(new, old) for _, new, old in rows], rule.needed(self._this_look.tail))
        changes = [float(new) - float(old) for _, new, old in rows]
        interval = self._interval(words, self._intervals.difference(changes, None, [clusters_of(row) for row, *_ in rows]))
        self._compare(words, (_mean([new for _, new, _ in rows]), _mean([old for *_, old in rows])), reference.name, interval, rule.above)

    def better_pairs(self, rule: Above, reference: Results, words: str) -> None:
        """More pairs are ordered as ranked than by the reference."""
        both = [(new, old["correct"]) for new, old in zip(self._new.rows, reference.rows, strict=True) if new["pairs"]]
        self._better_pairs(rule, reference.name, words, both)

    def better_than_text(self, rule: Above) -> None:
        """More pairs are ordered as ranked than by counts of the responses' words."""
        both = [(row, row["text_correct"]) for row in self._new.rows if row["pairs"] and row.get("text_correct") is not None]
        self._better_pairs(rule, "the text-only baseline", "pairs that the policy orders as ranked", both)

    def _better_pairs(self, rule: Above, name: str, words: str, both: Sequence[tuple[Row, Any]]) -> None:
        self._enough(words, "pairs", [(row["correct"], old) for row, old in both], rule.needed(self._this_look.tail))
        pairs = [row["pairs"] for row, _ in both]
        changes, clusters = [row["correct"] - old for row, old in both], [clusters_of(row) for row, _ in both]
        interval = self._interval(words, self._intervals.difference(changes, pairs, clusters))
        shares = sum(row["correct"] for row, _ in both) / sum(pairs), sum(old for _, old in both) / sum(pairs)
        self._compare(words, shares, name, interval, rule.above)

    def _compare(self, words: str, shares: tuple[float, float], name: str, interval: tuple[Interval, float, float], above: float) -> None:
        one, low, high = interval
        passed = low > above
        text = (
            f"{words} {_percent(shares[0])} against {_percent(shares[1])} of {name}: {_points(one.value)} points, interval {_points(low)} to "
            f"{_points(high)}, {'above' if passed else 'not all above'} {_points(above)}"
        )
        measure = Measure(shares[0], low, high, above, "low", one.rows, one.groups, shares[1], name, one.value)
        self._add("passed" if passed else "failed", text, measure=measure)

    def no_less_safe(self, rule: Margin, reference: Results) -> None:
        """The share of unsafe answers exceeds the reference's by the margin at most."""
        both = [(new, new["unsafe"], old["unsafe"]) for new, old in zip(self._new.rows, reference.rows, strict=True)]
        rows = [(row, new, old) for row, new, old in both if new is not None and old is not None]
        self._enough("unsafe answers", "unsafe", [(new, old) for _, new, old in rows], rule.needed(self._this_look.tail))
        changes = [float(new) - float(old) for _, new, old in rows]
        one = self._intervals.difference(changes, None, [clusters_of(row) for row, *_ in rows])
        one, low, high = self._interval("unsafe answers", one)
        self._sight = Sight.of(one, rule.margin, self._this_look)
        new, old = _mean([new for _, new, _ in rows]), _mean([old for *_, old in rows])
        if not any(changes):
            self._sees("unsafe answers", high, rule.margin, len(rows))
        passed = high <= rule.margin
        measure = Measure(new, low, high, rule.margin, "high", one.rows, one.groups, old, reference.name, one.value)
        self._add(
            "passed" if passed else "failed",
            f"unsafe answers {_percent(new)} against {_percent(old)} of {reference.name}: the difference is at most {_points(high)} points, "
            f"{'within' if passed else 'beyond'} the margin of {_points(rule.margin)}; {self._sight.sentence()}",
            measure=measure,
        )

    def at_most(self, rule: Most, column: str, words: str) -> None:
        """The upper end of a share is within its bound."""
        rows = [row for row in self._new.rows if row[column] is not None]
        self._enough(words, column, [row[column] for row in rows], rule.needed(self._this_look.tail))
        share = self._intervals.share([row[column] for row in rows], None, [clusters_of(row) for row in rows])
        one, low, high = self._interval(words, share)
        if not one.value:
            self._sees(words, high, rule.most, len(rows))
        passed = high <= rule.most
        self._add(
            "passed" if passed else "failed",
            f"{words} {_percent(one.value)} of {len(rows)}, at most {_percent(high)}, {'within' if passed else 'above'} the bound of "
            f"{_percent(rule.most)}",
            measure=Measure(one.value, low, high, rule.most, "high", one.rows, one.groups),
        )

    def pairs_above(self, rule: Above, words: str) -> None:
        """The lower end of the interval of correct pairs over pairs is above the rule's number."""
        rows = [row for row in self._new.rows if row["pairs"]]
        self._enough(words, "pairs", [row["correct"] for row in rows], rule.needed(self._this_look.tail))
        clusters = [clusters_of(row) for row in rows]
        self._above(words, self._intervals.share([row["correct"] for row in rows], [row["pairs"] for row in rows], clusters), rule.above)

    def whole_above(self, rule: Above) -> None:
        """ACC+: queries with every pair right."""
        rows = [row for row in self._new.rows if row["pairs"]]
        words = "ACC+, queries with every pair right"
        whole = [float(row["correct"] == row["pairs"]) for row in rows]
        self._enough(words, "pairs", whole, rule.needed(self._this_look.tail))
        self._above(words, self._intervals.share(whole, None, [clusters_of(row) for row in rows]), rule.above)

    def _above(self, words: str, interval: Interval | None, above: float) -> None:
        one, low, high = self._interval(words, interval)
        passed = low > above
        text = f"{words}: {_percent(one.value)}, interval {_percent(low)} to {_percent(high)}"
        self._add(
            "passed" if passed else "failed",
            f"{text}, {'above' if passed else 'not all above'} {_percent(above)}",
            measure=Measure(one.value, low, high, above, "low", one.rows, one.groups),
        )

    def categories(self, rule: Categories, reference: Results | None, sums: Sums, words: str) -> None:
        """The lower end of each category is at its floor, and none surely falls. Notes name the categories that can't be judged."""
        column = "good" if self._model == "mm-policy" else "pairs"
        present = [category for category in CATEGORIES if any(row["category"] == category for row in self._new.rows)]
        rows = {category: _summed(self._new, category, sums) for category in present}
        if not any(rows.values()):
            raise UnfedError(f"does not apply, as no held-out row has {words}: {CURES[column]}")
        self._check_numbers([value for own in rows.values() for _, value, _ in own], words)
        shares = {c: self._intervals.share(*_columns(own)) for c, own in rows.items()}
        judged = {c: one for c, one in shares.items() if one is not None and one.low is not None and len(rows[c]) >= rule.least}
        if not judged:
            most = max(one.groups for one in shares.values() if one is not None)
            text = f"{words} by category can't be computed: no category has {rule.least} held-out queries in {LEAST_GROUPS} groups"
            raise NoMetricError(f"{text}: {OTHERS}", f"at most {most} groups of {LEAST_GROUPS} in a category", OTHERS)
        failed = [
            f"{c} {_percent(one.value)}, at least {_percent(one.low or 0)}, is not surely at its floor of {_percent(rule.floors[c])}"
            for c, one in judged.items()
            if (one.low or 0) < rule.floors.get(c, 0)
        ]
        if rule.fall is not None and reference is not None:
            alarm = Intervals(1 - 2 * self._this_look.total / len(judged))
            fallen = [_fallen(c, rows[c], _summed(reference, c, sums), alarm, rule.fall, reference.name) for c in judged]
            failed += [sentence for sentence in fallen if sentence is not None]
        few = [f"{c} ({len(own)})" for c, own in rows.items() if c not in judged]
        if few:
            self._add("note", f"too few held-out queries, or too few groups of them, to judge {', '.join(few)}")
        by_category = [f"{c} {_percent(one.value)} (at least {_percent(one.low or 0)})" for c, one in judged.items()]
        self._add("failed" if failed else "passed", f"{words} by category: {'; '.join(failed) if failed else ', '.join(by_category)}")

    def _enough(self, words: str, column: str, values: Sequence[Any], needed: int) -> None:
        if not values:
            raise UnfedError(f"does not apply, as no held-out row has {words}: {CURES[column]}")
        self._check_numbers([value for entry in values for value in (entry if isinstance(entry, tuple) else (entry,))], words)
        if len(values) < needed:
            text = f"{words}: {len(values)} held-out queries are too few, the rule needs {needed} of them: {MORE}"
            raise NoMetricError(text, f"{len(values)} of {needed}", MORE)

    def _interval(self, words: str, interval: Interval | None) -> tuple[Interval, float, float]:
        """The interval with both its ends; too few groups have none."""
        assert interval is not None, "there are queries"
        if interval.low is None or interval.high is None:
            text = f"{words}: {interval.rows} held-out queries in {interval.groups} groups say too little, an interval needs {LEAST_GROUPS}: {OTHERS}"
            raise NoMetricError(text, f"{interval.groups} of {LEAST_GROUPS} groups", OTHERS)
        return interval, interval.low, interval.high

    def _sees(self, words: str, high: float, bound: float, rows: int) -> None:
        """Nothing speaks against the model: where it fails all the same, rows are lacking."""
        if high > bound:
            text = f"{words}: none of {rows} held-out queries differs, which excludes {_percent(high)} and not {_percent(bound)}: {MORE}"
            raise NoMetricError(text, f"{rows} see {_percent(high)}", MORE)

    @staticmethod
    def _check_numbers(values: Sequence[Any], words: str) -> None:
        if any(isinstance(value, float) and not math.isfinite(value) for value in values):
            raise NoMetricError(f"{words}: a value is not a finite number: check {IN_CHECKOUT.results}")

    def _add(self, outcome: Outcome, sentence: str, lack: Lack | None = None, measure: Measure | None = None) -> None:
        self._findings.append(Finding(self._rule, outcome, f"{self._rule}: {sentence}", lack, measure))


Summed = list[tuple[Row, float, int]]  # rows of a category that have an outcome, with their events and cases


def _summed(results: Results, category: str, sums: Sums) -> Summed:
    own = [(row, *sums(row)) for row in results.rows if row["category"] == category]
    return [(row, value, cases) for row, value, cases in own if value is not None]


def _columns(rows: Summed) -> tuple[list[float], list[float], list[dict[str, str]]]:
    return [float(value) for _, value, _ in rows], [float(cases) for *_, cases in rows], [clusters_of(row) for row, *_ in rows]


def _fallen(category: str, new: Summed, old: Summed, alarm: Intervals, fall: float, name: str) -> str | None:
    """The sentence on a category that surely fell by more than `fall` from the reference's; None where it did not."""
    before = {row["id"]: value for row, value, _ in old}
    rows = [(row, value - before[row["id"]], cases) for row, value, cases in new if row["id"] in before]
    one = alarm.difference(*_columns(rows))
    if one is None or one.high is None or one.high >= -fall:
        return None
    return f"{category} fell by {_points(-one.value)} points from {name}, surely by more than {_points(fall)}"


def clusters_of(row: Row) -> dict[str, str]:
    """What the row's query shares with others; Parquet reads a map as its items."""
    return dict(row.get("clusters") or ())


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _mean(values: Sequence[Any]) -> float:
    return sum(float(value) for value in values) / len(values)
