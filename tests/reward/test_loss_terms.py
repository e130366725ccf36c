"""The reward loss term by term, with every number worked out from the formula of paper section 3."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from components.reward.losses import Comparisons, StepCounts, reward_loss
from components.reward.model import Judgement

# Four responses. The second has no critique to learn, though a log-prob sum stands there; the third learns a critique of one token.
SCORES = [1.0, -0.5, 2.0, 0.25]
LOG_PROBS = [-6.0, -99.0, -1.5, -8.0]
TOKENS = [4, 0, 1, 5]
ENTROPIES = [6.0 / 4, 1.5 / 1, 8.0 / 5]  # of the three that are learned
NOTHING = torch.zeros(0, 2, dtype=torch.long)


def judged(scores: list[float] = SCORES) -> Judgement:
    return Judgement(torch.tensor(scores), torch.tensor(LOG_PROBS), torch.tensor(TOKENS))


def compared(pairs: list[tuple[int, int]], ties: list[tuple[int, int]], tokens: list[int] = TOKENS) -> Comparisons:
    pair_P2, tie_S2 = (torch.tensor(rows, dtype=torch.long).reshape(-1, 2) for rows in (pairs, ties))
    return Comparisons(pair_P2, tie_S2, torch.tensor([number for number, count in enumerate(tokens) if count]))


def loss_of(
    comparisons: Comparisons, counts: StepCounts, *, tie_weight: float = 0.0, critique_weight: float = 0.0
) -> tuple[float, dict[str, float]]:
    loss, metrics = reward_loss(judged(), comparisons, counts, tie_weight=tie_weight, critique_weight=critique_weight)
    return loss.item(), {name: value.item() for name, value in metrics.items()}


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_pair_term_is_the_mean_log_sigmoid_of_score_differences() -> None:
    loss, metrics = loss_of(compared([(0, 1), (3, 2)], []), StepCounts(2, 0, 0))
    expected = (softplus(-(1.0 + 0.5)) + softplus(-(0.25 - 2.0))) / 2
    assert loss == pytest.approx(expected, rel=1e-6)
    assert metrics["loss/pair"] == pytest.approx(expected, rel=1e-6)
    assert metrics["margin"] == pytest.approx((1.5 - 1.75) / 2, rel=1e-6)
    assert metrics["accuracy"] == 0.5


def test_pair_term_divides_by_the_pairs_of_the_whole_step() -> None:
    _, metrics = loss_of(compared([(0, 1)], []), StepCounts(8, 0, 0))
    assert metrics["loss/pair"] == pytest.approx(softplus(-1.5) / 8, rel=1e-6)
    assert metrics["margin"] == pytest.approx(1.5 / 8, rel=1e-6)
    assert metrics["accuracy"] == 1 / 8


def test_equal_scores_of_a_pair_count_as_wrong() -> None:
    loss, metrics = reward_loss(judged([0.5] * 4), compared([(0, 1)], []), StepCounts(1, 0, 0), tie_weight=0.0, critique_weight=0.0)
    assert metrics["accuracy"].item() == 0
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("tie_weight", [0.0, 0.1, 1.0, 3.0])
def test_tie_weight_multiplies_the_mean_squared_difference(tie_weight: float) -> None:
    loss, metrics = loss_of(compared([], [(0, 1), (3, 2)]), StepCounts(0, 2, 0), tie_weight=tie_weight)
    mean = (1.5**2 + 1.75**2) / 2
    assert loss == pytest.approx(tie_weight * mean, rel=1e-6)
    assert metrics["loss/tie"] == pytest.approx(mean, rel=1e-6), "the logged term has no weight"


def test_tie_term_divides_by_the_ties_of_the_whole_step() -> None:
    _, metrics = loss_of(compared([], [(0, 1)]), StepCounts(5, 4, 3))
    assert metrics["loss/tie"] == pytest.approx(1.5**2 / 4, rel=1e-6)


@pytest.mark.parametrize("critique_weight", [0.0, 0.5, 1.0, 2.0])
def test_critique_weight_multiplies_the_mean_token_entropy(critique_weight: float) -> None:
    loss, metrics = loss_of(compared([], []), StepCounts(0, 0, 3), critique_weight=critique_weight)
    assert loss == pytest.approx(critique_weight * sum(ENTROPIES) / 3, rel=1e-6)
    assert metrics["loss/critique"] == pytest.approx(sum(ENTROPIES) / 3, rel=1e-6)


def test_critique_mean_leaves_out_responses_that_are_not_learned() -> None:
    # Were the second one counted, its 99 nats would be in the sum.
    _, metrics = loss_of(compared([], []), StepCounts(0, 0, 6))
    assert metrics["loss/critique"] == pytest.approx(sum(ENTROPIES) / 6, rel=1e-6)


def test_total_is_the_weighted_sum_of_the_logged_terms() -> None:
    loss, metrics = loss_of(compared([(0, 1)], [(0, 2), (1, 3)]), StepCounts(2, 3, 4), tie_weight=0.3, critique_weight=0.7)
    assert loss == pytest.approx(metrics["loss/pair"] + 0.3 * metrics["loss/tie"] + 0.7 * metrics["loss/critique"], rel=1e-6)


def test_step_without_any_comparison_has_loss_zero() -> None:
    bare = Judgement(torch.tensor([1.0, 2.0]), torch.tensor([-3.0, -4.0]), torch.tensor([0, 0]))
    loss, metrics = reward_loss(
        bare, Comparisons(NOTHING, NOTHING, torch.zeros(0, dtype=torch.long)), StepCounts(0, 0, 0), tie_weight=1.0, critique_weight=1.0
    )
    assert loss.item() == 0
    assert {name: value.item() for name, value in metrics.items()} == dict.fromkeys(
        ("loss/pair", "loss/tie", "loss/critique", "accuracy", "margin"), 0.0
    )


def test_gradients_are_those_of_the_formula() -> None:
    scores, log_probs = (torch.tensor(values, requires_grad=True) for values in (SCORES, LOG_PROBS))
    outputs = Judgement(scores, log_probs, torch.tensor(TOKENS))
    counts = StepCounts(2, 4, 3)
    loss, metrics = reward_loss(outputs, compared([(0, 1)], [(0, 2)]), counts, tie_weight=0.5, critique_weight=2.0)
    loss.backward()  # type: ignore[no-untyped-call]
    push = 1 / (1 + math.exp(1.5)) / 2
    pull = 0.5 * 2 * (1.0 - 2.0) / 4
    assert grad(scores) == pytest.approx([-push + pull, push, -pull, 0.0], rel=1e-5)
    assert grad(log_probs) == pytest.approx([-2.0 / 4 / 3, 0.0, -2.0 / 1 / 3, -2.0 / 5 / 3], rel=1e-6)
    assert not any(value.requires_grad for value in metrics.values())


def grad(leaf: Tensor) -> list[float]:
    assert leaf.grad is not None
    values: list[float] = leaf.grad.tolist()
    return values


def test_step_with_one_of_each_divides_by_one() -> None:
    lone = Judgement(torch.tensor([1.0, 0.25]), torch.tensor([-6.0, 0.0]), torch.tensor([4, 0]))
    _, metrics = reward_loss(lone, compared([(0, 1)], [(0, 1)], [4, 0]), StepCounts(1, 1, 1), tie_weight=0.0, critique_weight=0.0)
    assert {name: value.item() for name, value in metrics.items()} == {
        "loss/pair": pytest.approx(softplus(-0.75), rel=1e-6),
        "loss/tie": 0.75**2,
        "loss/critique": 1.5,
        "accuracy": 1.0,  # a difference below 1 is right all the same
        "margin": 0.75,
    }
