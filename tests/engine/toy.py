"""A small task for the engine's tests: a regression whose steps differ in length, with text-like state written ahead of an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from components.checkout import Checkout
from components.config.settings import Settings
from components.engine import checkpoints, loop
from components.engine.task import EpochContext, Step, TrainingRank, TrainingTask
from components.errors import StageFault
from components.files import read_json, write_json

EXAMPLES = 48
STEPS = 6  # an epoch; of 8 examples each, in micro-batches of 1, 2 or 4 examples by turns
FEATURES = 12


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 32)
        self.unused = nn.Linear(3, 3)  # as a vision tower in a step of text
        self.last = nn.Linear(32, 1)

    def forward(self, x: Tensor, y: Tensor, total: float) -> dict[str, Tensor]:  # noqa: ARG002
        return {"prediction": self.last(torch.tanh(self.first(x)))}


class ToyTask(TrainingTask):
    """Mean squared error over a step's examples; from the second epoch on, the targets are shifted by what `begin_epoch` stored."""

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings = settings
        self.options = read_json(root / "toy.json")
        torch.manual_seed(5)
        self.model = Net()
        if self.options.get("frozen"):
            self.model.requires_grad_(False)
            self.model.unused.requires_grad_(True)
        self.x = torch.randn(EXAMPLES, FEATURES)
        self.y = torch.sin(self.x.sum(1, keepdim=True))
        self.epochs = int(self.options.get("epochs", settings.alignment.epochs))
        self.shift = 0.0

    def epoch_plan(self, epoch: int) -> list[Step]:
        ranks = self.settings.training.ranks
        order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(epoch)).tolist()
        per_step = EXAMPLES // STEPS
        steps = []
        for number in range(STEPS):
            examples = order[number * per_step : (number + 1) * per_step]
            size = self.options.get("micro", [1, 2, 4])[number % 3]
            share = per_step // ranks
            shares = [examples[rank * share : (rank + 1) * share] for rank in range(ranks)]
            steps.append(Step([[part[at : at + size] for at in range(0, share, size)] for part in shares]))
        if self.options.get("uneven"):
            steps[3].micros[0].append([])
        return steps

    def begin_epoch(self, epoch: int, context: EpochContext) -> None:
        stored = context.scratch / f"shift-{epoch}.json"
        with context.whole_weights():
            # One rank works, the others don't.
            if context.rank == 0 and not stored.is_file():
                with torch.no_grad():
                    own = float(self.model(self._inputs([0, 1, 2, 3]), self.y[:4], 1.0)["prediction"].mean())
                time.sleep(float(self.options.get("epoch_seconds", 0)))
                write_json(stored, own)
            context.barrier()
        self.shift = 0.1 * float(read_json(stored)) if epoch else 0.0
        context.extra["shift"] = stored.name

    def batch(self, micro: list[int]) -> dict[str, Any]:
        time.sleep(float(self.options.get("micro_seconds", 0)))
        x = self._inputs(micro)
        return {"x": x, "y": self.y[micro].to(x.device), "total": float(EXAMPLES // STEPS)}

    def loss(self, outputs: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch["y"].dtype == torch.float32
        error = outputs["prediction"].float() - batch["y"] - self.shift
        loss = error.square().sum() / batch["total"] * float(self.options.get("scale", 1))
        poisoned = self.options.get("nan_from")  # the example whose loss is not a number
        if poisoned is not None and bool((batch["y"] == self.y[int(poisoned)]).any()):
            loss = loss * float("nan")
        return loss, {"squared_error": loss.detach(), "examples": torch.tensor(float(batch["y"].shape[0]))}

    def export(self, folder: Path) -> None:
        weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def _inputs(self, examples: list[int]) -> Tensor:
        """On the device and in the dtype of the model, which is bf16 once DeepSpeed has it so."""
        first = next(self.model.parameters())
        return self.x[examples].to(first.device, first.dtype)


def toy(settings: Settings, checkout: Checkout) -> ToyTask:
    task = ToyTask(settings, checkout.root)
    if "commit_seconds" in task.options:
        slow_commits(float(task.options["commit_seconds"]))
    return task


def train(rank: TrainingRank) -> None:
    loop.train(toy, rank)


def slow_commits(seconds: float) -> None:
    """Have this process wait between a checkpoint's files and its mark: a toy's checkpoint is written faster than a test can kill."""
    commit = checkpoints.commit

    def slow(*arguments: Any) -> None:
        time.sleep(seconds)
        commit(*arguments)

    checkpoints.commit = slow


class HookedTask(ToyTask):
    """Computes every step's loss ahead of the step, carries it in the checkpoints, and stops where the options say."""

    def begin_step(
        self,
        step: int,  # noqa: ARG002
        prepared: Iterator[dict[str, Any]],
        forward: Callable[[dict[str, Any]], Any],
        context: EpochContext,
    ) -> None:
        mine = sum(float(self.loss(forward(batch), batch)[0]) for batch in prepared)
        context.extra["losses_ahead"] = [*context.extra.get("losses_ahead", []), sum(context.gather(mine))]

    def check_metrics(self, step: int, sums: dict[str, float]) -> None:
        assert sums["examples"] == EXAMPLES // STEPS
        if step == self.options["stop_at"]:
            raise StageFault(f"stopped by its task at step {step}")


def train_hooked(rank: TrainingRank) -> None:
    loop.train(lambda settings, checkout: HookedTask(settings, checkout.root), rank)
