"""transformers' Trainer around a TrainingTask: the loop, optimiser, checkpoints and resume are its own, batches and loss the task's.

- One item of the trainer's data is the number of an optimiser step. `training_step` loops over that step's micro-batches itself, so steps
  may differ in length, and nothing that the Trainer does to a batch (casting floats, dropping columns, sharding) touches the real one.
- The loss is computed inside the module that the engines wrap (`LossModule`).
- Both engines average gradients over ranks; the loss is multiplied by the number of ranks, so that the optimiser sees the gradient of the
  sum over ranks and micro-batches.
- The step's global loss and metrics are added up in one all-reduce before the optimiser steps, so every rank stops on the same NaN.
- bf16: DeepSpeed holds the model in bf16 and fp32 master weights beside it; under DDP the weights are fp32 and the forward pass autocasts.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from components.engine import checkpoints, health, partitions
from components.engine.checkpoints import PREFIX, Checkpoint
from components.engine.curves import CURVES, CurveFile
from components.engine.groups import parameter_groups
from components.engine.loss_module import LossModule, give_vision_gradients, occupancy
from components.engine.schedule import Schedule, seed_everything
from components.engine.task import EpochContext, Step, TrainingTask, check_plan, overrides
from components.engine.throughput import Meter, training_meter

if TYPE_CHECKING:
    from components.config.training import PartRates

WEIGHTS = "model.safetensors"
STEP_SEED, EPOCH_SEED = 1, 2  # kinds of random state


class TaskTrainer(Trainer):  # type: ignore[misc]  # transformers carries no complete types
    """Trains `task.model` on the steps of `schedule`; checkpoints and curves go to the arguments' output folder."""

    def __init__(
        self,
        task: TrainingTask,
        args: TrainingArguments,
        schedule: Schedule,
        keep_checkpoints: int,
        resumed: Checkpoint | None,
        parts: PartRates,
    ) -> None:
        super().__init__(model=LossModule(task), args=args, train_dataset=range(schedule.total), callbacks=[_AfterStep(self)])
        self.lr_scheduler: Any
        self.optimizer: Any
        if self.is_deepspeed_enabled and distributed.get_world_size() > 1:
            give_vision_gradients(task.model)
        self.task = task
        self.schedule = schedule
        self.keep_checkpoints = keep_checkpoints
        self.resumed = resumed
        self.rank = distributed.get_rank()
        self.world = distributed.get_world_size()
        self.scratch = Path(args.output_dir)
        self.parts = parts
        self.context = EpochContext(self.rank, self.world, self.scratch, dict(resumed.extra) if resumed else {}, self._whole_weights)
        self.moving = health.MovingWeights(task.model)
        self.meter: Meter = training_meter(task.model)
        self.curves = CurveFile(self.scratch / CURVES, resumed.step if resumed else 0) if self.rank == 0 else None
        self._epoch = -1
        self._steps: list[Step] = []
        self._metric_names: list[str] | None = None
        self._record: dict[str, float | int | None] = {}
        self._began = self._step_began = 0.0
        self._occupied = [0, 0]

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
        self._step_began = time.perf_counter()
        seed_everything(self.args.seed, STEP_SEED, step, self.rank)
        micros = self._steps[position].micros[self.rank]
        if overrides(self.task, "begin_step"):
            self._begin_step(model, step, micros)
        model.train()
        losses: list[Tensor] = []
        parts: list[dict[str, Tensor]] = []
        occupied: list[Tensor] = []
        for index, micro in enumerate(micros):
            last = index == len(micros) - 1
            with self._accumulating(model, last), self.compute_loss_context_manager():
                batch = self._prepare_inputs({"micro": micro})
                loss, metrics = model(batch)
                health.check_reaches_weights(step, epoch, loss)
                self._backward(model, loss * self.world)
            losses.append(loss.detach())
            parts.append(metrics)
            occupied.append(occupancy(batch).to(loss.device))
        total, sums, (tokens, slots) = self._add_up(losses, parts, torch.stack(occupied).sum(0))
        health.check_loss(step, epoch, total, sums, losses)
        if overrides(self.task, "check_metrics"):
            self.task.check_metrics(step, sums)
        self._record = {
            "step": step + 1,
            "epoch": epoch + 1,
            "loss": total,
            "learning_rate": self.args.learning_rate * self.schedule.factor(step),
            "tokens": tokens,
            "slots": slots,
            **sums,
        }
        if self.is_deepspeed_enabled:
            model.step()  # type: ignore[operator]  # for plain DDP the Trainer's own loop steps
        return torch.tensor(total, device=self.args.device)

    def _begin_step(self, model: nn.Module, step: int, micros: list[Any]) -> None:
        @torch.no_grad()
        def forward(batch: dict[str, Any]) -> Any:
            with self.compute_loss_context_manager():
                return model(batch, outputs_alone=True)

        model.eval()
        prepared = (self._prepare_inputs({"micro": micro}) for micro in micros)
        self.task.begin_step(step, prepared, forward, self.context)
        # The pass was extra: what the step draws must not depend on it.
        seed_everything(self.args.seed, STEP_SEED, step, self.rank)

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

    def _add_up(self, losses: list[Tensor], parts: list[dict[str, Tensor]], occupied: Tensor) -> tuple[float, dict[str, float], list[int]]:
        """The sums over micro-batches and ranks of the loss, of each metric (in float64) and of this rank's tokens and slots."""
        if self._metric_names is None:
            self._agree_on_metrics(sorted(parts[0]))
        names = self._metric_names
        assert names is not None
        if any(sorted(part) != names for part in parts):
            raise ValueError(f"every micro-batch must report the metrics {names}, not {[sorted(part) for part in parts]}")
        columns = [losses, *([part[name] for part in parts] for name in names)]
        sums = torch.stack([torch.stack([value.detach().double().reshape(()) for value in column]).sum() for column in columns])
        sums = torch.cat([sums, occupied.double()])
        self._occupied = [int(count) for count in occupied.tolist()]
        distributed.all_reduce(sums)
        total, *rest, tokens, slots = sums.tolist()
        return total, dict(zip(names, rest, strict=True)), [int(tokens), int(slots)]

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
        tokens, slots = self._occupied
        self.meter.add(tokens, slots, time.perf_counter() - self._step_began)
        if self.curves is not None:
            self.curves.append({**self._record, "seconds": round(time.perf_counter() - self._began, 6)})

    # Epochs.

    def _whole_weights(self) -> contextlib.AbstractContextManager[None]:
        if not self.is_deepspeed_enabled:
            return contextlib.nullcontext()
        return partitions.whole_in_engine(self.model_wrapped, self.args.hf_deepspeed_config)

    def _begin_epoch(self, epoch: int) -> None:
        seed_everything(self.args.seed, EPOCH_SEED, epoch, self.rank)
        self.task.begin_epoch(epoch, self.context)
        steps = self.task.epoch_plan(epoch)
        check_plan(steps, self.world, self.schedule.steps_per_epoch)
        self._epoch, self._steps = epoch, steps
        self.context.barrier()

    # Optimiser and learning rate.

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """AdamW over groups by part; with all parts at rate 1 these are the Trainer's own."""
        if self.optimizer is None:
            trained = model or self.model
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            decayed = set(self.get_decay_parameter_names(trained))
            groups = parameter_groups(
                trained, self.parts, decayed=decayed, learning_rate=self.args.learning_rate, weight_decay=self.args.weight_decay
            )
            self.optimizer = kind(groups, **options)
        return self.optimizer

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


def _step_number(numbers: list[int]) -> dict[str, int]:
    return {"step": numbers[0]}
