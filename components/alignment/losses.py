"""The pair losses of MM-DPO, from the log-probs of a query's responses (MM-RLHF section 4 and appendix E).

    h         = (log p(y_w) - log p_ref(y_w)) - (log p(y_l) - log p_ref(y_l))
    sigmoid     L_pair = -(1 - e) * log sigmoid(beta * h) - e * log sigmoid(-beta * h)       e: label smoothing, 0 is none
    ipo         L_pair = (h - 1 / (2 * beta))^2                                              (arXiv 2310.12036, equation 17)
    L         = mean over pairs of [preference_weight * emphasis * L_pair + sft_weight * (-log p(y_w) / |y_w|) + image_weight * L_image]
    L_image   = -log sigmoid(beta0 * ((log p(y_w) - log p_ref(y_w)) - (log p(y_w | gray) - log p_ref(y_w | gray))))
                the best responses under their picture against the same under a gray one (conditional preference term of mDPO, arXiv
                2406.11839, whose other picture is a crop); 0 for a query without media

Beta is applied once, and rewards are reported with the beta that was used. The emphasis is 1 but for the schedule `madpo`. The
preference weight is 1 but for a control that takes the SFT term alone.

Shapes: K responses, P pairs, S responses that the SFT term is taken of where it is taken once a query, I responses of the image term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LossType = Literal["sigmoid", "ipo"]


@dataclass(frozen=True)
class SftBatch:
    """Responses of the SFT term and their shares of the step's mean, both [S]: the weights of a step, on all ranks, add up to 1."""

    response_S: Tensor
    weight_S: Tensor


@dataclass(frozen=True)
class ImageBatch:
    """The image term: responses under their picture, the same under a gray one, and shares of the step's mean, all [I], among the K of a batch."""

    response_I: Tensor
    blank_I: Tensor
    weight_I: Tensor


@dataclass(frozen=True)
class PairBatch:
    """Pairs among the K responses of a batch; all of shape [P].

    `weight_P` is a pair's share of the step's mean: the weights of all pairs of a step, on all ranks, add up to 1. `emphasis_P` multiplies
    the preference loss alone; None is 1. `sft` says where the SFT term is taken once a query; None takes it of every pair's winner. `image` is
    None without the image term.
    """

    winner_P: Tensor
    loser_P: Tensor
    beta_P: Tensor
    weight_P: Tensor
    emphasis_P: Tensor | None = None
    sft: SftBatch | None = None
    image: ImageBatch | None = None


@dataclass(frozen=True)
class LossSettings:
    """What the settings say of the loss. `sft_weight` is in 1 / nats a token, `label_smoothing` a probability below .5.

    `image_beta` is beta0, that of the image term.
    """

    sft_weight: float
    label_smoothing: float = 0.0
    mean_log_probs: bool = False
    loss_type: LossType = "sigmoid"
    preference_weight: float = 1.0
    image_weight: float = 0.0
    image_beta: float = 0.1


@dataclass(frozen=True)
class PairLoss:
    """The weighted sum of the losses, and what is worth logging as weighted sums."""

    loss: Tensor
    metrics: dict[str, Tensor]


def log_ratios(log_prob_K: Tensor, reference_K: Tensor, tokens_K: Tensor, mean_log_probs: bool) -> Tensor:
    """log p(y) - log p_ref(y) of every response [K], from sums over its tokens; `mean_log_probs` divides both by `tokens_K` first."""
    if mean_log_probs:
        return log_prob_K / tokens_K - reference_K / tokens_K
    return log_prob_K - reference_K


def preference_loss(margin_P: Tensor, beta_P: Tensor, loss_type: LossType, label_smoothing: float) -> Tensor:
    """Loss of every pair [P] from its margin of log-ratios h. Raises ValueError for IPO with label smoothing, which it does not have."""
    if loss_type == "ipo":
        if label_smoothing:
            raise ValueError("IPO has no label smoothing")
        return (margin_P - 1 / (2 * beta_P)) ** 2
    logits_P = beta_P * margin_P
    return -(1 - label_smoothing) * logsigmoid(logits_P) - label_smoothing * logsigmoid(-logits_P)


def implicit_margin(log_prob_K: Tensor, reference_K: Tensor, tokens_K: Tensor, pairs: PairBatch, *, mean_log_probs: bool) -> float:
    """This batch's part of the step's mean of h, in nats: what the schedule `beta_dpo` follows."""
    ratio_K = log_ratios(log_prob_K, reference_K, tokens_K, mean_log_probs).double()
    return float(((ratio_K[pairs.winner_P] - ratio_K[pairs.loser_P]) * pairs.weight_P.double()).sum())


