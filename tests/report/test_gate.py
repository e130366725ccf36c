"""The verdict, rule by rule, as the page shows it."""

from __future__ import annotations

from typing import Any

from components.report.gate import decisive
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
