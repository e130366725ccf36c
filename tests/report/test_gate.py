"""The verdict, rule by rule, as the page shows it."""

from __future__ import annotations

from typing import Any

import pytest

from components.report.gate import NONE, _verdict, decisive
from tests.report.conftest import REUSE, VERDICT

LOOK = "reuse: look 3 at these held-out queries: each rule may err with 0.42 % in it"


def gate(**more: Any) -> dict[str, Any]:
    return {"reasons": [*VERDICT.reasons, LOOK], "rules": VERDICT.rules, "reuse": REUSE, **more}


def test_rules_that_hold_are_left_to_the_table() -> None:
    shown, left = decisive(gate())
    assert [reason.split(":")[0] for reason in shown] == ["conversation", VERDICT.reasons[-1].split(":")[0]]
    assert left == len(VERDICT.reasons) + 1 - len(shown)


def test_missing_evidence_on_safety_always_stays() -> None:
    sentence = "safety: WITHOUT EVIDENCE ON SAFETY, which the rules allow: a reason"
    rule = {"rule": "safety", "outcome": "passed", "sentence": sentence}
    shown, _ = decisive(gate(reasons=["conversation: better", sentence], rules=[rule]))
    assert sentence in shown


def test_reasons_without_rules_are_all_shown() -> None:
    assert decisive({"reasons": ["one", "two"]}) == (["one", "two"], 0)
    assert decisive({"reasons": [LOOK, LOOK]})[1] == 0, "a verdict without its look keeps the sentence"
    assert decisive(None) == ([], 0)


def preferred(**measure: Any) -> dict[str, Any]:
    numbers = {"value": 0.3, "low": 0.1, "high": 0.5, "bound": 0.0, "decides": "low", "rows": 100, "groups": 60, "reference": None}
    return {"rule": "conversation", "outcome": "passed", "sentence": "conversation: better", "raw": None, "measure": {**numbers, **measure}}


def test_preferences_are_a_difference_without_shares() -> None:
    verdict = _verdict({"gate": gate_of(rules=[preferred(difference=0.3, against="the base")])}, "mm-policy")
    assert verdict is not None
    (row,) = verdict.rules
    assert (verdict.against, row.challenger, row.reference.value) == ("the base", NONE, None)
    assert (row.difference.value, row.bound) == (pytest.approx(30.0), "above 0.0")
    (share,) = _rules(preferred(difference=None, against="the base"))
    assert (share.challenger.value, share.difference) == (pytest.approx(30.0), NONE)


def gate_of(**values: Any) -> dict[str, Any]:
    return {"mm-policy": {"verdict": "promoted", "reasons": [], **values}}


def _rules(*rules: dict[str, Any]) -> Any:
    verdict = _verdict({"gate": gate_of(rules=list(rules))}, "mm-policy")
    assert verdict is not None
    return verdict.rules


@pytest.mark.parametrize(
    ("fresh", "words"),
    [
        ({"opened": False}, "not opened: a rule failed on the other rows"),
        ({"opened": True, "look": 2, "left": 0.05 / 3}, "this is look 2; 1.7 % of error is left"),
    ],
)
def test_looks_at_fresh_rows_stand_with_the_others(fresh: dict[str, Any], words: str) -> None:
    reuse = {"look": 3, "spends": 0.01, "left": 0.02, "fresh": fresh}
    verdict = _verdict({"gate": gate_of(reuse=reuse)}, "mm-policy")
    assert verdict is not None
    assert verdict.reuse is not None
    assert ("verdicts on fresh rows", words) in verdict.reuse.numbers
    reason = "reuse: fresh rows: not opened, since a rule failed on the other held-out rows"
    assert decisive(gate(reasons=["first", reason]))[0] == ["first"]