def pair_loss(log_prob_K: Tensor, reference_K: Tensor, tokens_K: Tensor, pairs: PairBatch, settings: LossSettings) -> PairLoss:
    """MM-DPO over all pairs of a batch, all in fp32. `log_prob_K` and `reference_K` are sums over a response's tokens.

    The logged terms add up: loss = preference_weight * loss/preference + sft_weight * loss/sft + image_weight * loss/image.
    """
    ratio_K = log_ratios(log_prob_K, reference_K, tokens_K, settings.mean_log_probs)
    margin_P = ratio_K[pairs.winner_P] - ratio_K[pairs.loser_P]
    preference_P = preference_loss(margin_P, pairs.beta_P, settings.loss_type, settings.label_smoothing)
    if pairs.emphasis_P is not None:
        preference_P = pairs.emphasis_P * preference_P
    if pairs.sft is None:
        sft_P = -log_prob_K[pairs.winner_P] / tokens_K[pairs.winner_P]
        total = ((settings.preference_weight * preference_P + settings.sft_weight * sft_P) * pairs.weight_P).sum()
        sft = (sft_P.detach() * pairs.weight_P).sum()
    else:
        best_S = pairs.sft.response_S
        sft = (-log_prob_K[best_S] / tokens_K[best_S] * pairs.sft.weight_S).sum()
        total = settings.preference_weight * (preference_P * pairs.weight_P).sum() + settings.sft_weight * sft
    with torch.no_grad():
        change_K = (log_prob_K - reference_K) / tokens_K
        chosen_P, rejected_P = ratio_K[pairs.winner_P], ratio_K[pairs.loser_P]
        longer_P = (tokens_K[pairs.winner_P] - tokens_K[pairs.loser_P]).float()
        metrics = {
            "loss/preference": preference_P,
            "rewards/chosen": pairs.beta_P * chosen_P,
            "rewards/rejected": pairs.beta_P * rejected_P,
            "rewards/margin": pairs.beta_P * margin_P,
            "rewards/accuracy": (margin_P > 0).float(),
            "log_probs/chosen": log_prob_K[pairs.winner_P],
            "log_probs/rejected": log_prob_K[pairs.loser_P],
            # Nats a token, so that a bound on them means the same for short and for long responses.
            "log_ratios/chosen": change_K[pairs.winner_P],
            "log_ratios/rejected": change_K[pairs.loser_P],
            # Both less likely than under the reference: the margin grows while neither response is learned.
            "signs/both_fell": ((chosen_P < 0) & (rejected_P < 0)).float(),
            # Tokens by which the response that gained on the other is the longer one, and by which the chosen one is: where the first
            # exceeds the second, length is learned beyond what people preferred.
            "signs/gained_length": margin_P.sign() * longer_P,
            "signs/chosen_length": longer_P,
        }
        sums = {name: (value.float() * pairs.weight_P).sum() for name, value in metrics.items()}
    sums["loss/sft"] = sft.detach()
    if pairs.image is not None:
        image, image_sums = _image_term(ratio_K, pairs.image, settings.image_beta)
        total, sums = total + settings.image_weight * image, sums | image_sums
    return PairLoss(total, sums)


def _image_term(ratio_K: Tensor, image: ImageBatch, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of L_image, and its metrics."""
    margin_I = ratio_K[image.response_I] - ratio_K[image.blank_I]
    loss = (-logsigmoid(beta * margin_I) * image.weight_I).sum()
    with torch.no_grad():
        metrics = {
            "loss/image": loss.detach(),
            "rewards/image_margin": (beta * margin_I * image.weight_I).sum(),
            "rewards/image_accuracy": ((margin_I > 0).float() * image.weight_I).sum(),
        }
    return loss, metrics


def branch_metrics(name: str, value_K: Tensor, pairs: PairBatch) -> dict[str, Tensor]:
    """A metric of every response as two metrics of the pairs, their chosen and their rejected ones, as weighted sums."""
    return {
        f"{name}/chosen": (value_K[pairs.winner_P].float() * pairs.weight_P).sum(),
        f"{name}/rejected": (value_K[pairs.loser_P].float() * pairs.weight_P).sum(),
    }
