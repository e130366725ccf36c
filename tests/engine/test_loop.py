"""The loop on one rank, in this process: against a loop by hand, stopped and resumed, and asked for trial steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.engine import checkpoints
from components.engine import loop as loop_module
from components.engine.curves import CURVES, PLAN
from components.engine.loop import Loop
from components.engine.ranks import RankContext
from components.engine.task import EpochContext, Step
from components.errors import TrainingFault
from tests.engine.single import settings_of, single_rank, toy_loop
from tests.engine.test_engine import BOUND, by_hand, largest_difference
from tests.engine.toy import EXAMPLES, STEPS, HookedTask, ToyTask


def weights_of(task: ToyTask) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in task.model.state_dict().items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def lines(scratch: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (scratch / CURVES).read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def trained(root: Path, **options: Any) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    with single_rank() as backend:
        loop, task = toy_loop(root, backend, **options)
        loop.run()
        return weights_of(task), lines(root / "scratch")


class StoppedTask(ToyTask):
    """Fails in step 10, as a kill would have it."""

    def check_metrics(self, step: int, sums: dict[str, float]) -> None:  # noqa: ARG002
        if step == 10:
            raise KeyboardInterrupt


class WatchedTask(ToyTask):
    """Notes which epochs were prepared."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.epochs_begun: list[int] = []

    def begin_epoch(self, epoch: int, context: EpochContext) -> None:
        self.epochs_begun.append(epoch)
        super().begin_epoch(epoch, context)


class RandomTask(ToyTask):
    """Adds noise of torch's random state to its targets."""

    def batch(self, micro: list[int]) -> dict[str, Any]:
        batch = super().batch(micro)
        return {**batch, "y": batch["y"] + 0.1 * torch.randn(batch["y"].shape)}


class PeekingTask(RandomTask):
    """Draws noise ahead of every step, which the step must not notice."""

    def begin_step(self, step: int, prepared: Any, forward: Callable[[dict[str, Any]], Any], context: EpochContext) -> None:  # noqa: ARG002
        assert not self.model.training
        for batch in prepared:
            assert not forward(batch)["prediction"].requires_grad


class UnevenMetricsTask(ToyTask):
    """Reports a metric in its first micro-batch that the second lacks."""

    reported = 0

    def loss(self, outputs: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(outputs, batch)
        self.reported += 1
        return loss, metrics | ({"first": loss.detach()} if self.reported == 1 else {})


def test_loop_takes_the_steps_of_a_plain_loop(tmp_path: Path) -> None:
    weights, records = trained(tmp_path)
    assert largest_difference(weights, by_hand(tmp_path, settings_of())) < BOUND
    assert [record["step"] for record in records] == list(range(1, 19))
    assert [record["epoch"] for record in records] == [1] * 6 + [2] * 6 + [3] * 6
    assert {record["examples"] for record in records} == {float(EXAMPLES // STEPS)}


def test_curves_hold_the_rate_that_the_optimizer_used(tmp_path: Path) -> None:
    seen: list[float] = []
    with single_rank() as backend:
        loop, _ = toy_loop(tmp_path, backend)
        step = backend.optimizer.step
        backend.optimizer.step = lambda: (seen.append(backend.optimizer.param_groups[0]["lr"]), step())
        loop.run()
    assert seen == [record["learning_rate"] for record in lines(tmp_path / "scratch")]
    assert seen[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert seen[10] == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * 7 / 15)))


def test_run_leaves_its_plan_and_the_newest_checkpoints(tmp_path: Path) -> None:
    trained(tmp_path)
    scratch = tmp_path / "scratch"
    assert json.loads((scratch / PLAN).read_text()) == {"steps": 18, "resumed_from": 0}
    # Every fourth step, and the last one; two are retained.
    assert sorted(path.name for path in scratch.glob("checkpoint-*")) == ["checkpoint-16", "checkpoint-18"]
    checkpoint = checkpoints.newest(scratch, RankContext(), pytest.fail)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.world, checkpoint.extra) == (18, 1, {"shift": "shift-2.json"})


def test_stopped_run_resumes_with_the_same_bits(tmp_path: Path) -> None:
    weights, records = trained(tmp_path / "whole", kind=RandomTask)
    root = tmp_path / "stopped"

    class StoppedRandomTask(StoppedTask, RandomTask):
        pass

    with single_rank() as backend, pytest.raises(KeyboardInterrupt):
        toy_loop(root, backend, kind=StoppedRandomTask)[0].run()
    assert len(lines(root / "scratch")) == 10
    torch.rand(7)  # a new process has another random state
    resumed = checkpoints.newest(root / "scratch", RankContext(), pytest.fail)
    assert resumed is not None
    with single_rank() as backend:
        loop, task = toy_loop(root, backend, kind=RandomTask, resumed=resumed)
        assert loop.first_step == 8
        loop.run()
        assert same_bits(weights_of(task), weights)
    assert lines(root / "scratch") == records


def test_resumed_run_begins_with_the_extra_of_its_checkpoint(tmp_path: Path) -> None:
    with single_rank() as backend, pytest.raises(KeyboardInterrupt):
        toy_loop(tmp_path, backend, kind=StoppedTask)[0].run()
    resumed = checkpoints.newest(tmp_path / "scratch", RankContext(), pytest.fail)
    with single_rank() as backend:
        loop, _ = toy_loop(tmp_path, backend, resumed=resumed)
        assert loop.context.extra == {"shift": "shift-1.json"}


