"""Every setting of the loss and every number that it logs, by hand, with pairs of unequal beta and unequal weight."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from components.alignment.losses import (
    LossSettings,
    PairBatch,
    SftBatch,
    branch_metrics,
    implicit_margin,
    log_ratios,
    pair_loss,
    preference_loss,
)

LOG_PROBS = [-10.0, -12.0, -9.0, -7.5]
REFERENCE = [-11.0, -11.5, -9.0, -6.0]
TOKENS = [5, 4, 2, 8]
RATIOS = [1.0, -0.5, 0.0, -1.5]
WINNERS, LOSERS = [0, 2, 1], [1, 0, 3]
BETAS, WEIGHTS = [0.1, 0.4, 0.25], [0.5, 0.125, 0.375]
MARGINS = [1.5, -1.0, 1.0]


def batch(**changes: Any) -> PairBatch:
    whole = PairBatch(torch.tensor(WINNERS), torch.tensor(LOSERS), torch.tensor(BETAS), torch.tensor(WEIGHTS))
    return replace(whole, **changes)


def loss_and_metrics(pairs: PairBatch | None = None, **named: Any) -> tuple[float, dict[str, float]]:
    chosen = {"sft_weight": 0.0, **named}
    result = pair_loss(torch.tensor(LOG_PROBS), torch.tensor(REFERENCE), torch.tensor(TOKENS), pairs or batch(), LossSettings(**chosen))
    return result.loss.item(), {name: value.item() for name, value in result.metrics.items()}


def weighted(values: list[float]) -> float:
    return sum(value * weight for value, weight in zip(values, WEIGHTS, strict=True))


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


PREFERENCE = [softplus(-beta * margin) for beta, margin in zip(BETAS, MARGINS, strict=True)]
SFT = [10.0 / 5, 9.0 / 2, 12.0 / 4]


def test_logged_numbers_are_weighted_sums_over_the_pairs() -> None:
    _, metrics = loss_and_metrics(sft_weight=0.5)
    rewards = [[beta * RATIOS[side[n]] for n, beta in enumerate(BETAS)] for side in (WINNERS, LOSERS)]
    a_token = [ratio / tokens for ratio, tokens in zip(RATIOS, TOKENS, strict=True)]
    assert metrics == {
        "loss/preference": pytest.approx(weighted(PREFERENCE), rel=1e-6),
        "loss/sft": pytest.approx(weighted(SFT), rel=1e-6),
        "rewards/chosen": pytest.approx(weighted(rewards[0]), rel=1e-6),
        "rewards/rejected": pytest.approx(weighted(rewards[1]), rel=1e-6),
        "rewards/margin": pytest.approx(weighted([b * m for b, m in zip(BETAS, MARGINS, strict=True)]), rel=1e-6),
        "rewards/accuracy": 0.875,
        "log_probs/chosen": pytest.approx(weighted([-10.0, -9.0, -12.0]), rel=1e-6),
        "log_probs/rejected": pytest.approx(weighted([-12.0, -10.0, -7.5]), rel=1e-6),
        "log_ratios/chosen": pytest.approx(weighted([a_token[n] for n in WINNERS]), rel=1e-5),
        "log_ratios/rejected": pytest.approx(weighted([a_token[n] for n in LOSERS]), rel=1e-5),
        "signs/both_fell": 0.375,
        "signs/gained_length": pytest.approx(weighted([5 - 4, -(2 - 5), 4 - 8])),
        "signs/chosen_length": pytest.approx(weighted([5 - 4, 2 - 5, 4 - 8])),
    }


@pytest.mark.parametrize("sft_weight", [0.0, 0.25, 1.0])
def test_sft_weight_adds_the_winners_mean_token_loss(sft_weight: float) -> None:
    loss, metrics = loss_and_metrics(sft_weight=sft_weight)
    assert loss == pytest.approx(weighted(PREFERENCE) + sft_weight * weighted(SFT), rel=1e-6)
    assert metrics["loss/sft"] == pytest.approx(weighted(SFT), rel=1e-6)


@pytest.mark.parametrize("mean_log_probs", [False, True])
def test_sft_once_a_query_has_its_own_weights(mean_log_probs: bool) -> None:
    once = batch(sft=SftBatch(torch.tensor([0, 3]), torch.tensor([0.75, 0.25])))
    loss, metrics = loss_and_metrics(once, sft_weight=0.5, mean_log_probs=mean_log_probs)
    sft = 0.75 * 10.0 / 5 + 0.25 * 7.5 / 8
    assert metrics["loss/sft"] == pytest.approx(sft, rel=1e-6)
    assert loss == pytest.approx(metrics["loss/preference"] + 0.5 * sft, rel=1e-6)


def test_means_divide_each_log_ratio_by_its_responses_tokens() -> None:
    loss, metrics = loss_and_metrics(mean_log_probs=True)
    means = [ratio / tokens for ratio, tokens in zip(RATIOS, TOKENS, strict=True)]
    margins = [means[w] - means[l] for w, l in zip(WINNERS, LOSERS, strict=True)]  # noqa: E741 - loser
    assert loss == pytest.approx(weighted([softplus(-b * m) for b, m in zip(BETAS, margins, strict=True)]), rel=1e-6)
    assert metrics["rewards/margin"] == pytest.approx(weighted([b * m for b, m in zip(BETAS, margins, strict=True)]), rel=1e-5)
    assert metrics["log_ratios/chosen"] == pytest.approx(weighted([means[n] for n in WINNERS]), rel=1e-5), "divided once"


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_mixes_in_the_loss_of_the_reversed_pair(smoothing: float) -> None:
    loss, _ = loss_and_metrics(label_smoothing=smoothing)
    reverse = [softplus(beta * margin) for beta, margin in zip(BETAS, MARGINS, strict=True)]
    mixed = [(1 - smoothing) * right + smoothing * wrong for right, wrong in zip(PREFERENCE, reverse, strict=True)]
    assert loss == pytest.approx(weighted(mixed), rel=1e-6)


@pytest.mark.parametrize("mean_log_probs", [False, True])
def test_ipo_loss_is_the_square_from_half_of_one_over_beta(mean_log_probs: bool) -> None:
    loss, metrics = loss_and_metrics(loss_type="ipo", mean_log_probs=mean_log_probs, sft_weight=0.5)
    ratios = [ratio / tokens for ratio, tokens in zip(RATIOS, TOKENS, strict=True)] if mean_log_probs else RATIOS
    margins = [ratios[w] - ratios[l] for w, l in zip(WINNERS, LOSERS, strict=True)]  # noqa: E741 - loser
    squares = [(margin - 1 / (2 * beta)) ** 2 for margin, beta in zip(margins, BETAS, strict=True)]
    assert metrics["loss/preference"] == pytest.approx(weighted(squares), rel=1e-6)
    assert loss == pytest.approx(weighted(squares) + 0.5 * weighted(SFT), rel=1e-6)


def test_ipo_takes_no_smoothing_and_any_beta() -> None:
    assert preference_loss(torch.tensor([2.0]), torch.tensor([2.0]), "ipo", 0.0).tolist() == [(2 - 0.25) ** 2]
    with pytest.raises(ValueError, match="label smoothing"):
        preference_loss(torch.tensor([2.0]), torch.tensor([2.0]), "ipo", 0.01)


def test_emphasis_weighs_the_preference_of_each_pair() -> None:
    emphasis = [2.0, 0.0, 0.5]
    loss, metrics = loss_and_metrics(batch(emphasis_P=torch.tensor(emphasis)), sft_weight=0.5)
    expected = weighted([e * value for e, value in zip(emphasis, PREFERENCE, strict=True)])
    assert metrics["loss/preference"] == pytest.approx(expected, rel=1e-6)
    assert loss == pytest.approx(expected + 0.5 * weighted(SFT), rel=1e-6)
    assert metrics["rewards/margin"] == loss_and_metrics()[1]["rewards/margin"]


def test_zero_margin_is_wrong_and_an_equal_log_prob_did_not_fall() -> None:
    still = PairBatch(torch.tensor([2, 2]), torch.tensor([2, 3]), torch.tensor([0.1, 0.1]), torch.tensor([0.25, 0.75]))
    _, metrics = loss_and_metrics(still)
    assert metrics["rewards/accuracy"] == 0.75
    assert metrics["signs/both_fell"] == 0
    reverse = PairBatch(torch.tensor([3]), torch.tensor([2]), torch.tensor([0.1]), torch.tensor([1.0]))
    assert loss_and_metrics(reverse)[1]["signs/both_fell"] == 0


def test_logged_numbers_have_no_gradient() -> None:
    log_probs = torch.tensor(LOG_PROBS, requires_grad=True)
    for sft in (None, SftBatch(torch.tensor([0]), torch.tensor([1.0]))):
        result = pair_loss(log_probs, torch.tensor(REFERENCE), torch.tensor(TOKENS), batch(sft=sft), LossSettings(sft_weight=0.5))
        assert result.loss.requires_grad
        assert not any(value.requires_grad for value in result.metrics.values())


def test_sft_once_a_query_has_a_gradient() -> None:
    log_probs = torch.tensor(LOG_PROBS, requires_grad=True)
    once = batch(weight_P=torch.zeros(3), sft=SftBatch(torch.tensor([3]), torch.tensor([1.0])))
    pair_loss(log_probs, torch.tensor(REFERENCE), torch.tensor(TOKENS), once, LossSettings(sft_weight=0.5)).loss.backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([0.0, 0.0, 0.0, -0.5 / 8])


@pytest.mark.parametrize("mean_log_probs", [False, True])
def test_implicit_margin_follows_sums_or_means(mean_log_probs: bool) -> None:
    tensors = torch.tensor(LOG_PROBS), torch.tensor(REFERENCE), torch.tensor(TOKENS)
    ratios = [ratio / tokens for ratio, tokens in zip(RATIOS, TOKENS, strict=True)] if mean_log_probs else RATIOS
    assert log_ratios(*tensors, mean_log_probs).tolist() == pytest.approx(ratios, rel=1e-5)
    expected = weighted([ratios[w] - ratios[l] for w, l in zip(WINNERS, LOSERS, strict=True)])  # noqa: E741 - loser
    assert implicit_margin(*tensors, batch(), mean_log_probs=mean_log_probs) == pytest.approx(expected, rel=1e-6)


def test_response_metrics_become_those_of_chosen_and_rejected() -> None:
    values = {name: value.item() for name, value in branch_metrics("entropy", torch.tensor([1.0, 2.0, 4.0, 8.0]), batch()).items()}
    assert values == {
        "entropy/chosen": pytest.approx(weighted([1.0, 4.0, 2.0])),
        "entropy/rejected": pytest.approx(weighted([2.0, 1.0, 8.0])),
    }
