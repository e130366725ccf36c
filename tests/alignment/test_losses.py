from __future__ import annotations

import math

import pytest
import torch

from components.alignment.losses import PairBatch, pair_loss

LOG_PROBS = torch.tensor([-10.0, -12.0, -9.0])
REFERENCE = torch.tensor([-11.0, -11.5, -9.5])
TOKENS = torch.tensor([5, 4, 3])


def pairs(betas: list[float], weights: list[float]) -> PairBatch:
    return PairBatch(torch.tensor([0, 2]), torch.tensor([1, 1]), torch.tensor(betas), torch.tensor(weights))


def by_hand(beta: float, winner: float, loser: float) -> float:
    return math.log1p(math.exp(-beta * (winner - loser)))


def test_the_loss_is_the_hand_calculation_with_a_beta_a_pair() -> None:
    found = pair_loss(LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.15], [0.5, 0.5]), sft_weight=0.25)
    first = by_hand(0.1, 1.0, -0.5) + 0.25 * 10 / 5
    second = by_hand(0.15, 0.5, -0.5) + 0.25 * 9 / 3
    assert found.loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_rewards_are_logged_with_the_beta_that_was_used() -> None:
    found = pair_loss(LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.15], [0.0, 1.0]), sft_weight=0.0)
    assert found.metrics["rewards/chosen"].item() == pytest.approx(0.15 * 0.5, rel=1e-6)
    assert found.metrics["rewards/margin"].item() == pytest.approx(0.15 * 1.0, rel=1e-6)


def test_label_smoothing_zero_is_none_and_more_lifts_the_loss_of_a_right_pair() -> None:
    def loss(smoothing: float) -> float:
        return pair_loss(LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.1], [1.0, 0.0]), sft_weight=0.0, label_smoothing=smoothing).loss.item()

    assert loss(0.0) == pytest.approx(by_hand(0.1, 1.0, -0.5), rel=1e-6)
    assert loss(0.2) == pytest.approx(0.8 * by_hand(0.1, 1.0, -0.5) + 0.2 * by_hand(0.1, -0.5, 1.0), rel=1e-6)


def test_beta_is_applied_once() -> None:
    log_probs = LOG_PROBS.clone().requires_grad_()
    pair_loss(log_probs, LOG_PROBS, TOKENS, pairs([0.3, 0.1], [1.0, 0.0]), sft_weight=0.0).loss.backward()
    assert log_probs.grad is not None
    assert log_probs.grad[0].item() == pytest.approx(-0.3 * 0.5, rel=1e-6)


def test_mean_log_probs_divide_policy_and_reference_by_the_tokens() -> None:
    found = pair_loss(LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.1], [1.0, 0.0]), sft_weight=0.0, mean_log_probs=True)
    assert found.loss.item() == pytest.approx(by_hand(0.1, 1.0 / 5, -0.5 / 4), rel=1e-6)
