"""What a training task gives the engine. One instance lives in every rank; the engine owns the loop, the task owns the mathematics.

- The optimiser steps on the gradient of the sum, over all ranks and micro-batches of a step, of what `loss` returns. So a task divides
  each term by the step's *global* count itself, and never thinks of ranks or accumulation again.
- `epoch_plan(0)` is read once before the first step to count steps; `epoch_plan(e)` is read again after `begin_epoch(e)`. Every epoch must
  have as many steps as the first, since the learning rate's schedule runs over all of them.
- Every step and every `begin_epoch` starts from random state derived from (seed, step, rank), so what happens before does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """One optimiser step: `micros[rank][i]` is the i-th micro-batch of a rank. All ranks have equally many, at least one."""

    micros: list[list[Any]]


@dataclass
class EpochContext:
    """What a task may use while it prepares an epoch.

    `extra` is carried by every checkpoint's COMMITTED.json from then on, and given back on resume: names of files stored in `scratch`,
    for instance. It must be the same on every rank, and JSON.
    """

    rank: int
    world: int
    scratch: Path
    extra: dict[str, Any] = field(default_factory=dict)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        from torch import distributed

        distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, in the order of ranks, on every rank."""
        from torch import distributed

        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values


class TrainingTask(Protocol):
    """A model, its batches and its loss. Built in every rank by a factory `build(settings, root)`, after torch.distributed is up."""

    model: nn.Module
    epochs: int

    def epoch_plan(self, epoch: int) -> list[Step]:
        """All optimiser steps of an epoch, the same list on every rank."""
        ...

    def begin_epoch(self, epoch: int, context: EpochContext) -> None:
        """Prepare an epoch: on all ranks, after the last step of the epoch before and ahead of this one's first.

        Called again when a killed run resumes inside the epoch: files that it stored in `context.scratch` have to be found and used
        again, since the weights that made them may be gone. Write them atomically. All ranks must meet the same barriers: whether a file
        is there is no ground to skip one, since another rank may just have written it.
        """
        ...

    def batch(self, micro: Any) -> dict[str, Any]:
        """The model's keyword arguments on the model's device, and what `loss` needs beside. No dtype is changed after this."""
        ...

    def loss(self, outputs: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's part of the step's loss, and metrics as parts of sums; the same metric names in every micro-batch.

        The loss must depend on `outputs` even where a micro-batch has no terms (multiply by zero): other ranks wait for its gradient.
        """
        ...

    def export(self, folder: Path) -> None:
        """Write what was trained into the empty `folder` by save_pretrained. Called in rank 0 only."""
        ...
