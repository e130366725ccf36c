"""Signs that training has gone wrong. Each stops the run with a sentence, ahead of the next checkpoint: nothing looks finished after it."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor, distributed, nn

from components.engine import partitions
from components.errors import TrainingFault

STILL_STEPS = 10  # steps after which weights must have moved: in bf16 one small step may round to nothing


def check_loss(step: int, epoch: int, loss: float, terms: dict[str, float], micro_losses: list[Tensor]) -> None:
    """Stop where the step's global loss is not a number. Every rank calls this with the same `loss`, so all stop together.

    Raises TrainingFault naming the step, the terms that are not finite, and the ranks and micro-batches they came from.
    """
    if math.isfinite(loss):
        return
    mine = [index for index, value in enumerate(micro_losses) if not bool(torch.isfinite(value))]
    places: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(places, mine)
    where = (
        ", ".join(f"rank {rank} micro-batch {index}" for rank, indices in enumerate(places) for index in indices) or "the sum over ranks"
    )
    broken = ", ".join(f"{name} = {value}" for name, value in sorted(terms.items()) if not math.isfinite(value)) or "none that is logged"
    raise TrainingFault(
        f"the loss is {loss} at step {step + 1} (epoch {epoch + 1}), from {where}; not finite among its terms: {broken}. "
        "No weights were written; lower the learning rate or look at that step's data"
    )


def check_reaches_weights(step: int, epoch: int, loss: Tensor) -> None:
    """Stop on a loss that no trained weight has a part in. Raises TrainingFault."""
    if not loss.requires_grad:
        raise TrainingFault(
            f"the loss at step {step + 1} (epoch {epoch + 1}) does not depend on any trained weight: "
            "all parameters that it uses are frozen, or it was computed without gradients"
        )


def check_gradient(step: int, epoch: int, norm: float) -> None:
    """Stop on a gradient that is not finite or exactly zero. Raises TrainingFault."""
    if not math.isfinite(norm):
        raise TrainingFault(
            f"the gradient's norm is {norm} at step {step + 1} (epoch {epoch + 1}), with a finite loss. "
            "No weights were written; lower the learning rate or train in fp32"
        )
    if norm == 0.0:
        raise TrainingFault(
            f"the gradient is exactly zero at step {step + 1} (epoch {epoch + 1}): the loss does not depend on the trained weights. "
            "Look for frozen parameters or a step without terms"
        )


def check_ranks_agree(model: nn.Module) -> str:
    """The sha256 of the weights, the same on every rank. Raises TrainingFault where ranks hold different weights."""
    digest = weights_digest(model)
    digests: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(digests, digest)
    if len(set(digests)) != 1:
        raise TrainingFault(f"the ranks ended with different weights ({', '.join(value[:12] for value in digests)}); none were written")
    return digest


class MovingWeights:
    """Checks that training changes the weights."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.start: Tensor | None = None
        self.steps = 0

    def after_step(self) -> None:
        """Stop where the weights are still what they were STILL_STEPS steps ago. Raises TrainingFault."""
        if self.start is None:
            return
        self.steps += 1
        if not torch.equal(partitions.sums(self.model), self.start):
            self.start = None  # seen to move; no need to look again
        elif self.steps >= STILL_STEPS:
            self.check()

    def begin(self) -> None:
        """Remember the weights as they are now."""
        self.start, self.steps = partitions.sums(self.model), 0

    def check(self) -> None:
        """Stop where steps were taken and the weights have never moved. Raises TrainingFault."""
        if self.start is not None and self.steps:
            raise TrainingFault(f"the weights did not change in {self.steps} steps: nothing is trained, or the learning rate is too small")


def weights_digest(model: nn.Module) -> str:
    """sha256 over names and bits of all parameters and buffers that a checkpoint holds. Every rank must call it under ZeRO-3."""
    state = hashlib.sha256()
    for name, value in sorted(model.state_dict(keep_vars=True).items()):
        state.update(name.encode())
        state.update(partitions.read_whole(value).contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
