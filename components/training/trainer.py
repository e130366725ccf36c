"""transformers' Trainer around a TrainingTask: the loop, optimiser, checkpoints and resume are its own, batches and loss the task's.

- One item of the trainer's data is the number of an optimiser step. `training_step` loops over that step's micro-batches itself, so steps
  may differ in length, and nothing that the Trainer does to a batch (casting floats, dropping columns, sharding) touches the real one.
- The loss is computed inside the module that the engines wrap (`LossModule`): DeepSpeed finds no gradient in an output that is no tensor,
  tuple or dict, and DDP waits for ever for parameters that feed an output that the loss does not use.
- Both engines average gradients over ranks; the loss is multiplied by the number of ranks, so that the optimiser sees the gradient of the
  sum over ranks and micro-batches.
- The step's global loss and metrics are added up in one all-reduce before the optimiser steps, so every rank stops on the same NaN.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from components.training import checkpoints, health
from components.training.checkpoints import PREFIX, Checkpoint
from components.training.curves import CURVES, CurveFile
from components.training.schedule import Schedule, seed_everything
from components.training.task import EpochContext, Step, TrainingTask

WEIGHTS = "model.safetensors"
STEP_SEED, EPOCH_SEED = 1, 2  # kinds of random state


class LossModule(nn.Module):
    """A task's model and loss in one forward. The Trainer finds no model configuration in it, so it changes none that is exported."""

    def __init__(self, task: TrainingTask) -> None:
        super().__init__()
        self.model = task.model
        self._task = task

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, metrics) of a micro-batch; metrics carry no gradient."""
        loss, metrics = self._task.loss(self.model(**batch), batch)
        return loss, {name: value.detach() for name, value in metrics.items()}


class TaskTrainer(Trainer):  # type: ignore[misc]  # transformers carries no complete types
    """Trains `task.model` on the steps of `schedule`; checkpoints and curves go to the arguments' output folder."""

    def __init__(
        self, task: TrainingTask, args: TrainingArguments, schedule: Schedule, keep_checkpoints: int, resumed: Checkpoint | None
    ) -> None:
        super().__init__(model=LossModule(task), args=args, train_dataset=range(schedule.total), callbacks=[_AfterStep(self)])
        self.lr_scheduler: Any
        self.task = task
        self.schedule = schedule
        self.keep_checkpoints = keep_checkpoints
        self.resumed = resumed
        self.rank = distributed.get_rank()
        self.world = distributed.get_world_size()
        self.scratch = Path(args.output_dir)
        self.context = EpochContext(self.rank, self.world, self.scratch, dict(resumed.extra) if resumed else {})
        self.moving = health.MovingWeights(task.model)
        self.curves = CurveFile(self.scratch / CURVES, resumed.step if resumed else 0) if self.rank == 0 else None
        self._epoch = -1
        self._steps: list[Step] = []
        self._metric_names: list[str] | None = None
        self._record: dict[str, float | int | None] = {}
        self._began = 0.0

    # Data: numbers of steps, in order, the same on every rank.

    def get_train_dataloader(self) -> DataLoader[int]:
        """The numbers of all steps, one at a time."""
        return DataLoader(range(self.schedule.total), batch_size=1, shuffle=False, collate_fn=_step_number)  # type: ignore[arg-type]

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        """Nothing is counted: `inputs` is the number of a step."""
        return 0

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # The Trainer's own casts every float, log-probabilities too, to the model's dtype.
        return self.task.batch(inputs["micro"])

    # The step.

    def training_step(self, model: nn.Module, inputs: dict[str, int], num_items_in_batch: Any = None) -> Tensor:  # noqa: ARG002
        """All micro-batches of one optimiser step, forward and backward. Returns the global loss, a sum over ranks and micro-batches."""
        self._began = time.perf_counter()
        step = inputs["step"]
        epoch, position = self.schedule.locate(step)
        if epoch != self._epoch:
            self._begin_epoch(epoch)
        seed_everything(self.args.seed, STEP_SEED, step, self.rank)
        model.train()
        micros = self._steps[position].micros[self.rank]
        losses: list[Tensor] = []
        parts: list[dict[str, Tensor]] = []
        for index, micro in enumerate(micros):
            last = index == len(micros) - 1
            with self._accumulating(model, last), self.compute_loss_context_manager():
                loss, metrics = model(self._prepare_inputs({"micro": micro}))
                health.check_reaches_weights(step, epoch, loss)
                self._backward(model, loss * self.world)
            losses.append(loss.detach())
            parts.append(metrics)
        total, sums = self._add_up(losses, parts)
        health.check_loss(step, epoch, total, sums, losses)
        self._record = {
            "step": step + 1,
            "epoch": epoch + 1,
            "loss": total,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            **sums,
        }
        if self.is_deepspeed_enabled:
            model.step()  # type: ignore[operator]  # for plain DDP the Trainer's own loop steps
        return torch.tensor(total, device=self.args.device)

    @contextlib.contextmanager
    def _accumulating(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Gradients are exchanged and the optimiser made ready in the last micro-batch only (ZeRO-2 exchanges in each, and adds up)."""
        if self.is_deepspeed_enabled:
            model.set_gradient_accumulation_boundary(last)  # type: ignore[operator]
            yield
        elif isinstance(model, DistributedDataParallel) and not last:
            with model.no_sync():
                yield
        else:
            yield

    def _backward(self, model: nn.Module, loss: Tensor) -> None:
        if self.is_deepspeed_enabled:
            model.backward(loss, scale_wrt_gas=False)  # type: ignore[operator]
        else:
            loss.backward()  # type: ignore[no-untyped-call]

    def _add_up(self, losses: list[Tensor], parts: list[dict[str, Tensor]]) -> tuple[float, dict[str, float]]:
        """The sums over micro-batches and ranks of the loss and of each metric, in float64."""
        if self._metric_names is None:
            self._agree_on_metrics(sorted(parts[0]))
        names = self._metric_names
        assert names is not None
        if any(sorted(part) != names for part in parts):
            raise ValueError(f"every micro-batch must report the metrics {names}, not {[sorted(part) for part in parts]}")
        columns = [losses, *([part[name] for part in parts] for name in names)]
        sums = torch.stack([torch.stack([value.detach().double().reshape(()) for value in column]).sum() for column in columns])
        distributed.all_reduce(sums)
        total, *rest = sums.tolist()
        return total, dict(zip(names, rest, strict=True))

    def _agree_on_metrics(self, names: list[str]) -> None:
        found = self.context.gather(names)
        if any(other != names for other in found):
            raise ValueError(f"ranks report different metrics: {found}")
        self._metric_names = names

    def _clip_grad_norm(self, model: nn.Module) -> float:
        norm = float(super()._clip_grad_norm(model))
        step = int(self._record["step"] or 0) - 1
        health.check_gradient(step, self.schedule.locate(step)[0], norm)
        self._record["grad_norm"] = norm
        return norm

    def after_step(self) -> None:
        """Write the step to the curves; called once the optimiser has stepped, ahead of a checkpoint."""
        self.moving.after_step()
        if self.curves is not None:
            self.curves.append({**self._record, "seconds": round(time.perf_counter() - self._began, 6)})

    # Epochs.

    def _begin_epoch(self, epoch: int) -> None:
        seed_everything(self.args.seed, EPOCH_SEED, epoch, self.rank)
        self.task.begin_epoch(epoch, self.context)
        steps = self.task.epoch_plan(epoch)
        check_plan(steps, self.world, self.schedule.steps_per_epoch)
        self._epoch, self._steps = epoch, steps
        self.context.barrier()

    # Optimiser and learning rate.

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The schedule as torch's LambdaLR; the Trainer steps and saves it."""
        if self.lr_scheduler is None:
            assert num_training_steps == self.schedule.total
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self.schedule.factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Checkpoints.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The weights' part of a checkpoint. DeepSpeed's engine writes its own; the finished model is written by the task's export."""
        assert output_dir is not None
        if not self.is_deepspeed_enabled and self.rank == 0:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_model(self.model, str(Path(output_dir) / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        safetensors.torch.load_model(model or self.model, str(Path(resume_from_checkpoint) / WEIGHTS))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = self.scratch / f"{PREFIX}{self.state.global_step}"
        if self.rank == 0 and folder.exists():
            shutil.rmtree(folder)
        self.context.barrier()
        super()._save_checkpoint(model, trial)
        self.context.barrier()
        if self.rank == 0:
            assert self.curves is not None
            self.curves.sync()
            checkpoints.commit(folder, self.state.global_step, self.world, self.context.extra)
            checkpoints.rotate(self.scratch, self.keep_checkpoints)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Nothing: the curves file is the log."""

    def run(self) -> None:
        """Train all steps that are left, from `resumed` where there is one, and check that the result is sound."""
        self.train(resume_from_checkpoint=str(self.resumed.folder) if self.resumed else None)
        self.moving.check()


class _AfterStep(TrainerCallback):  # type: ignore[misc]
    """Calls the trainer back at the two places that only callbacks reach."""

    def __init__(self, trainer: TaskTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.trainer.moving.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.trainer.after_step()


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


def _step_number(numbers: list[int]) -> dict[str, int]:
    return {"step": numbers[0]}
