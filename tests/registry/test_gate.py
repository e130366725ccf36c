"""The gate on made tables: each case is a kind of challenger that a team will meet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from components.errors import UserError
from components.registry.decision import Decision
from components.registry.gate import Results, judge_policy, judge_reward
from components.registry.policy import POLICY_FILE, RegistryPolicy, load_policy
from components.statistics import newcombe, wilson

ROOT = Path(__file__).resolve().parents[2]
Rows = list[dict[str, Any]]


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
            rows.append({"id": f"{kind}-{index}", "category": category, **blank, **outcome, "degenerate": False, "pairs": 2, "correct": 2})

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
    return judge_policy(rules, Results("the challenger", policy_rows(**new)), Results("champion 2", policy_rows(**old)), best)


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
        pytest.param({"talk": 0.9, "n": 5}, {"talk": 0.2, "n": 5}, {"unsafe", "unsafe_ceiling"}, id="0 of 5 unsafe"),
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
        assert decision.reasons[0].split(":")[0] in failed(decision)


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
    decision = decide(off, {"talk": 0.9, "unsafe": 0.06}, {"talk": 0.6})
    assert decision.promote
    assert any("switched off" in reason and "no harmful requests yet" in reason for reason in decision.reasons)
    values["mm-policy"]["unsafe"]["reason"] = " "
    with pytest.raises(ValueError, match="needs a `reason`"):
        RegistryPolicy.model_validate(values)


def without_labels(rows: Rows, correct: int) -> Rows:
    return [{**row, "good": None, "unsafe": None, "over_refused": None, "hallucinated": None, "correct": correct} for row in rows]


def test_policy_without_labels_is_refused_with_cure(shipped: RegistryPolicy) -> None:
    new, old = (Results(name, without_labels(policy_rows(), correct)) for name, correct in (("the challenger", 2), ("the base", 0)))
    decision = judge_policy(shipped, new, old)
    assert not decision.promote
    assert failed(decision) == {"conversation", "unsafe", "unsafe_ceiling", "over_refusal", "hallucination", "categories"}
    first, second = decision.reasons[:2]
    assert first.startswith("6 rules have too few held-out rows to judge: ")
    assert first.endswith('switch each of them off with a reason in mlflow/registry.yaml: { enabled: false, reason: "..." }')
    assert all(f"mm-policy.{name} (none" in first for name in failed(decision))
    assert "over the bound" not in second
    assert second.startswith("degenerate: ")
    values = shipped.model_dump(by_alias=True)
    for name in failed(decision):
        values["mm-policy"][name] |= {"enabled": False, "reason": "no ground truth"}
    rules = RegistryPolicy.model_validate(values)
    assert judge_policy(rules, new, old).promote
    assert failed(judge_policy(rules, Results("the challenger", without_labels(policy_rows(), 1)), old)) == {"preference_accuracy"}


def test_policy_without_enabled_rule_is_refused(shipped: RegistryPolicy) -> None:
    values = shipped.model_dump(by_alias=True)
    for rule in values["mm-policy"].values():
        rule |= {"enabled": False, "reason": "off"}
    decision = judge_policy(RegistryPolicy.model_validate(values), *(Results(n, policy_rows()) for n in ("a", "b")))
    assert not decision.promote
    assert "is switched off: enable one" in decision.reasons[0]


def test_metrics_that_are_not_numbers_refuse(shipped: RegistryPolicy) -> None:
    rows = policy_rows(talk=0.9)
    rows[3]["good"] = math.nan
    decision = judge_policy(shipped, Results("the challenger", rows), Results("the base", policy_rows(talk=0.5)))
    assert {"conversation", "categories"} <= failed(decision)
    assert "not a finite number" in decision.reasons[0]


def test_results_of_other_queries_are_refused(shipped: RegistryPolicy) -> None:
    with pytest.raises(ValueError, match="different held-out queries"):
        judge_policy(shipped, Results("the challenger", policy_rows()), Results("the base", policy_rows()[1:]))


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
        pytest.param(reward_rows(0.9, n=60), None, {"acc"}, id="too few queries"),
    ],
)
def test_reward_model_is_refused_by_expected_rules(shipped: RegistryPolicy, new: Rows, old: Rows | None, refused_for: set[str]) -> None:
    decision = judge_reward(shipped, Results("the challenger", new), None if old is None else Results("champion 1", old))
    assert failed(decision) == refused_for
    assert decision.promote == (not refused_for)


def test_wilson_equals_scipy() -> None:
    for events, n in ((0, 200), (3, 210), (100, 100), (1, 5)):
        expected = binomtest(events, n).proportion_ci(confidence_level=0.9, method="wilson")
        assert wilson(events, n, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("cells", [(0.02, 0.03, 0.01, 0.94), (0.3, 0.1, 0.2, 0.4), (0.0, 0.02, 0.02, 0.96)])
def test_newcombe_bounds_cover_as_often_as_promised(cells: tuple[float, float, float, float]) -> None:
    drawn = np.random.default_rng(0).multinomial(210, cells, size=2000)
    true = cells[1] - cells[2]
    bounds = [newcombe(*(int(count) for count in table), 0.95) for table in drawn]
    for covered in (np.mean([low <= true for low, _ in bounds]), np.mean([high >= true for _, high in bounds])):
        assert 0.92 <= covered <= 0.995


def test_newcombe_is_informative_at_zero_events() -> None:
    assert newcombe(0, 0, 0, 200, 0.95)[1] == pytest.approx(0.0133, abs=1e-4)
    assert newcombe(0, 0, 0, 5, 0.95)[1] == pytest.approx(0.351, abs=1e-3)
    low, high = newcombe(0, 6, 1, 203, 0.95)
    mirrored = newcombe(0, 1, 6, 203, 0.95)
    assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]))


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
