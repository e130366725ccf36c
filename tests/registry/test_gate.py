"""The gate on made tables: each case is a kind of challenger that a team will meet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.errors import UserError
from components.evaluation.error_sheets import Error
from components.registry.decision import Decision
from components.registry.gate import Results, judge_policy, judge_reward
from components.registry.policy import POLICY_FILE, RegistryPolicy, load_policy

ROOT = Path(__file__).resolve().parents[2]
Rows = list[dict[str, Any]]
BY = {"judge": "ground_truth", "description_judge": "ground_truth"}
PERFECT = Error((10**9, 10**9), (10**9, 10**9))


def without_error(judge: str, task: str) -> Error:
    """A judge that a sheet of a thousand million labels calls right in all."""
    assert judge == "ground_truth", task
    return PERFECT


@pytest.fixture(scope="module")
def shipped() -> RegistryPolicy:
    """The rules as they are in the repository."""
    return load_policy(ROOT / POLICY_FILE)


def policy_rows(
    *, talk: float = 0.9, unsafe: float = 0.0, over: float = 0.0, false: float = 0.0, broken: float = 0.0, mcq: float = 0.7, n: int = 200
) -> Rows:
    """`n` queries of each kind with these shares of each outcome; the first ones have it, so that a larger share holds a smaller one."""
    blank = dict.fromkeys(("good", "unsafe", "over_refused", "hallucinated"))
    rows: Rows = []

    def add(kind: str, category: str, share: float, column: str, good: bool | None = None) -> None:
        for index in range(n):
            happened = index < round(share * n)
            outcome = {column: happened, "good": happened if good is None else good != happened}
            rows.append(
                {"id": f"{kind}-{index}", "category": category, **blank, **outcome, **BY, "degenerate": False, "pairs": 2, "correct": 2}
            )

    add("short", "short", talk, "good")
    add("long", "long", false, "hallucinated", good=True)
    add("mcq", "mcq", mcq, "good")
    add("harmful", "safety", unsafe, "unsafe", good=True)
    add("harmless", "safety", over, "over_refused", good=True)
    for row in rows[: round(broken * len(rows))]:
        row["degenerate"] = True
    return rows


def decide(rules: RegistryPolicy, new: Mapping[str, Any], old: Mapping[str, Any], safest: Mapping[str, Any] | None = None) -> Decision:
    best = None if safest is None else Results("champion 1", policy_rows(**safest))
    challenger, champion = Results("the challenger", policy_rows(**new)), Results("champion 2", policy_rows(**old))
    return judge_policy(rules, challenger, champion, without_error, best)


def failed(decision: Decision) -> set[str]:
    return {finding.rule for finding in decision.findings if finding.outcome == "failed"}


@pytest.mark.parametrize(
    ("new", "old", "refused_for"),
    [
        pytest.param({"talk": 0.9}, {"talk": 0.6}, set(), id="better"),
        pytest.param({"talk": 0.5}, {"talk": 0.9}, {"conversation", "categories"}, id="worse"),
        pytest.param({"talk": 0.7}, {"talk": 0.7}, {"conversation"}, id="equal"),
        pytest.param({"talk": 0.705}, {"talk": 0.7}, {"conversation"}, id="better by one query of four hundred"),
        pytest.param({"talk": 0.6, "unsafe": 0.0}, {"talk": 0.8, "unsafe": 0.09}, {"conversation", "categories"}, id="safer but worse"),
        pytest.param({"talk": 0.9, "unsafe": 0.06}, {"talk": 0.6}, {"unsafe"}, id="better but less safe"),
        pytest.param({"talk": 0.9, "unsafe": 0.3}, {"talk": 0.5, "unsafe": 0.8}, {"unsafe_ceiling"}, id="safer than an unsafe base"),
        pytest.param({"talk": 0.9, "over": 0.2}, {"talk": 0.6}, {"over_refusal"}, id="refuses harmless requests"),
        pytest.param({"talk": 0.9, "false": 0.2}, {"talk": 0.6}, {"hallucination", "categories"}, id="invents"),
        pytest.param({"talk": 0.9, "broken": 0.1}, {"talk": 0.6}, {"degenerate"}, id="degenerates"),
        pytest.param({"talk": 0.9, "mcq": 0.3}, {"talk": 0.6, "mcq": 0.35}, {"categories"}, id="below a floor"),
        pytest.param({"talk": 0.9, "n": 5}, {"talk": 0.2, "n": 5}, {"unsafe", "unsafe_ceiling", "degenerate"}, id="0 of 5 unsafe"),
        pytest.param({"talk": 0.9, "n": 200}, {"talk": 0.2, "n": 200}, set(), id="0 of 200 unsafe"),
    ],
)
def test_policy_is_refused_by_expected_rules(
    shipped: RegistryPolicy, new: Mapping[str, Any], old: Mapping[str, Any], refused_for: set[str]
) -> None:
    decision = decide(shipped, new, old)
    assert failed(decision) >= refused_for
    assert decision.promote == (not refused_for)
    if refused_for:
        assert decision.reasons[0].split(":")[0] in failed(decision) or "rules have too few held-out rows" in decision.reasons[0]


def test_rules_for_json_have_numbers_that_decided(shipped: RegistryPolicy) -> None:
    rules = {rule["rule"]: rule for rule in decide(shipped, {"talk": 0.9, "over": 0.2}, {"talk": 0.6}).rules}
    better, safe, refuses = (rules[name]["measure"] for name in ("conversation", "unsafe", "over_refusal"))
    # long queries are all good, and half of those in a conversation
    assert (better["value"], better["reference"], better["against"]) == (pytest.approx(0.95), pytest.approx(0.8), "champion 2")
    assert better["difference"] == pytest.approx(0.15)
    assert (better["decides"], better["bound"], better["rows"]) == ("low", shipped.policy.conversation.above, 400)
    assert better["bound"] < better["low"] < better["difference"] < better["high"]
    assert (safe["decides"], safe["bound"], safe["difference"]) == ("high", shipped.policy.unsafe.margin, 0)
    assert refuses["value"] == pytest.approx(0.2)
    assert (refuses["reference"], refuses["difference"]) == (None, None)
    for rule in rules.values():
        if rule["measure"] is not None:
            end, bound = rule["measure"][rule["measure"]["decides"]], rule["measure"]["bound"]
            assert (rule["outcome"] == "passed") == (end > bound if rule["measure"]["decides"] == "low" else end <= bound)
    assert rules["categories"]["measure"] is None
    assert rules["reference_answer"]["outcome"] == "off"


def test_repeated_small_safety_losses_are_refused(shipped: RegistryPolicy) -> None:
    # Each is no more than a little less safe than the one before it, and better in talk.
    steps = [{"talk": 0.5 + 0.08 * step, "unsafe": 0.005 * step} for step in range(6)]
    champion, safest, promoted = steps[0], steps[0], 0
    for step in steps[1:]:
        if not decide(shipped, step, champion, safest).promote:
            break
        champion, promoted = step, promoted + 1
    assert promoted < 5
    # Without the memory of the safest champion more of them get through.
    assert decide(shipped, steps[promoted + 1], champion).promote


def test_disabled_rule_needs_reason_and_is_in_every_verdict(shipped: RegistryPolicy) -> None:
    values = shipped.model_dump(by_alias=True)
    values["mm-policy"]["unsafe"] |= {"enabled": False, "reason": "no harmful requests yet"}
    off = RegistryPolicy.model_validate(values)
    decision = decide(off, {"talk": 0.9, "unsafe": 0.03}, {"talk": 0.6})
    assert decision.promote
    assert any("switched off" in reason and "no harmful requests yet" in reason for reason in decision.reasons)
    values["mm-policy"]["unsafe"]["reason"] = " "
    with pytest.raises(ValueError, match="needs a `reason`"):
        RegistryPolicy.model_validate(values)


def without_labels(rows: Rows, correct: int) -> Rows:
    return [{**row, "good": None, "unsafe": None, "over_refused": None, "hallucinated": None, "correct": correct} for row in rows]


def test_ranks_alone_judge_a_policy_without_labels(shipped: RegistryPolicy) -> None:
    new, old = (Results(name, without_labels(policy_rows(), correct)) for name, correct in (("the challenger", 2), ("the base", 0)))
    new = Results(new.name, [{**row, "text_correct": 1} for row in new.rows])
    old = Results(old.name, [{**row, "pairs": 0} for row in old.rows])
    refused = judge_policy(shipped, new, old, without_error)
    assert failed(refused) == {"safety"}
    assert refused.reasons[0].startswith("WITHOUT EVIDENCE ON SAFETY: nothing says whether the model is safe: mark harmful requests")
    allowed = RegistryPolicy.model_validate(shipped.model_dump(by_alias=True) | {"allow_unmeasured_safety": "a closed set of questions"})
    decision = judge_policy(allowed, new, old, without_error)
    assert decision.promote
    assert "a closed set of questions" in decision.reasons[0]
    unfed = {f.rule for f in decision.findings if f.outcome == "unfed"}
    assert unfed == {"conversation", "unsafe", "unsafe_ceiling", "over_refusal", "hallucination", "categories", "win_rate"}
    as_text = Results("the challenger", [{**row, "text_correct": 2} for row in new.rows])
    assert failed(judge_policy(allowed, as_text, old, without_error)) == {"ranks"}


def test_policy_without_enabled_rule_is_refused(shipped: RegistryPolicy) -> None:
    values = shipped.model_dump(by_alias=True)
    for rule in values["mm-policy"].values():
        rule |= {"enabled": False, "reason": "off"}
    decision = judge_policy(RegistryPolicy.model_validate(values), *(Results(n, policy_rows()) for n in ("a", "b")), without_error)
    assert not decision.promote
    assert "is switched off: enable one" in decision.reasons[0]


def test_metrics_that_are_not_numbers_refuse(shipped: RegistryPolicy) -> None:
    rows = policy_rows(talk=0.9)
    rows[3]["good"] = math.nan
    decision = judge_policy(shipped, Results("the challenger", rows), Results("the base", policy_rows(talk=0.5)), without_error)
    assert {"conversation", "categories"} <= failed(decision)
    assert "not a finite number" in decision.reasons[0]


def test_results_of_other_queries_are_refused(shipped: RegistryPolicy) -> None:
    with pytest.raises(ValueError, match="different held-out queries"):
        judge_policy(shipped, Results("the challenger", policy_rows()), Results("the base", policy_rows()[1:]), without_error)


def reward_rows(correct: float, *, video: float | None = None, n: int = 300) -> Rows:
    rows = []
    for index in range(n):
        category = "video" if index % 3 == 0 else "short"
        share = video if category == "video" and video is not None else correct
        rows.append({"id": str(index), "category": category, "pairs": 4, "correct": 4 if (index // 3) % 100 < 100 * share else 1})
    return rows


@pytest.mark.parametrize(
    ("new", "old", "refused_for"),
    [
        pytest.param(reward_rows(0.9), None, set(), id="good, no champion"),
        pytest.param(reward_rows(0.1), None, {"acc", "acc_plus", "categories"}, id="bad, no champion"),
        pytest.param(reward_rows(0.9), reward_rows(0.7), set(), id="better"),
        pytest.param(reward_rows(0.9), reward_rows(0.9), {"better"}, id="equal"),
        pytest.param(reward_rows(0.95, video=0.1), reward_rows(0.5, video=0.1), {"categories"}, id="below a floor"),
        pytest.param(reward_rows(0.9, n=15), None, {"acc", "acc_plus", "categories"}, id="too few queries"),
    ],
)
def test_reward_model_is_refused_by_expected_rules(shipped: RegistryPolicy, new: Rows, old: Rows | None, refused_for: set[str]) -> None:
    decision = judge_reward(shipped, Results("the challenger", new), None if old is None else Results("champion 1", old))
    assert failed(decision) == refused_for
    assert decision.promote == (not refused_for)


def test_mistakes_in_policy_file_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text("mm-policy: { conversatoin: { above: 0.0 } }\n")
    with pytest.raises(UserError, match=r"unknown key mm-policy.conversatoin; did you mean mm-policy.conversation\?"):
        load_policy(path)
    path.write_text("mm-policy: { unsafe: { margin: .nan } }\n")
    with pytest.raises(UserError, match="margin"):
        load_policy(path)
    with pytest.raises(UserError, match="is missing"):
        load_policy(tmp_path / "other.yaml")


def test_digest_follows_rules_of_one_model_only(shipped: RegistryPolicy) -> None:
    values = shipped.model_dump(by_alias=True)
    values["mm-reward"]["acc"]["above"] = 0.9
    values["keep"] = 7
    changed = RegistryPolicy.model_validate(values)
    assert changed.digest("mm-policy") == shipped.digest("mm-policy")
    assert changed.digest("mm-reward") != shipped.digest("mm-reward")
