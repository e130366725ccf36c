from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from components.alignment.losses import LossSettings, PairBatch, SftBatch, implicit_margin, pair_loss

LOG_PROBS = torch.tensor([-10.0, -12.0, -9.0])
REFERENCE = torch.tensor([-11.0, -11.5, -9.5])
TOKENS = torch.tensor([5, 4, 3])


def pairs(betas: list[float], weights: list[float]) -> PairBatch:
    return PairBatch(torch.tensor([0, 2]), torch.tensor([1, 1]), torch.tensor(betas), torch.tensor(weights))


def by_hand(beta: float, winner: float, loser: float) -> float:
    return math.log1p(math.exp(-beta * (winner - loser)))


def test_the_loss_is_the_hand_calculation_with_a_beta_a_pair() -> None:
    result = pair_loss(LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.15], [0.5, 0.5]), LossSettings(sft_weight=0.25))
    first = by_hand(0.1, 1.0, -0.5) + 0.25 * 10 / 5
    second = by_hand(0.15, 0.5, -0.5) + 0.25 * 9 / 3
    assert result.loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_rewards_are_logged_with_the_beta_that_was_used() -> None:
    result = pair_loss(LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.15], [0.0, 1.0]), LossSettings(sft_weight=0.0))
    assert result.metrics["rewards/chosen"].item() == pytest.approx(0.15 * 0.5, rel=1e-6)
    assert result.metrics["rewards/margin"].item() == pytest.approx(0.15 * 1.0, rel=1e-6)


def test_label_smoothing_above_zero_lifts_a_right_pairs_loss() -> None:
    def loss(smoothing: float) -> float:
        return pair_loss(
            LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.1], [1.0, 0.0]), LossSettings(sft_weight=0.0, label_smoothing=smoothing)
        ).loss.item()

    assert loss(0.0) == pytest.approx(by_hand(0.1, 1.0, -0.5), rel=1e-6)
    assert loss(0.2) == pytest.approx(0.8 * by_hand(0.1, 1.0, -0.5) + 0.2 * by_hand(0.1, -0.5, 1.0), rel=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("per_query", [False, True])
def test_preference_weight_multiplies_that_loss_not_sft_term(weight: float, per_query: bool) -> None:
    sft = SftBatch(torch.tensor([0]), torch.tensor([1.0])) if per_query else None
    chosen = replace(pairs([0.1, 0.1], [1.0, 0.0]), sft=sft)
    result = pair_loss(LOG_PROBS, REFERENCE, TOKENS, chosen, LossSettings(sft_weight=0.25, preference_weight=weight))
    assert result.loss.item() == pytest.approx(weight * by_hand(0.1, 1.0, -0.5) + 0.25 * 10 / 5, rel=1e-6)
    assert result.metrics["loss/preference"].item() == pytest.approx(by_hand(0.1, 1.0, -0.5), rel=1e-6)


def test_beta_is_applied_once() -> None:
    log_probs = LOG_PROBS.clone().requires_grad_()
    pair_loss(log_probs, LOG_PROBS, TOKENS, pairs([0.3, 0.1], [1.0, 0.0]), LossSettings(sft_weight=0.0)).loss.backward()
    assert log_probs.grad is not None
    assert log_probs.grad[0].item() == pytest.approx(-0.3 * 0.5, rel=1e-6)


def test_mean_log_probs_divide_policy_and_reference_by_tokens() -> None:
    result = pair_loss(LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.1], [1.0, 0.0]), LossSettings(sft_weight=0.0, mean_log_probs=True))
    assert result.loss.item() == pytest.approx(by_hand(0.1, 1.0 / 5, -0.5 / 4), rel=1e-6)


def test_ipo_is_the_squared_distance_from_its_target() -> None:
    result = pair_loss(LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.25], [0.5, 0.5]), LossSettings(sft_weight=0.0, loss_type="ipo"))
    assert result.loss.item() == pytest.approx(((1.5 - 1 / 0.2) ** 2 + (1.0 - 1 / 0.5) ** 2) / 2, rel=1e-6)
    assert result.metrics["rewards/margin"].item() == pytest.approx((0.1 * 1.5 + 0.25 * 1.0) / 2, rel=1e-6)