def test_looking_ahead_changes_no_draw_of_the_step(tmp_path: Path) -> None:
    weights, records = trained(tmp_path / "plain", kind=RandomTask)
    peeked, peeked_records = trained(tmp_path / "peeking", kind=PeekingTask)
    assert same_bits(weights, peeked)
    assert records == peeked_records


def test_losses_ahead_of_a_step_are_the_steps_own(tmp_path: Path) -> None:
    with single_rank() as backend:
        loop, _ = toy_loop(tmp_path, backend, kind=HookedTask)
        loop.run()
        losses = [record["loss"] for record in lines(tmp_path / "scratch")]
        assert loop.context.extra["losses_ahead"] == pytest.approx(losses, rel=1e-6)


def test_trial_leaves_no_curve_checkpoint_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "occupancy", lambda batch: torch.tensor([len(batch["y"]), 2 * len(batch["y"])]))
    with single_rank() as backend:
        loop, task = toy_loop(tmp_path, backend, kind=WatchedTask)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        steps = task.epoch_plan(0)[:2]
        trial = loop.trial(steps)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert isinstance(task, WatchedTask)
        assert task.epochs_begun == []
        assert loop.context.extra == {}
    assert trial.tokens == [EXAMPLES // STEPS] * 2
    assert len(trial.seconds) == 2
    assert all(seconds > 0 for seconds in trial.seconds)
    assert trial.peak_memory_gb > 0.01


def test_trial_takes_the_first_steps_of_the_run(tmp_path: Path) -> None:
    settings = settings_of()
    with single_rank() as backend:
        loop, task = toy_loop(tmp_path, backend)
        loop.trial(task.epoch_plan(0)[:2])
        weights = weights_of(task)
    reference = ToyTask(settings, tmp_path)
    optimizer = torch.optim.AdamW(reference.model.parameters(), lr=0.01, weight_decay=0.0)
    for number, step in enumerate(reference.epoch_plan(0)[:2]):
        optimizer.param_groups[0]["lr"] = 0.01 * (number + 1) / 4
        optimizer.zero_grad()
        for micro in step.micros[0]:
            batch = reference.batch(micro)
            reference.loss(reference.model(**batch), batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(reference.model.parameters(), 1.5)
        optimizer.step()
    biases = {name: value for name, value in reference.model.state_dict().items() if "bias" in name}  # these never decay
    assert largest_difference({name: weights[name] for name in biases}, biases) < BOUND


def test_process_of_a_trial_cannot_train(tmp_path: Path) -> None:
    with single_rank() as backend:
        loop, task = toy_loop(tmp_path, backend)
        loop.trial(task.epoch_plan(0)[:1])
        with pytest.raises(AssertionError, match="train in another process"):
            loop.run()


def test_nan_stops_the_run_ahead_of_the_optimizers_step(tmp_path: Path) -> None:
    with single_rank() as backend:
        loop, task = toy_loop(tmp_path, backend, nan_from=int(torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(0))[0]))
        before = weights_of(task)
        with pytest.raises(TrainingFault, match=r"the loss is nan at step 1 \(epoch 1\), from rank 0 micro-batch 0"):
            loop.run()
        assert same_bits(weights_of(task), before)
    assert lines(tmp_path / "scratch") == []
    assert not list((tmp_path / "scratch").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"frozen": True}, "does not depend on any trained weight"), ({"scale": 0}, "the gradient is exactly zero at step 1")],
    ids=["frozen", "zero"],
)
def test_loss_that_moves_no_weight_stops_the_run(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with single_rank() as backend:
        loop, _ = toy_loop(tmp_path, backend, **options)
        with pytest.raises(TrainingFault, match=message):
            loop.run()
    assert not list((tmp_path / "scratch").glob("checkpoint-*"))


def test_metrics_that_differ_between_micro_batches_are_refused(tmp_path: Path) -> None:
    with single_rank() as backend:
        loop, _ = toy_loop(tmp_path, backend, kind=UnevenMetricsTask)
        with pytest.raises(ValueError, match="every micro-batch must report the metrics"):
            loop.run()


def test_sums_over_micro_batches_are_exact_in_float64(tmp_path: Path) -> None:
    with single_rank() as backend:
        loop, _ = toy_loop(tmp_path, backend)
        losses = [torch.tensor(value) for value in (16777216.0, 1.0, 1.0)]  # in fp32 the ones would be lost
        parts = [{"b": torch.tensor(float(n)), "a": torch.tensor(10.0 * n)} for n in (1, 2, 3)]
        total, sums, counts = loop._reduce(losses, parts, [5, 8])
    assert total == 16777218.0
    assert sums == {"a": 60.0, "b": 6.0}
    assert counts == [5, 8]


def test_epoch_with_other_steps_than_the_first_is_refused(tmp_path: Path) -> None:
    class ShrinkingTask(ToyTask):
        def epoch_plan(self, epoch: int) -> list[Step]:
            return super().epoch_plan(epoch)[: STEPS - epoch]

    with single_rank() as backend:
        loop, _ = toy_loop(tmp_path, backend, kind=ShrinkingTask)
        with pytest.raises(ValueError, match="an epoch has 5 steps, and the first had 6"):
            loop.run()
    assert len(lines(tmp_path / "scratch")) == STEPS


def test_cap_of_steps_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    settings = settings_of()
    capped = settings.alignment.model_copy(update={"max_steps": 2})
    with single_rank() as backend:
        _, task = toy_loop(tmp_path / "other", backend)
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        Loop(task, backend, settings.training, capped, scratch).run()
    assert [path.name for path in scratch.glob("checkpoint-*")] == ["checkpoint-2"]
    assert len(lines(scratch)) == 2
