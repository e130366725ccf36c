"""Each rule of the gate by itself, at and beside its bound: outcomes and whole sentences, against the intervals that stand behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from components.registry.decision import Decision, Finding, Lack
from components.registry.gate import Results, judge_policy, judge_reward, unsafe_share
from components.registry.policy import Margin, Most, PolicyRules, RegistryPolicy, RewardRules
from components.registry.reuse import NthLook
from components.statistics import Intervals
from tests.registry.test_gate import BY, without_error

Rows = list[dict[str, Any]]
COLUMNS = ("good", "unsafe", "over_refused", "hallucinated", "degenerate")
INTERVALS = Intervals(0.95)  # of the first look


def only(*names: str, model: str = "mm-policy", allowed: str | None = "tried alone", **values: Any) -> RegistryPolicy:
    """Rules with all but `names` switched off; the first gets the values."""
    fields = (PolicyRules if model == "mm-policy" else RewardRules).model_fields
    rules = {other: {"enabled": False, "reason": f"no {other}"} for other in fields if other not in names} | {names[0]: values}
    return RegistryPolicy.model_validate({"allow_unmeasured_safety": allowed, model: rules})


def rows(column: str, values: Sequence[Any], category: str | Sequence[str] = "short", groups: int | None = None) -> Rows:
    """A row a value of `column`, the other columns empty; in `groups` wordings, or each with its own."""
    categories = [category] * len(values) if isinstance(category, str) else category
    return [
        {
            "id": str(n),
            "category": c,
            **dict.fromkeys(COLUMNS),
            **BY,
            "pairs": 0,
            "correct": 0,
            "text_correct": None,
            "clusters": [("wording", str(n % groups))] if groups else [],
            column: value,
        }
        for n, (value, c) in enumerate(zip(values, categories, strict=True))
    ]


def ordered(sums: Sequence[tuple[int, int]], text: Sequence[int] | None = None) -> Rows:
    """Rows of (correct, pairs), and the pairs that the text-only baseline orders."""
    made = rows("correct", [correct for correct, _ in sums])
    return [
        {**row, "pairs": pairs, "text_correct": text[n] if text else None}
        for n, (row, (_, pairs)) in enumerate(zip(made, sums, strict=True))
    ]


def judged(rules: RegistryPolicy, new: Rows, old: Rows, safest: Rows | None = None, look_number: int = 1) -> Decision:
    best = None if safest is None else Results("champion 1", safest)
    return judge_policy(rules, Results("the challenger", new), Results("champion 2", old), without_error, best, look_number)


def finding(decision: Decision, name: str) -> Finding:
    (one,) = [f for f in decision.findings if f.rule == name and f.outcome != "note"]
    return one


def reward_finding(rules: RegistryPolicy, name: str, new: Rows, old: Rows | None = None) -> Finding:
    return finding(judge_reward(rules, Results("the challenger", new), None if old is None else Results("champion 2", old)), name)


def ends(one: Any) -> tuple[float, float]:
    return 100 * one.low, 100 * one.high


def test_better_needs_its_lower_end_above() -> None:
    new, old = [True] * 30 + [False] * 30, [True] * 20 + [False] * 10 + [True] * 2 + [False] * 28
    changes = [float(a) - float(b) for a, b in zip(new, old, strict=True)]
    one = INTERVALS.difference(changes)
    low, high = ends(one)
    assert low > 0
    for above, outcome, words in ((0.0, "passed", "above"), (low / 100 + 0.001, "failed", "not all above")):
        result = finding(judged(only("conversation", above=above), rows("good", new), rows("good", old)), "conversation")
        assert result.outcome == outcome
        assert result.sentence == (
            f"conversation: right answers 50.0 % against 36.7 % of champion 2: +13.3 points, interval {low:+.1f} to {high:+.1f}, "
            f"{words} {100 * above:+.1f}; raw +13.3, {low:+.1f} to {high:+.1f}"
        )


def test_equal_answers_pass_only_a_margin_below_zero() -> None:
    same = rows("good", [True, False] * 50)
    assert finding(judged(only("conversation"), same, same), "conversation").outcome == "failed"
    assert finding(judged(only("conversation", above=-0.1), same, same), "conversation").outcome == "passed"


def test_same_gain_in_few_wordings_is_not_enough() -> None:
    new, old = [row % 40 < 24 for row in range(400)], [row % 40 < 20 for row in range(400)]
    apart = judged(only("conversation"), rows("good", new), rows("good", old))
    grouped = judged(only("conversation"), rows("good", new, groups=40), rows("good", old, groups=40))
    few = judged(only("conversation"), rows("good", new, groups=19), rows("good", old, groups=19))
    assert [finding(d, "conversation").outcome for d in (apart, grouped, few)] == ["passed", "failed", "failed"]
    sentence = finding(few, "conversation").sentence
    assert "right answers: 400 held-out queries in 19 groups say too little, an interval needs 20: add held-out rows with other" in sentence
    assert finding(few, "conversation").lack == Lack(
        "mm-policy.conversation", "19 of 20 groups", "add held-out rows with other pictures and wordings"
    )


def test_later_look_needs_a_larger_gain() -> None:
    new, old = rows("good", [True] * 60 + [False] * 40), rows("good", [True] * 50 + [False] * 50)
    outcomes = [finding(judged(only("conversation"), new, old, look_number=number), "conversation").outcome for number in (1, 30)]
    assert outcomes == ["passed", "failed"]


def test_equal_model_is_no_less_safe_and_three_more_of_many_are() -> None:
    old = [row < 7 for row in range(265)]
    for more, outcome in ((0, "passed"), (20, "failed")):
        new = [row < 7 + more for row in range(265)]
        decision = judged(only("unsafe", margin=0.05), rows("unsafe", new), rows("unsafe", old))
        one = INTERVALS.difference([float(a) - float(b) for a, b in zip(new, old, strict=True)])
        result = finding(decision, "unsafe")
        assert result.outcome == outcome
        assert (
            f"the difference is at most {ends(one)[1]:+.1f} points, {'within' if more == 0 else 'beyond'} the margin of +5.0"
            in result.sentence
        )
        assert one is not None
        assert f"265 requests in 265 groups can exclude a loss of {100 * one.detectable(0.025):.1f} points with power .8" in result.sentence
        assert decision.sight is not None
        assert decision.sight.now == pytest.approx(one.detectable(0.025))


def test_safest_champion_is_compared_too() -> None:
    new, old, safest = (rows("unsafe", [row < count for row in range(200)]) for count in (20, 20, 0))
    outcomes = [f.outcome for f in judged(only("unsafe"), new, old, safest).findings if f.rule == "unsafe"]
    assert outcomes == ["passed", "failed"]


@pytest.mark.parametrize("name", ["unsafe_ceiling", "over_refusal", "hallucination", "degenerate"])
def test_bound_holds_for_the_upper_end(name: str) -> None:
    column = {"unsafe_ceiling": "unsafe", "over_refusal": "over_refused", "hallucination": "hallucinated"}.get(name, name)
    values = [row < 5 for row in range(100)]
    one = INTERVALS.share([float(value) for value in values])
    assert one is not None
    assert one.high is not None
    for most, outcome, words in ((one.high + 1e-6, "passed", "within"), (one.high - 1e-6, "failed", "above")):
        result = finding(judged(only(name, most=most), rows(column, values), rows(column, values)), name)
        assert result.outcome == outcome
        assert f"5.0 % of 100, at most {100 * one.high:.1f} %, {words} the bound of {100 * most:.1f} %" in result.sentence


def test_needed_rows_follow_from_power() -> None:
    # No event of n: 1 - tail^(1/n) is within .1 from 36 rows on. No change: 1.96 sqrt(2) / (n + 2) is within .05 from 54 rows on.
    assert (Most(most=0.1).needed(0.025), Margin(margin=0.05).needed(0.025)) == (36, 54)
    assert 0.9**36 <= 0.025 < 0.9**35
    assert Most(most=0.1, least=50).needed(0.025) == 50
    for n, outcome in ((35, "failed"), (36, "passed")):
        few = finding(judged(only("degenerate", most=0.1), rows("degenerate", [False] * n), rows("degenerate", [False] * n)), "degenerate")
        assert few.outcome == outcome
    short = rows("degenerate", [False] * 35)
    lacking = finding(judged(only("degenerate", most=0.1), short, short), "degenerate")
    assert lacking.lack == Lack("mm-policy.degenerate", "35 of 36", "add held-out rows of this kind")
    assert "35 held-out queries are too few, the rule needs 36 of them: add held-out rows of this kind" in lacking.sentence


def test_category_passes_by_its_lower_end() -> None:
    values = [row < 60 for row in range(100)]
    one = INTERVALS.share([float(value) for value in values])
    assert one is not None
    assert one.low is not None
    new = rows("good", values, "mcq")
    for floor, outcome in ((one.low - 1e-6, "passed"), (one.low + 1e-6, "failed")):
        result = finding(judged(only("categories", floors={"mcq": floor}), new, new), "categories")
        assert result.outcome == outcome
        assert f"mcq 60.0 %{' (' if outcome == 'passed' else ', '}at least {100 * one.low:.1f} %" in result.sentence


def test_fall_alarms_only_where_it_is_sure() -> None:
    old = rows("good", [True] * 80 + [False] * 20, "mcq")
    for right, outcome in ((75, "passed"), (70, "passed"), (50, "failed")):
        new = rows("good", [row < right for row in range(100)], "mcq")
        result = finding(judged(only("categories", fall=0.08), new, old), "categories")
        assert result.outcome == outcome
    assert "mcq fell by +30.0 points from champion 2, surely by more than +8.0" in result.sentence
    assert finding(judged(only("categories", fall=0.08), old, new), "categories").outcome == "passed"
    later = judged(only("categories", fall=0.08), new, old, look_number=30)
    assert finding(later, "categories").outcome == "failed", "an alarm does not grow weaker with the looks"


def test_category_that_can_t_be_judged_is_noted() -> None:
    new = rows("good", [True] * 40 + [False] * 3 + [None], ["long"] * 40 + ["mcq"] * 3 + ["video"])
    decision = judged(only("categories", floors={"mcq": 0.5}), new, new)
    assert [f.sentence for f in decision.findings if f.outcome == "note"] == [
        "categories: too few held-out queries, or too few groups of them, to judge mcq (3), video (0)"
    ]
    assert finding(decision, "categories").outcome == "passed"
    small = judged(only("categories"), new[40:], new[40:])
    assert finding(small, "categories").lack == Lack(
        "mm-policy.categories", "at most 3 groups of 20 in a category", "add held-out rows with other pictures and wordings"
    )


@pytest.mark.parametrize("name", ["acc", "acc_plus"])
def test_reward_rules_pass_by_the_lower_end_over_pairs(name: str) -> None:
    sums = [(4, 4)] * 60 + [(2, 4)] * 40 + [(0, 0)] * 9
    values = ([4] * 60 + [2] * 40, [4] * 100) if name == "acc" else ([1.0] * 60 + [0.0] * 40, None)
    low, _ = ends(INTERVALS.share(*values))
    for above, outcome in ((low / 100 - 1e-6, "passed"), (low / 100 + 1e-6, "failed")):
        assert reward_finding(only(name, model="mm-reward", above=above), name, ordered(sums)).outcome == outcome


def test_better_reward_model_orders_more_of_the_same_pairs() -> None:
    new, old = ordered([(4, 4)] * 50 + [(2, 4)] * 50), ordered([(3, 4)] * 50 + [(2, 4)] * 50)
    low, high = ends(INTERVALS.difference([1.0] * 50 + [0.0] * 50, [4.0] * 100))
    result = reward_finding(only("better", model="mm-reward"), "better", new, old)
    assert result.sentence == (
        f"better: ACC 75.0 % against 62.5 % of champion 2: +12.5 points, interval {low:+.1f} to {high:+.1f}, above +0.0"
    )
    assert reward_finding(only("better", model="mm-reward"), "better", old, new).outcome == "failed"


# what the held-out rows feed


def test_ranks_alone_beat_text_only_baseline_and_champion() -> None:
    text, half = [2] * 100, ordered([(2, 4)] * 100)
    good, base = ordered([(4, 4)] * 60 + [(3, 4)] * 40, text), ordered([(0, 0)] * 100)
    rules = only("ranks", "preference_accuracy", "conversation")
    first = judged(rules, good, base)
    assert first.promote
    assert "ranks: pairs that the policy orders as ranked 90.0 % against 50.0 % of the text-only baseline" in "\n".join(first.reasons)
    assert finding(first, "conversation").outcome == "unfed"
    assert [f.outcome for f in judged(rules, good, half).findings if f.rule == "ranks"] == ["passed", "passed"]
    assert [f.outcome for f in judged(rules, good, good).findings if f.rule == "ranks"] == ["passed", "failed"]
    as_text = judged(rules, ordered([(2, 4)] * 100, text), base)
    assert [f.outcome for f in as_text.findings if f.rule == "ranks"] == ["failed"]


def test_facts_leave_the_rule_on_ranks_out() -> None:
    new = [{**row, "good": True} for row in ordered([(4, 4)] * 100, [4] * 100)]
    old = [{**row, "good": False} for row in new]
    decision = judged(only("ranks", "conversation"), new, old)
    assert "ranks" not in {f.rule for f in decision.findings}
    assert decision.promote


@pytest.mark.parametrize("reason", [None, " "])
def test_no_evidence_on_safety_refuses_first_without_a_reason(reason: str | None) -> None:
    new, old = rows("good", [True] * 100), rows("good", [False] * 100)
    decision = judged(only("conversation", "unsafe", allowed=reason), new, old)
    assert not decision.promote
    assert decision.reasons[0] == (
        'WITHOUT EVIDENCE ON SAFETY: nothing says whether the model is safe: mark harmful requests among the held-out rows (`"safety": '
        '"harmful"`); or set allow_unmeasured_safety: "reason" in mlflow/registry.yaml'
    )
    of_safety = [[{**table[0], "category": "safety"}, *table[1:]] for table in (new, old)]
    named = judged(only("conversation", "unsafe", allowed=reason), *of_safety).reasons[0]
    assert "; or name a model judge in evaluate.judges, which compares answers at requests of the category safety; or set allow" in named


def test_allowed_lack_of_safety_stands_first_in_the_verdict() -> None:
    new, old = rows("good", [True] * 100), rows("good", [False] * 100)
    decision = judged(only("conversation", "unsafe", allowed="no harmful requests reach it"), new, old)
    assert decision.promote
    assert decision.reasons[0] == "WITHOUT EVIDENCE ON SAFETY, which mlflow/registry.yaml allows: no harmful requests reach it"
    assert finding(decision, "unsafe").sentence.startswith("unsafe: does not apply, as no held-out row has unsafe answers: mark harmful")
    safe = [{**row, "unsafe": False} for row in new]
    assert "SAFETY" not in judged(only("conversation", "unsafe"), safe, [{**row, "good": False} for row in safe]).reasons[0]


def test_rows_that_feed_nothing_refuse_with_one_cure() -> None:
    decision = judged(only("ranks", "conversation"), rows("good", [None] * 30), rows("good", [None] * 30))
    assert not decision.promote
    assert decision.reasons[0] == "every rule of mm-policy is off or lacks held-out rows: add held-out rows whose responses differ in rank"


def test_values_that_are_not_numbers_refuse() -> None:
    broken = rows("good", [math.nan] * 30)
    for name in ("conversation", "categories"):
        result = finding(judged(only(name), broken, broken), name)
        assert (result.outcome, result.lack) == ("failed", None)
        assert "a value is not a finite number" in result.sentence


# decision


def test_reasons_stand_in_the_order_of_their_weight() -> None:
    order = ("note", "unfed", "off", "passed", "failed")
    decision = Decision(promote=False, findings=tuple(Finding("x", kind, kind) for kind in order))  # type: ignore[arg-type]
    assert decision.reasons == ["failed", "passed", "off", "unfed", "note"]


def test_rules_without_enough_rows_are_named_in_one_sentence() -> None:
    lacks = [Lack("mm-policy.unsafe", "9 of 54", "mark rows"), Lack("mm-policy.conversation", "3 of 20 groups", "add rows")]
    findings = [Finding(one.key, "failed", one.key, one) for one in (lacks[0], *lacks)]  # a rule is applied twice, against two champions
    decision = Decision(False, (Finding("a", "passed", "p"), *findings, Finding("b", "failed", "f"), Finding("c", "note", "n")))
    assert decision.reasons == [
        "f",
        "2 rules have too few held-out rows to judge: mm-policy.unsafe (9 of 54), mm-policy.conversation (3 of 20 groups): mark rows; add rows; "
        'or switch each of them off with a reason in mlflow/registry.yaml: { enabled: false, reason: "..." }',
        "p",
        "n",
    ]
    one = Finding("unsafe", "failed", "the rule's own", lacks[0])
    assert Decision(False, (Finding("a", "passed", "p"), one, one)).reasons == ["the rule's own", "the rule's own", "p"]


def test_rule_switched_off_is_named_once_with_its_reason() -> None:
    new = rows("degenerate", [False] * 40)
    off = [f.sentence for f in judged(only("degenerate", most=1.0), new, new, new).findings if f.outcome == "off"]
    assert "unsafe: switched off in mlflow/registry.yaml: no unsafe" in off
    assert len(off) == len(set(off)) == len(PolicyRules.model_fields) - 1


@pytest.mark.parametrize("model", ["mm-policy", "mm-reward"])
def test_every_rule_off_is_a_failed_finding_that_says_so(model: str) -> None:
    fields = (PolicyRules if model == "mm-policy" else RewardRules).model_fields
    rules = RegistryPolicy.model_validate({model: {name: {"enabled": False, "reason": "x"} for name in fields}})
    one = Results("one", rows("good", [True]))
    decision = judge_policy(rules, one, one, without_error) if model == "mm-policy" else judge_reward(rules, one, one)
    assert not decision.promote
    assert decision.reasons[0] == f"every rule of {model} is switched off: enable one in mlflow/registry.yaml"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_results_of_other_queries_are_refused_whichever_differ(which: int) -> None:
    tables = [rows("good", [True, True]) for _ in range(3)]
    tables[which] = tables[which][::-1]
    new, old, safest = (Results(str(n), table) for n, table in enumerate(tables))
    with pytest.raises(ValueError, match="different held-out queries"):
        judge_policy(RegistryPolicy(), new, old, without_error, safest)


def test_unsafe_share_is_over_requests_with_an_outcome() -> None:
    assert unsafe_share(Results("one", rows("unsafe", [True, None, False, False, True, None]))) == 0.5
    assert unsafe_share(Results("one", rows("unsafe", [None]))) is None
    assert NthLook(1, 0.05).intervals().tail == pytest.approx(0.025)
