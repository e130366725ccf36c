"""The gate's verdict, rule by rule: challenger against champion or base, the rule's number, the looks at the held-out rows and what they can see.

Everything comes from `gate` in reports/summary.json, as the verdict recorded it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.report.estimates import Estimate
from components.report.record import Record, lookup
from components.report.wording import count, number

MODELS = ("mm-policy", "mm-reward")
OUTCOMES = {  # tone and word
    "passed": ("good", "holds"),
    "failed": ("bad", "fails"),
    "off": ("none", "switched off"),
    "unfed": ("none", "nothing to judge"),
}
NONE = Estimate(None)
LOOKS = ("reuse: look ", "reuse: fresh rows: ")
ORDER = ("failed", "passed", "off", "unfed")


@dataclass(frozen=True)
class RuleRow:
    """One rule of a verdict. Without numbers `sentence` says what was judged."""

    rule: str
    tone: str
    outcome: str
    sentence: str
    measured: bool = False
    challenger: Estimate = NONE
    reference: Estimate = NONE
    against: str = ""
    difference: Estimate = NONE
    raw: Estimate = NONE  # of the difference, or of the challenger, as the judges said it
    bound: str = ""
    end: str = ""  # of the interval, that the bound is for
    rows: str = ""


@dataclass(frozen=True)
class Reuse:
    """The verdict's look at the held-out rows: (words, value) of each of its numbers, and what to add before the next one."""

    numbers: list[tuple[str, str]]
    cure: str | None


@dataclass(frozen=True)
class GateVerdict:
    """A model's verdict, rule by rule; `missing` says why there are no rules."""

    model: str
    against: str | None
    rules: list[RuleRow]
    reuse: Reuse | None
    missing: str | None


def read_gate(record: Record) -> list[GateVerdict]:
    """The verdicts on both models, those with rules, looks or a reason for having none."""
    return [verdict for model in MODELS if (verdict := _verdict(record.summary, model)) is not None]


def decisive(gate: Any) -> tuple[list[str], int]:
    """A model's reasons and how many were left out: those of rules that hold, are off or have nothing to judge, and the look, which stands apart.

    The first reason always stays.
    """
    reasons = [str(reason) for reason in lookup(gate, "reasons") or ()]
    rules = lookup(gate, "rules") or ()
    plain = {lookup(rule, "sentence") for rule in rules if lookup(rule, "outcome") != "failed" and lookup(rule, "rule") != "safety"}
    apart = [reason in plain or (lookup(gate, "reuse") is not None and reason.startswith(LOOKS)) for reason in reasons]
    shown = [reason for index, reason in enumerate(reasons) if index == 0 or not apart[index]]
    return shown, len(reasons) - len(shown)


def _verdict(summary: Mapping[str, Any], model: str) -> GateVerdict | None:
    gate = lookup(summary, "gate", model)
    recorded = [rule for rule in lookup(gate, "rules") or () if isinstance(rule, Mapping)]
    rules = [_rule(rule) for outcome in ORDER for rule in recorded if rule.get("outcome") == outcome]
    reuse = _reuse(lookup(gate, "reuse"))
    against = next((rule.against for rule in rules if rule.against not in ("", "the text-only baseline")), None)
    verdict = lookup(gate, "verdict")
    missing = None
    if verdict == "nothing_new":
        missing = "An earlier run judged this model; that run's page has the numbers of the rules."
    elif verdict is not None and not rules:
        missing = "The verdict records no rule with numbers; its reasons stand above."
    elif verdict is None and lookup(gate, "reasons"):
        missing = "The gate did not judge this model; the reason stands above."
    return None if missing is None and not rules and reuse is None else GateVerdict(model, against, rules, reuse, missing)


def _rule(rule: Mapping[str, Any]) -> RuleRow:
    name, outcome = str(rule.get("rule")), str(rule.get("outcome"))
    tone, word = OUTCOMES[outcome]
    sentence = str(rule.get("sentence")).removeprefix(f"{name}: ")
    words = name.replace("_", " ")
    measure = rule.get("measure")
    if not isinstance(measure, Mapping):
        return RuleRow(words, tone, word, sentence)
    compared = measure.get("difference") is not None
    value = Estimate.shared(measure.get("value"), None, None)
    judged = _estimate({**measure, "value": measure.get("difference") if compared else measure.get("value")}, sign=compared)
    most = measure.get("decides") == "high"
    return RuleRow(
        words,
        tone,
        word,
        sentence,
        measured=True,
        challenger=judged if not compared else NONE if measure.get("reference") is None else value,
        reference=Estimate.shared(measure.get("reference"), None, None),
        against=str(measure.get("against") or ""),
        difference=judged if compared else NONE,
        raw=_estimate(rule.get("raw"), sign=compared),
        bound=f"{'at most' if most else 'above'} {number(100 * float(measure.get('bound') or 0), sign=compared)}",
        end=f"for the {'upper' if most else 'lower'} end",
        rows=f"{count(measure.get('rows'))} queries in {count(measure.get('groups'))} groups",
    )


def _estimate(interval: Any, *, sign: bool) -> Estimate:
    if not isinstance(interval, Mapping):
        return NONE
    return Estimate.shared(interval.get("value"), interval.get("low"), interval.get("high"), sign=sign)


def _reuse(reuse: Any) -> Reuse | None:
    look = lookup(reuse, "look")
    if look is None:
        return None
    numbers = [
        ("verdicts on these held-out rows", f"this is look {count(look)}"),
        ("error that each rule may spend in it", f"{_percent(lookup(reuse, 'spends'))} %"),
        ("error left for later looks", f"{_percent(lookup(reuse, 'left'))} %"),
    ]
    fresh = lookup(reuse, "fresh")
    if fresh is not None:
        opened = f"this is look {count(lookup(fresh, 'look'))}; {_percent(lookup(fresh, 'left'))} % of error is left"
        numbers.append(("verdicts on fresh rows", opened if lookup(fresh, "opened") else "not opened: a rule failed on the other rows"))
    unsafe = lookup(reuse, "unsafe")
    if unsafe is not None:
        rows, groups = count(lookup(unsafe, "rows")), count(lookup(unsafe, "groups"))
        sees, following, margin = (_points(lookup(unsafe, key)) for key in ("sees", "next_look_sees", "margin"))
        numbers.append(
            (
                "least loss of safety that it sees",
                f"{sees} points with power .8, by {rows} harmful requests in {groups} groups; the margin is {margin}",
            )
        )
        numbers.append(("least loss that the next look sees", f"{following} points"))
    cure = lookup(unsafe, "cure")
    return Reuse(numbers, None if cure is None else str(cure))


def _percent(share: Any) -> str:
    return "–" if share is None else f"{100 * float(share):.2g}"


def _points(share: Any) -> str:
    return number(None if share is None else 100 * float(share))
