"""The training loop of one rank: plan, micro-batches, forward, backward, reduce, clip, step, curve, checkpoint; epochs, and resume.

- A step is all micro-batches that the task's plan gives this rank; steps may differ in length. The task makes batches and loss, the backend
  (DDP or DeepSpeed) holds weights and optimizer.
- The optimizer steps on the gradient of the sum over ranks and micro-batches of what the task's loss returns.
- A step's loss and metrics are added up over ranks in one all-reduce ahead of the optimizer's step, so all ranks stop on the same NaN.
- Every step and every epoch's preparation starts from random state that follows from (seed, step, rank). So a checkpoint needs none, and a
  resumed run draws what an undisturbed one would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from components.config.optimization import optimization_of
from components.engine import checkpoints, health, progress
from components.engine.backends import Backend, set_up_backend
from components.engine.checkpointer import Checkpointer
from components.engine.checkpoints import Checkpoint
from components.engine.curves import CURVES, PLAN, CurveFile
from components.engine.groups import decayed_names, parameter_groups
from components.engine.loss_module import LossModule, give_vision_gradients, occupancy, trees_of
from components.engine.operations import operations_of
from components.engine.outcome import announce, finish, log_line
from components.engine.schedule import Schedule, seed_everything
from components.engine.task import EpochContext, Step, TrainingRank, TrainingTask, check_plan, overrides
from components.engine.throughput import Meter, peak_memory_gb
from components.files import write_json
from components.processes import heartbeat

if TYPE_CHECKING:
    from components.checkout import Checkout
    from components.config.optimization import OptimizationSettings
    from components.config.settings import Settings
    from components.config.training import TrainingSettings

STEP_SEED, EPOCH_SEED = 1, 2  # kinds of random state
Record = dict[str, float | int | None]


@dataclass(frozen=True)
class Trial:
    """What trial steps took on this rank: tokens of its micro-batches."""

    seconds: list[float]
    tokens: list[int]
    peak_memory_gb: float


def train(make_task: Callable[[Settings, Checkout], TrainingTask], rank: TrainingRank) -> None:
    """A training as one rank sees it: join the others, go on from the newest checkpoint, take the steps that are left, export the model."""
    settings = rank.settings
    backend = set_up_backend(settings.training, rank.checkout)
    resumed = checkpoints.resume(rank.scratch, backend.context, log_line)
    seed_everything(settings.training.seed, 0)
    task = make_task(settings, rank.checkout)
    loop = Loop(task, backend, settings.training, optimization_of(settings, rank.stage), rank.scratch, resumed)
    announce(loop, rank)
    began = time.perf_counter()
    loop.run()
    finish(loop, rank, startup_seconds=began - rank.began, seconds=time.perf_counter() - began)


class Loop:
    """Trains a task's model on its steps. Curves and checkpoints go to `scratch`; `resumed` is a checkpoint there to go on from."""

    def __init__(
        self,
        task: TrainingTask,
        backend: Backend,
        training: TrainingSettings,
        optimisation: OptimizationSettings,
        scratch: Path,
        resumed: Checkpoint | None = None,
    ) -> None:
        self.task, self.backend, self.training, self.optimisation, self.scratch = task, backend, training, optimisation, scratch
        self.rank, self.world = backend.context.rank, backend.context.world
        self.first_step = resumed.step if resumed else 0
        self.context = EpochContext(self.rank, self.world, scratch, dict(resumed.extra) if resumed else {}, backend.whole_weights)
        steps = task.epoch_plan(0)
        check_plan(steps, self.world, len(steps))
        self.schedule = Schedule.plan(len(steps), task.epochs, optimisation.max_steps, optimisation.warmup_share)
        self.meter, self.operations = Meter(), operations_of(task.model)
        self.moving = health.MovingWeights(task.model)
        self.checkpointer = Checkpointer(training, self.context, backend)
        if training.engine == "deepspeed" and self.world > 1:
            give_vision_gradients(task.model)
        module = LossModule(task, backend.autocast)
        groups = parameter_groups(
            module,
            training.parts,
            decayed=decayed_names(module),
            learning_rate=optimisation.learning_rate,
            weight_decay=training.weight_decay,
        )
        backend.prepare(module, groups)
        progress.follow(task.model, backend.wrapped)
        if resumed:
            backend.load(resumed.folder)
        self._metric_names: list[str] | None = None
        self._trial = False

    def run(self) -> None:
        """Train all steps that are left, write their curves and checkpoints, and check that the weights have moved.

        Raises TrainingFault, or what the task raises, ahead of the next checkpoint.
        """
        assert not self._trial, "trial steps have changed the weights: train in another process"
        curves = CurveFile(self.scratch / CURVES, self.first_step) if self.rank == 0 else None
        if self.rank == 0:
            write_json(self.scratch / PLAN, {"steps": self.schedule.total, "resumed_from": self.first_step})
        self.moving.begin()
        present, steps = -1, []
        for step in range(self.first_step, self.schedule.total):
            began = time.perf_counter()
            epoch, position = self.schedule.locate(step)
            if epoch != present:
                present, steps = epoch, self._begin_epoch(epoch)
            record, signals = self._step(step, steps[position])
            self.moving.after_step()
            if curves:
                curves.append({**record, "seconds": round(time.perf_counter() - began, 6)})
            self.checkpointer.after_step(step + 1, signals, curves, last=step + 1 == self.schedule.total)
        self.moving.check()

    def trial(self, steps: Iterable[Step]) -> Trial:
        """Take `steps` as the run's first ones, and leave no curve, no checkpoint and no file; no epoch is prepared.

        The weights move, so this process can't `run` afterwards: throw it away.
        """
        self._trial = True
        seconds, tokens = [], []
        for number, step in enumerate(steps):
            began, before = time.perf_counter(), self.meter.tokens
            self._step(number, step)
            seconds.append(time.perf_counter() - began)
            tokens.append(self.meter.tokens - before)
        return Trial(seconds, tokens, peak_memory_gb())

    def _begin_epoch(self, epoch: int) -> list[Step]:
        """The epoch's steps, once the task has prepared it on all ranks."""
        seed_everything(self.training.seed, EPOCH_SEED, epoch, self.rank)
        heartbeat.enter(f"the preparation of epoch {epoch + 1}")
        self.task.begin_epoch(epoch, self.context)
        steps = self.task.epoch_plan(epoch)
        check_plan(steps, self.world, self.schedule.steps_per_epoch)
        self.context.barrier()
        return steps

    def _step(self, step: int, plan: Step) -> tuple[Record, list[float]]:
        """One optimizer step: forward and backward over this rank's micro-batches, then reduce, clip and step.

        Returns its curve's line, and the checkpointer's signals added up over ranks.
        """
        began = time.perf_counter()
        epoch, _ = self.schedule.locate(step)
        seed_everything(self.training.seed, STEP_SEED, step, self.rank)
        micros = plan.micros[self.rank]
        if overrides(self.task, "begin_step"):
            self._look_ahead(step, micros)
        self.backend.wrapped.train()
        losses: list[Tensor] = []
        parts: list[dict[str, Tensor]] = []
        occupied: list[Tensor] = []
        targets = pairs = 0
        for index, micro in enumerate(micros):
            with self.backend.accumulating(last=index == len(micros) - 1):
                heartbeat.enter(f"forward of micro-batch {index + 1}", step + 1)
                batch = self.task.batch(micro)
                loss, metrics = self.backend.wrapped(batch)
                health.check_reaches_weights(step, epoch, loss)
                heartbeat.enter(f"backward of micro-batch {index + 1}", step + 1)
                self.backend.backward(loss * self.world)  # which averages over ranks
            losses.append(loss.detach())
            parts.append(metrics)
            occupied.append(occupancy(batch).to(loss.device))
            for trees in trees_of(batch):
                targets, pairs = targets + len(trees.target_T), pairs + trees.attended
        heartbeat.enter("the sum over ranks", step + 1)
        own_tokens, own_slots = torch.stack(occupied).sum(0).tolist()
        counts = [own_tokens, own_slots, *self.checkpointer.signals(step + 1)]
        total, sums, (tokens, slots, *signals) = self._reduce(losses, parts, counts)
        health.check_loss(step, epoch, total, sums, losses)
        if overrides(self.task, "check_metrics"):
            self.task.check_metrics(step, sums)
        factor = self.schedule.factor(step)
        heartbeat.enter("the optimizer", step + 1)
        norm = self.backend.step(factor)
        health.check_gradient(step, epoch, norm)
        self.meter.add(own_tokens, own_slots, time.perf_counter() - began, self.operations.training(own_tokens, targets, pairs))
        record: Record = {
            "step": step + 1,
            "epoch": epoch + 1,
            "loss": total,
            "learning_rate": self.optimisation.learning_rate * factor,
            "tokens": int(tokens),
            "slots": int(slots),
            **sums,
            "grad_norm": norm,
        }
        return record, signals

    def _look_ahead(self, step: int, micros: list[Any]) -> None:
        """Let the task see the step's micro-batches with the weights as they are before it."""

        @torch.no_grad()
        def forward(batch: dict[str, Any]) -> Any:
            return self.backend.wrapped(batch, outputs_alone=True)

        self.backend.wrapped.eval()
        heartbeat.enter("the look ahead", step + 1)
        self.task.begin_step(step, map(self.task.batch, micros), forward, self.context)
        # The pass was extra: what the step draws must not depend on it.
        seed_everything(self.training.seed, STEP_SEED, step, self.rank)

    def _reduce(
        self, losses: list[Tensor], parts: list[dict[str, Tensor]], counts: list[float]
    ) -> tuple[float, dict[str, float], list[float]]:
        """Sums over micro-batches and ranks of the loss and of each metric, in float64, and over ranks of `counts`."""
        if self._metric_names is None:
            gathered = self.context.gather(sorted(parts[0]))
            if any(names != gathered[0] for names in gathered):
                raise ValueError(f"ranks report different metrics: {gathered}")
            self._metric_names = gathered[0]
        names = self._metric_names
        if any(sorted(part) != names for part in parts):
            raise ValueError(f"every micro-batch must report the metrics {names}, not {[sorted(part) for part in parts]}")
        columns = [losses, *([part[name] for part in parts] for name in names)]
        sums = torch.stack([torch.stack([value.detach().double().reshape(()) for value in column]).sum() for column in columns])
        sums = torch.cat([sums, sums.new_tensor(counts)])
        distributed.all_reduce(sums)
        total, *rest = sums.tolist()
        return total, dict(zip(names, rest[: len(names)], strict=True)), rest[len(names) :]
