from __future__ import annotations

import math

import pytest

from components.alignment.diagnosis import COLLAPSED_STEPS, CollapseWatch, Outcome, outcome_of, warnings_of
from components.alignment.pairs import build_pairs
from components.config.settings import load_settings
from components.errors import StageFault
from tests.conftest import ROOT
from tests.tiny import queries

SOUND = Outcome(chosen=0.1, rejected=-0.8, accuracy=0.9, both_fell=0.2, gained_length=2.0, chosen_length=1.0)


def outcome(**changes: float) -> Outcome:
    return Outcome(**{**vars(SOUND), **changes})


def test_metrics_of_a_querys_pairs_by_hand() -> None:
    query = queries()[1]  # two responses, of which the second is the better
    settings = load_settings(ROOT / "params.yaml").alignment.model_copy(update={"beta_schedule": "constant"})
    pairs = build_pairs([query], {}, settings, 0.0)
    reference = {(query.id, 0): (-20.0, 10), (query.id, 1): (-8.0, 4)}
    outcome = outcome_of(pairs, [query], {(query.id, 0): -25.0, (query.id, 1): -9.0}, reference)
    assert outcome == Outcome(chosen=-1 / 4, rejected=-5 / 10, accuracy=1.0, both_fell=1.0, gained_length=4 - 10, chosen_length=4 - 10)
    turned = outcome_of(pairs, [query], {(query.id, 0): -18.0, (query.id, 1): -9.0}, reference)
    assert (turned.accuracy, turned.both_fell, turned.gained_length) == (0.0, 0.0, 10 - 4)


def test_a_sound_training_has_nothing_to_warn_of() -> None:
    assert warnings_of(SOUND) == []
    assert warnings_of(outcome(rejected=-9.0)) == [], "rejected responses are meant to fall"
    assert warnings_of(outcome(chosen=-0.4, rejected=-0.9)) == [], "a little of it is usual"


def test_both_falling_by_much_is_a_warning_with_a_cure() -> None:
    (sentence,) = warnings_of(outcome(chosen=-1.25, rejected=-2.0))
    assert "1.25 and rejected ones 2.00 nats a token" in sentence
    assert "alignment.sft_weight" in sentence


@pytest.mark.parametrize(("chosen", "accuracy"), [(-3.5, 0.5), (-40.0, 0.2)])
def test_collapse_is_a_fault(chosen: float, accuracy: float) -> None:
    with pytest.raises(StageFault, match="collapsed"):
        warnings_of(outcome(chosen=chosen, rejected=chosen, accuracy=accuracy))


@pytest.mark.parametrize(("chosen", "accuracy"), [(-3.5, 0.7), (-2.5, 0.5), (0.2, 0.4)])
def test_moving_far_or_learning_no_order_alone_is_no_collapse(chosen: float, accuracy: float) -> None:
    assert not any("collapsed" in sentence for sentence in warnings_of(outcome(chosen=chosen, rejected=-4.0, accuracy=accuracy)))


def test_log_probs_that_are_not_finite_are_a_fault() -> None:
    with pytest.raises(StageFault, match="not finite"):
        warnings_of(outcome(chosen=math.nan))


def test_a_collapse_stops_a_run_once_it_has_lasted() -> None:
    watch = CollapseWatch()
    bad, good = {"log_ratios/chosen": -3.5, "rewards/accuracy": 0.5}, {"log_ratios/chosen": -3.5, "rewards/accuracy": 0.8}
    for step in range(COLLAPSED_STEPS - 1):
        watch.see(step, bad)
    watch.see(COLLAPSED_STEPS - 1, good)
    for step in range(COLLAPSED_STEPS - 1):
        watch.see(step, bad)
    with pytest.raises(StageFault, match=r"collapsed: chosen responses are 3\.5 nats a token .* at step 42"):
        watch.see(41, bad)
