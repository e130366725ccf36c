from __future__ import annotations

import math

import pytest
import torch

from components.reward.losses import Comparisons, StepCounts, reward_loss
from components.reward.model import Judgement

JUDGED = Judgement(torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-6.0, -8.0, 0.0]), torch.tensor([3, 2, 0]))
LEARNED = torch.tensor([0, 1])
COMPARED = Comparisons(torch.tensor([[0, 2]]), torch.tensor([[0, 1]]), LEARNED)


def test_the_loss_is_the_hand_calculation() -> None:
    loss, _ = reward_loss(JUDGED, COMPARED, StepCounts(1, 1, 2), tie_weight=0.1, critique_weight=1.0)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-3)) + 0.1 * 1.5**2 + (6 / 3 + 8 / 2) / 2, rel=1e-6)


def test_parts_of_two_micro_batches_add_up_to_the_mean() -> None:
    counts = StepCounts(2, 2, 4)
    loss, metrics = reward_loss(JUDGED, COMPARED, counts, tie_weight=0.1, critique_weight=1.0)
    whole, _ = reward_loss(JUDGED, COMPARED, StepCounts(1, 1, 2), tie_weight=0.1, critique_weight=1.0)
    assert (loss + loss).item() == pytest.approx(whole.item(), rel=1e-6)
    assert metrics["accuracy"].item() == 0.5


def test_ties_alone_train_without_a_pair() -> None:
    nothing = torch.zeros(0, 2, dtype=torch.long)
    loss, _ = reward_loss(JUDGED, Comparisons(nothing, COMPARED.tie_S2, LEARNED), StepCounts(0, 1, 0), tie_weight=1.0, critique_weight=0.0)
    assert loss.item() == pytest.approx(1.5**2)
