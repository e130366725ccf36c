"""The engine's arithmetic: what the optimiser steps on, whatever the engine, the ranks and the micro-batches."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from components.config.settings import Settings
from components.errors import StageFault, UserError
from components.files import digest_file
from tests.engine.conftest import curve, prepare, toy_settings, train, weights
from tests.engine.toy import EXAMPLES, STEPS, ToyTask

BOUND = 5e-7  # largest difference of a weight after 18 steps in fp32 (6e-8 was seen); weights are of order 0.3


def by_hand(root: Path, settings: Settings) -> dict[str, torch.Tensor]:
    """The same 18 steps in a plain loop: whole batches, torch's AdamW and clipping, the learning rate written out."""
    task = ToyTask(settings, root)
    decay = [parameter for name, parameter in task.model.named_parameters() if "bias" not in name]
    rest = [parameter for name, parameter in task.model.named_parameters() if "bias" in name]
    optimiser = torch.optim.AdamW([{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}], lr=0.01)
    shift = 0.0
    for step in range(3 * STEPS):
        epoch, position = divmod(step, STEPS)
        if position == 0 and epoch:
            with torch.no_grad():
                shift = 0.1 * float(task.model(task.x[:4], task.y[:4], 1.0)["prediction"].mean())
        warmup = 3  # 0.2 of 18
        factor = (step + 1) / (warmup + 1) if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / (18 - warmup)))
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * factor
        order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(epoch))
        chosen = order[position * 8 : (position + 1) * 8]
        optimiser.zero_grad()
        loss = (task.model(task.x[chosen], task.y[chosen], 8.0)["prediction"] - task.y[chosen] - shift).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in task.model.parameters() if p.grad is not None], 1.5)
        optimiser.step()
    return {name: value.detach() for name, value in task.model.state_dict().items()}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Over the weights that the loss reaches: DeepSpeed applies weight decay to the others too, torch's optimiser does not."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a if "unused" not in name)


def test_two_ranks_with_accumulation_step_as_a_plain_loop(undisturbed: Path) -> None:
    expected = by_hand(undisturbed, toy_settings())
    start = ToyTask(toy_settings(), undisturbed).model.state_dict()
    assert largest_difference(expected, start) > 0.02
    assert largest_difference(weights(undisturbed), expected) < BOUND


@pytest.mark.slow
def test_one_ddp_rank_ends_with_weights_of_two_deepspeed_ranks(undisturbed: Path, tmp_path: Path) -> None:
    outcome = train(prepare(tmp_path), toy_settings(engine="ddp", ranks=1))
    assert (outcome.steps, outcome.resumed_from) == (18, 0)
    assert largest_difference(weights(tmp_path), weights(undisturbed)) < BOUND


def test_curves_hold_every_step_with_the_global_loss(undisturbed: Path) -> None:
    records = curve(undisturbed)
    assert [record["step"] for record in records] == list(range(1, 19))
    assert [record["epoch"] for record in records] == [1] * 6 + [2] * 6 + [3] * 6
    assert all(record["examples"] == 8 for record in records)
    assert all(record["loss"] == pytest.approx(record["squared_error"], rel=1e-6) for record in records)
    assert [record["learning_rate"] for record in records[:4]] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert all(record["grad_norm"] > 0 and record["seconds"] > 0 for record in records)


def test_finished_run_has_no_pickle_outside_scratch(undisturbed: Path) -> None:
    assert [path.name for path in (undisturbed / "out").iterdir()] == ["model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "options"),
    [
        ({"engine": "ddp", "ranks": 2}, {}),
        ({"engine": "deepspeed", "ranks": 1}, {}),
        ({"engine": "deepspeed", "zero_stage": 1}, {}),
        ({"engine": "deepspeed", "zero_stage": 3}, {}),
        ({"engine": "deepspeed"}, {"micro": [4, 4, 4]}),
        ({"engine": "ddp"}, {"micro": [1, 1, 1]}),
    ],
    ids=["ddp, 2 ranks", "deepspeed, 1 rank", "ZeRO-1", "ZeRO-3", "no accumulation", "four micro-batches each"],
)
def test_weights_do_not_depend_on_engine_ranks_or_accumulation(
    undisturbed: Path, tmp_path: Path, training: dict[str, object], options: dict[str, object]
) -> None:
    train(prepare(tmp_path, **options), toy_settings(**training))
    assert largest_difference(weights(tmp_path), weights(undisturbed)) < BOUND


@pytest.mark.slow
def test_two_runs_write_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    train(prepare(tmp_path), toy_settings())
    assert digest_file(tmp_path / "out/model.safetensors") == digest_file(undisturbed / "out/model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["deepspeed", "ddp"])
def test_bf16_keeps_targets_in_fp32_and_follows_fp32_training(undisturbed: Path, tmp_path: Path, engine: str) -> None:
    # The toy asserts that its targets are fp32 in the loss.
    train(prepare(tmp_path), toy_settings(precision="bf16", engine=engine))
    in_bf16 = {name: value.float() for name, value in weights(tmp_path).items()}
    assert 1e-5 < largest_difference(in_bf16, weights(undisturbed)) < 0.05


@pytest.mark.slow
def test_task_hooks_run_around_each_step_and_change_nothing(undisturbed: Path, tmp_path: Path) -> None:
    root = prepare(tmp_path, stop_at=17)
    with pytest.raises(StageFault, match="stopped by its task at step 17"):
        train(root, toy_settings(zero_stage=3), "tests.engine.toy:train_hooked")
    assert not (root / "out").exists()
    (mark,) = root.glob(".mmalign/scratch/align/*/checkpoint-16/COMMITTED.json")
    seen = json.loads(mark.read_text())["extra"]["losses_ahead"]
    # The losses that the hook computed without gradients, before the step, are the steps' own.
    assert seen == pytest.approx([record["loss"] for record in curve(undisturbed)[:16]], rel=1e-5)


@pytest.mark.slow
def test_nan_in_a_micro_batch_stops_the_run_and_is_located(tmp_path: Path) -> None:
    root = prepare(tmp_path, nan_from=7)
    with pytest.raises(StageFault, match=r"the loss is nan at step \d+ \(epoch 1\), from rank [01] micro-batch \d; .*squared_error = nan"):
        train(root, toy_settings())
    assert not (root / "out").exists()
    assert not list(root.glob(".mmalign/scratch/align/*/finished.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": True}, r"the loss at step 1 \(epoch 1\) does not depend on any trained weight"),
        ({"scale": 0}, "the gradient is exactly zero at step 1"),
    ],
    ids=["frozen", "zero"],
)
def test_a_loss_that_moves_no_weight_stops_the_run(tmp_path: Path, options: dict[str, object], message: str) -> None:
    root = prepare(tmp_path, **options)
    with pytest.raises(StageFault, match=message):
        train(root, toy_settings())
    assert not (root / "out").exists()


@pytest.mark.slow
def test_unequal_micro_batches_are_refused_instead_of_hanging(tmp_path: Path) -> None:
    with pytest.raises(StageFault, match=r"step 3 of the epoch has micro-batches \[5, 4\] for 2 ranks"):
        train(prepare(tmp_path, uneven=True), toy_settings(engine="ddp"))


@pytest.mark.slow
def test_missing_zero_file_is_the_users_mistake(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    (root / "infra/deepspeed/zero2.json").unlink()
    with pytest.raises(UserError, match=r"zero2\.json is missing"):
        train(root, toy_settings())