def test_ipo_over_means_divides_each_response_by_its_own_tokens() -> None:
    result = pair_loss(
        LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.1], [1.0, 0.0]), LossSettings(sft_weight=0.0, loss_type="ipo", mean_log_probs=True)
    )
    assert result.loss.item() == pytest.approx((1 / 5 + 0.5 / 4 - 5) ** 2, rel=1e-6)


def test_ipo_with_label_smoothing_is_refused() -> None:
    with pytest.raises(ValueError, match="label smoothing"):
        pair_loss(
            LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.1], [0.5, 0.5]), LossSettings(sft_weight=0.0, label_smoothing=0.1, loss_type="ipo")
        )


def test_emphasis_multiplies_the_preference_loss_not_sft_term() -> None:
    weighted = replace(pairs([0.1, 0.15], [0.5, 0.5]), emphasis_P=torch.tensor([1.6, 0.4]))
    result = pair_loss(LOG_PROBS, REFERENCE, TOKENS, weighted, LossSettings(sft_weight=0.25))
    first = 1.6 * by_hand(0.1, 1.0, -0.5) + 0.25 * 10 / 5
    second = 0.4 * by_hand(0.15, 0.5, -0.5) + 0.25 * 9 / 3
    assert result.loss.item() == pytest.approx((first + second) / 2, rel=1e-6)
    terms = result.metrics["loss/preference"] + 0.25 * result.metrics["loss/sft"]
    assert terms.item() == pytest.approx(result.loss.item(), rel=1e-6)


def test_sft_term_once_a_query_is_the_mean_over_best_responses() -> None:
    once = replace(pairs([0.1, 0.1], [0.5, 0.5]), sft=SftBatch(torch.tensor([0, 2]), torch.tensor([0.5, 0.5])))
    result = pair_loss(LOG_PROBS, REFERENCE, TOKENS, once, LossSettings(sft_weight=0.25))
    preference = (by_hand(0.1, 1.0, -0.5) + by_hand(0.1, 0.5, -0.5)) / 2
    assert result.metrics["loss/sft"].item() == pytest.approx((10 / 5 + 9 / 3) / 2, rel=1e-6)
    assert result.loss.item() == pytest.approx(preference + 0.25 * (10 / 5 + 9 / 3) / 2, rel=1e-6)


def test_implicit_margin_is_weighted_mean_log_ratio_difference() -> None:
    margin = implicit_margin(LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.9], [0.25, 0.75]), mean_log_probs=False)
    assert margin == pytest.approx(0.25 * 1.5 + 0.75 * 1.0)


def test_signs_of_degeneration_are_counted_by_hand() -> None:
    log_probs = torch.tensor([-12.0, -14.0, -10.0])  # log-ratios -1, -2.5, -0.5: every response lost
    metrics = pair_loss(log_probs, REFERENCE, TOKENS, pairs([0.1, 0.1], [0.5, 0.5]), LossSettings(sft_weight=0.0)).metrics
    assert metrics["signs/both_fell"].item() == 1
    assert (
        pair_loss(LOG_PROBS, REFERENCE, TOKENS, pairs([0.1, 0.1], [0.5, 0.5]), LossSettings(sft_weight=0.0))
        .metrics["signs/both_fell"]
        .item()
        == 0
    )
    assert metrics["log_ratios/chosen"].item() == pytest.approx((-1 / 5 - 0.5 / 3) / 2)
    assert metrics["log_ratios/rejected"].item() == pytest.approx(-2.5 / 4)
    # The winners have 5 and 3 tokens, the loser 4. Where the loser gains on the first winner, the shorter response gains.
    assert metrics["signs/chosen_length"].item() == 0
    turned = torch.tensor([-13.0, -11.5, -9.0])
    length = (
        pair_loss(turned, REFERENCE, TOKENS, pairs([0.1, 0.1], [0.5, 0.5]), LossSettings(sft_weight=0.0))
        .metrics["signs/gained_length"]
        .item()
    )
    assert length == ((4 - 5) + (3 - 4)) / 2
