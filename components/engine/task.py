"""What a training task gives the engine. One instance lives in every rank; the engine owns the loop, the task owns the mathematics.

A task that is a subclass of TrainingTask takes over the hooks that do nothing; one that is none leaves them out.

- The optimizer steps on the gradient of the sum, over all ranks and micro-batches of a step, of what `loss` returns. So a task divides
  each term by the step's *global* count itself, and never thinks of ranks or accumulation again.
- `epoch_plan(0)` is read once before the first step to count steps; `epoch_plan(e)` is read again after `begin_epoch(e)`. Every epoch must
  have as many steps as the first, since the learning rate's schedule runs over all of them.
- Every step and every `begin_epoch` starts from random state derived from (seed, step, rank), so what happens before does not matter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from components.checkout import Checkout
from components.config.settings import Settings
from components.engine.ranks import RankContext


@dataclass(frozen=True)
class TrainingRank:
    """What a rank of a training is started with. `began` is when its process was, by time.perf_counter."""

    settings: Settings
    checkout: Checkout
    stage: str
    scratch: Path
    out: Path
    began: float


@dataclass(frozen=True)
class Step:
    """One optimizer step: `micros[rank][i]` is the i-th micro-batch of a rank. All ranks have equally many, at least one."""

    micros: list[list[Any]]


@dataclass(frozen=True)
class EpochContext(RankContext):
    """What a task may use while it prepares an epoch or looks at a step.

    Every checkpoint's COMMITTED.json carries `extra` from then on, and a resumed run starts with it: names of files in `scratch`, for
    instance. It must be the same on every rank, and JSON. Inside `with context.whole_weights():` every rank holds all weights and may
    run the model as often as it likes, whatever the others do; all ranks enter and leave it, and none changes a weight.
    """

    scratch: Path = Path()
    extra: dict[str, Any] = field(default_factory=dict)
    whole_weights: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


class TrainingTask(Protocol):
    """A model, its batches and its loss. Built in every rank from (settings, checkout), after torch.distributed is up."""

    model: nn.Module
    epochs: int

    def epoch_plan(self, epoch: int) -> list[Step]:
        """All optimizer steps of an epoch, the same list on every rank."""
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
        """Write what was trained into the empty `folder` by save_pretrained. Called in rank 0 only, with all weights there."""
        ...

    def begin_step(
        self,
        step: int,  # noqa: ARG002
        prepared: Iterator[dict[str, Any]],  # noqa: ARG002
        forward: Callable[[dict[str, Any]], Any],  # noqa: ARG002
        context: EpochContext,  # noqa: ARG002
    ) -> None:
        """Look at a step with the weights as they are before it; called on every rank ahead of its first micro-batch, where overridden.

        `prepared` yields this rank's micro-batches as `batch` makes them, `forward` gives the model's outputs without gradients. All ranks
        must run `forward` on equally many of them: on all, or on none.
        """
        return

    def check_metrics(self, step: int, sums: dict[str, float]) -> None:  # noqa: ARG002
        """Stop a run whose metrics show that it goes wrong, by raising StageFault; called on every rank once a step's sums are known."""
        return


def overrides(task: TrainingTask, hook: str) -> bool:
    """Whether the task's class has a hook of its own."""
    return any(hook in vars(kind) for kind in type(task).__mro__ if kind is not TrainingTask)


def check_plan(steps: list[Step], world: int, expected: int) -> None:
    """Refuse a plan that would make ranks wait for each other for ever, or that the learning rate's schedule does not know.

    Raises ValueError naming the step.
    """
    if len(steps) != expected:
        raise ValueError(f"an epoch has {len(steps)} steps, and the first had {expected}: the schedule needs equally many")
    for number, step in enumerate(steps):
        counts = [len(micros) for micros in step.micros]
        if len(counts) != world or len(set(counts)) != 1 or counts[0] == 0:
            raise ValueError(f"step {number} of the epoch has micro-batches {counts} for {world} ranks: each needs equally many")
