"""Where a step lies in the epochs, how large its learning rate is, and which random state it starts from."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """All optimiser steps of a run, counted from 0. Linear warm-up, then half a cosine to 0."""

    steps_per_epoch: int
    total: int
    warmup: int

    @classmethod
    def plan(cls, steps_per_epoch: int, epochs: int, max_steps: int | None, warmup_share: float) -> Schedule:
        """Count steps: all epochs, or `max_steps` where that is fewer."""
        if steps_per_epoch < 1:
            raise ValueError("an epoch has no step: there is nothing to train on")
        total = steps_per_epoch * epochs
        if max_steps is not None:
            total = min(total, max_steps)
        return cls(steps_per_epoch, total, math.floor(warmup_share * total))

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, position in the epoch) of a step."""
        return divmod(step, self.steps_per_epoch)

    def factor(self, step: int) -> float:
        """Learning rate of a step as a share of the peak: the first step already learns, the one after the last would be at 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def seed_everything(*parts: int) -> None:
    """Put Python's, NumPy's and torch's random state where `parts` (seed, kind, step, rank) say, whatever ran before."""
    import numpy as np
    import torch

    value = 0
    for part in parts:
        value = (value * 1_000_003 + part + 1) % (2**31 - 1)
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002  # the state that libraries draw from, not our own
    torch.manual_seed(value)
