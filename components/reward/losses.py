"""The reward model's loss (paper section 3; ties and weights as in architecture of the released trainer, without its faults).

    L = mean over pairs of -log sigmoid(r_w - r_l)  +  tie_weight * mean over ties of (r_a - r_b)^2
        + critique_weight * mean over responses with a critique to learn of its mean token cross-entropy

Every mean is over the optimiser step's global batch, so the result does not depend on how it was cut into ranks and micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from components.reward.model import Judgement


@dataclass(frozen=True)
class StepCounts:
    """Global counts of an optimiser step: what the means divide by."""

    pairs: int
    ties: int
    critiques: int


@dataclass(frozen=True)
class Comparisons:
    """Indices among the K branches of a micro-batch: [P, 2] winner and loser, [S, 2] ties, [N] those whose critique is learned."""

    pair_P2: Tensor
    tie_S2: Tensor
    learned_N: Tensor


def reward_loss(
    judged: Judgement, comparisons: Comparisons, counts: StepCounts, *, tie_weight: float, critique_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's part of the step's loss, and its part of the step's means for the log."""
    score_K = judged.score_K
    difference_P = score_K[comparisons.pair_P2[:, 0]] - score_K[comparisons.pair_P2[:, 1]]
    pair = -logsigmoid(difference_P).sum() / max(1, counts.pairs)
    tie = (score_K[comparisons.tie_S2[:, 0]] - score_K[comparisons.tie_S2[:, 1]]).square().sum() / max(1, counts.ties)
    entropy_K = -judged.critique_log_prob_K / judged.critique_tokens_K.clamp(min=1)
    critique = entropy_K[comparisons.learned_N].sum() / max(1, counts.critiques)
    total = pair + tie_weight * tie + critique_weight * critique
    with torch.no_grad():
        metrics = {
            "loss/pair": pair.detach(),
            "loss/tie": tie.detach(),
            "loss/critique": critique.detach(),
            "accuracy": (difference_P > 0).float().sum() / max(1, counts.pairs),
            "margin": difference_P.sum().detach() / max(1, counts.pairs),
        }
    return total, metrics
