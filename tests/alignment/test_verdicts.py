"""The bounds of a collapse and of a warning, and the outcome of several pairs, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from components.alignment.betas import MarginScale
from components.alignment.diagnosis import CollapseWatch, Outcome, collapsed, outcome_of, warnings_of
from components.alignment.pairs import PairTable
from components.alignment.policy_task import diagnosed
from components.errors import TrainingFault
from components.files import digest_bytes
from components.preferences.record import Query, Response


def outcome(**changes: float) -> Outcome:
    return Outcome(
        **{"chosen": 0.1, "rejected": -0.8, "accuracy": 0.9, "both_fell": 0.2, "gained_length": 2.0, "chosen_length": 1.0} | changes
    )


def table(query: list[int], winner: list[int], loser: list[int]) -> PairTable:
    count = len(query)
    rest: dict[str, Any] = {"margin": np.zeros(count), "beta": np.full(count, 0.1), "weight": np.ones(count)}
    return PairTable(
        np.array(query), np.array(winner), np.array(loser), scale=MarginScale(1.0, "raw"), calibration=np.zeros(count, dtype=bool), **rest
    )


def test_outcome_of_four_pairs_by_hand() -> None:
    queries = [Query.single(name, "short", "", (Response("a", 1), Response("b", 2), Response("c", 3))) for name in ("x", "y")]
    reference = {("x", 0): (-10.0, 4), ("x", 1): (-8.0, 2), ("x", 2): (-6.0, 8), ("y", 0): (-5.0, 1), ("y", 1): (-5.0, 10)}
    ratios = {("x", 0): -2.0, ("x", 1): -1.0, ("x", 2): 1.0, ("y", 0): 0.0, ("y", 1): 0.0}
    policy = {key: reference[key][0] + ratio for key, ratio in ratios.items()}
    outcome = outcome_of(table([0, 0, 0, 1], [0, 0, 1, 0], [1, 2, 2, 1]), queries, policy, reference)
    assert outcome == Outcome(
        chosen=pytest.approx((-2 / 4 - 2 / 4 - 1 / 2 + 0) / 4),
        rejected=pytest.approx((-1 / 2 + 1 / 8 + 1 / 8 + 0) / 4),
        accuracy=0.0,
        both_fell=1 / 4,
        gained_length=pytest.approx((-(4 - 2) - (4 - 8) - (2 - 8) + 0) / 4),
        chosen_length=pytest.approx(((4 - 2) + (4 - 8) + (2 - 8) + (1 - 10)) / 4),
    )
    better = outcome_of(table([0, 0], [2, 1], [0, 0]), queries, policy, reference)
    assert (better.accuracy, better.both_fell, better.gained_length) == (1.0, 0.5, ((8 - 4) + (2 - 4)) / 2)


def test_outcome_leaves_out_queries_without_policy_log_probs() -> None:
    queries = [Query.single(name, "short", "", (Response("a", 1), Response("b", 2))) for name in ("x", "y")]
    reference = {(name, number): (-10.0, 4) for name in "xy" for number in (0, 1)}
    policy = {("y", 0): -8.0, ("y", 1): -14.0}
    outcome = outcome_of(table([0, 1], [0, 0], [1, 1]), queries, policy, reference)
    assert (outcome.chosen, outcome.rejected, outcome.accuracy) == (2 / 4, -4 / 4, 1.0)


def test_diagnosed_queries_are_the_first_by_hash() -> None:
    ids = [f"q{number}" for number in range(50)]
    ten = diagnosed(ids, 10)
    assert len(ten) == 10
    assert ten == sorted(ten)
    assert diagnosed(reversed([*ids, *ids]), 10) == ten, "order and repetition do not matter"
    assert set(ten) < set(diagnosed(ids, 11)) < set(diagnosed(ids, None)) == set(ids)
    others = [name for name in ids if name not in ten]
    assert max(map(digest_bytes, ten)) < min(map(digest_bytes, others))


def test_outcome_where_the_winner_held_still_is_no_fall_of_both() -> None:
    queries = [Query.single("x", "short", "", (Response("a", 1), Response("b", 2)))]
    reference = {("x", 0): (-10.0, 4), ("x", 1): (-8.0, 2)}
    for policy in ({("x", 0): -10.0, ("x", 1): -9.0}, {("x", 0): -11.0, ("x", 1): -8.0}):
        assert outcome_of(table([0], [0], [1]), queries, policy, reference).both_fell == 0


def test_outcome_is_recorded_under_its_names() -> None:
    assert Outcome(1.0, 2.0, 3.0, 4.0, 5.0, 6.0).metrics() == {
        "log_ratio.chosen": 1.0,
        "log_ratio.rejected": 2.0,
        "signs.accuracy": 3.0,
        "signs.both_fell": 4.0,
        "signs.gained_length": 5.0,
        "signs.chosen_length": 6.0,
    }


@pytest.mark.parametrize(
    ("chosen", "accuracy", "expected"),
    [(-3.01, 0.55, True), (-3.0, 0.55, False), (-3.01, 0.551, False), (-9.0, 0.0, True), (3.5, 0.5, False)],
)
def test_collapse_is_three_nats_a_token_with_the_order_of_a_coin(chosen: float, accuracy: float, expected: bool) -> None:
    assert collapsed(chosen, accuracy) is expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "warned"),
    [(-0.51, -0.51, True), (-0.5, -0.51, False), (-0.51, -0.5, False), (0.6, -0.6, False), (-0.6, 0.6, False)],
)
def test_warning_needs_both_sides_to_fall_by_half_a_nat(chosen: float, rejected: float, warned: bool) -> None:
    assert bool(warnings_of(outcome(chosen=chosen, rejected=rejected))) is warned


def test_warning_states_both_losses_as_positive_numbers() -> None:
    (sentence,) = warnings_of(outcome(chosen=-0.75, rejected=-1.5))
    assert "became 0.75 and rejected ones 1.50 nats a token less likely" in sentence


@pytest.mark.parametrize("changes", [{"chosen": math.nan}, {"rejected": math.nan}, {"rejected": -math.inf}, {"chosen": math.inf}])
def test_any_log_prob_that_is_not_finite_is_a_fault(changes: dict[str, float]) -> None:
    with pytest.raises(TrainingFault, match="not finite"):
        warnings_of(outcome(**changes))


def test_collapse_states_how_far_and_how_badly_ordered() -> None:
    with pytest.raises(TrainingFault, match=r"3\.5 nats a token less likely than under the base, and only 40% of the pairs"):
        warnings_of(outcome(chosen=-3.5, accuracy=0.4))


def watched(watch: CollapseWatch, step: int, chosen: float, accuracy: float) -> None:
    watch.see(step, {"log_ratios/chosen": chosen, "rewards/accuracy": accuracy})


def test_tenth_bad_step_in_a_row_stops_the_run() -> None:
    watch = CollapseWatch()
    for step in range(9):
        watched(watch, step, -4.0, 0.5)
        assert watch.steps == step + 1
    with pytest.raises(TrainingFault, match=r"at step 10, and in the 9 before it\. Lower alignment\.learning_rate"):
        watched(watch, 9, -4.0, 0.5)


@pytest.mark.parametrize(("chosen", "accuracy"), [(-2.0, 0.5), (-4.0, 0.8)])
def test_good_step_starts_the_count_anew(chosen: float, accuracy: float) -> None:
    watch = CollapseWatch()
    for step in range(9):
        watched(watch, step, -4.0, 0.5)
    watched(watch, 9, chosen, accuracy)
    assert watch.steps == 0
