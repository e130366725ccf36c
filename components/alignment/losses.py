"""The pair loss of MM-DPO, from the log-probs of a query's responses (paper section 4 and appendix E).

    L_pair = -log sigmoid(beta * [(log p(y_w) - log p_ref(y_w)) - (log p(y_l) - log p_ref(y_l))])  +  sft_weight * (-log p(y_w) / |y_w|)

Beta is applied once, and rewards are reported with the beta that was used. Label smoothing e is the standard one: (1 - e) times the loss
plus e times the loss of the swapped pair; 0 is none.

Shapes: K responses, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class PairBatch:
    """Pairs among the K responses of a batch; all of shape [P].

    `weight_P` is a pair's share of the step's mean: the weights of all pairs of a step, on all ranks, add up to 1.
    """

    winner_P: Tensor
    loser_P: Tensor
    beta_P: Tensor
    weight_P: Tensor


@dataclass(frozen=True)
class PairLoss:
    """The weighted sum of the losses, and what is worth logging as weighted sums."""

    loss: Tensor
    metrics: dict[str, Tensor]


def pair_loss(
    log_prob_K: Tensor,
    reference_K: Tensor,
    tokens_K: Tensor,
    pairs: PairBatch,
    *,
    sft_weight: float,
    label_smoothing: float = 0.0,
    mean_log_probs: bool = False,
) -> PairLoss:
    """MM-DPO over all pairs of a batch, all in fp32.

    `log_prob_K` and `reference_K` are sums over a response's tokens; `mean_log_probs` divides both by `tokens_K` first.
    """
    scored_K, scored_reference_K = (log_prob_K / tokens_K, reference_K / tokens_K) if mean_log_probs else (log_prob_K, reference_K)
    ratio_K = scored_K - scored_reference_K
    logits_P = pairs.beta_P * (ratio_K[pairs.winner_P] - ratio_K[pairs.loser_P])
    preference_P = -(1 - label_smoothing) * logsigmoid(logits_P) - label_smoothing * logsigmoid(-logits_P)
    sft_P = -log_prob_K[pairs.winner_P] / tokens_K[pairs.winner_P]
    total = ((preference_P + sft_weight * sft_P) * pairs.weight_P).sum()
    with torch.no_grad():
        metrics = {
            "loss/preference": preference_P,
            "loss/sft": sft_P,
            "rewards/chosen": pairs.beta_P * ratio_K[pairs.winner_P],
            "rewards/rejected": pairs.beta_P * ratio_K[pairs.loser_P],
            "rewards/margin": logits_P,
            "rewards/accuracy": (logits_P > 0).float(),
            "log_probs/chosen": log_prob_K[pairs.winner_P],
            "log_probs/rejected": log_prob_K[pairs.loser_P],
            "beta": pairs.beta_P,
        }
        sums = {name: (value.float() * pairs.weight_P).sum() for name, value in metrics.items()}
    return PairLoss(total, sums)
