"""The alignment task against pair-by-pair DPO computed from separate forwards of policy and reference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from components.alignment import reference_stage, stage
from components.alignment.policy_task import diagnosed
from components.alignment.reference_table import read_log_probs, write_log_probs
from components.alignment.task import AlignmentTask
from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.critique.stage import write_judgements
from components.engine.loss_module import LossModule
from components.engine.ranks import policy_autocast
from components.engine.task import EpochContext
from components.errors import UserError
from components.families.loading import load_model
from components.preferences.record import read_queries
from components.trees.scoring import policy_tree
from tests.tiny import preprocessor, queries, save_checkout
from tests.trees.test_trees import separate_log_prob

JUDGEMENTS = [[("", -1.5 * response.rank + 0.1 * number) for number, response in enumerate(query.responses)] for query in queries()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    settings = save_checkout(root, tiny_base, tiny_media, training={"ranks": 1, "row_tokens": 300, "batch_rows": 1})
    reference_stage.run(settings, Checkout(root))
    write_judgements(root / "artifacts/critique/train.parquet", queries(), JUDGEMENTS)
    return root


def settings_of(root: Path, **changes: Any) -> Settings:
    settings = load_settings(root / "params.yaml")
    return settings.model_copy(update={"alignment": settings.alignment.model_copy(update=changes)})


def step_loss(task: AlignmentTask) -> torch.Tensor:
    """The loss of the first step, summed over its micro-batches."""
    parts = []
    for micro in task.epoch_plan(0)[0].micros[0]:
        batch = task.batch(micro)
        parts.append(task.loss(task.model(**batch), batch)[0])
    return torch.stack(parts).sum()


def moved(task: AlignmentTask) -> AlignmentTask:
    """The task with a policy that differs from the reference, as after some steps."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, task.model.parameters()):  # the tower's output is kept: it must not move
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return task


@pytest.mark.parametrize("normalize", ["pair", "query"])
def test_a_step_is_pair_by_pair_dpo_with_a_beta_a_pair(checkout: Path, normalize: str) -> None:
    task = moved(AlignmentTask(settings_of(checkout, normalize=normalize, queries_per_step=5), Checkout(checkout)))
    reference = load_model(task.base)
    live = preprocessor(task.base, checkout / "data/preferences")  # its media run through the tower
    total, trained = torch.zeros(()), [query for query in task.queries if query.pairs()]
    pairs = sum(len(query.pairs()) for query in trained)
    row = 0
    with torch.no_grad():
        for query in task.queries:
            tree = policy_tree(live, query)
            for winner, loser in query.pairs():
                policy = [separate_log_prob(task.model.model, tree.root, tree.branches[i]) for i in (winner, loser)]
                base = [separate_log_prob(reference, tree.root, tree.branches[i]) for i in (winner, loser)]
                beta = float(task.pairs.beta[row])
                loss = -logsigmoid(beta * ((policy[0] - base[0]) - (policy[1] - base[1])))
                loss = loss - 0.25 * policy[0] / len(tree.branches[winner].input_ids)
                total += loss / pairs if normalize == "pair" else loss / (len(trained) * len(query.pairs()))
                row += 1
    assert step_loss(task).item() == pytest.approx(total.item(), rel=1e-5)


def test_step_without_weight_equals_constant_beta_bit_for_bit(checkout: Path) -> None:
    one = step_loss(moved(AlignmentTask(settings_of(checkout, beta_weight=0.0), Checkout(checkout))))
    other = step_loss(moved(AlignmentTask(settings_of(checkout, beta_schedule="constant"), Checkout(checkout))))
    scaled = step_loss(moved(AlignmentTask(settings_of(checkout), Checkout(checkout))))
    assert one.item() == other.item()
    assert one.item() != scaled.item()


def test_vision_tower_is_frozen_and_empty_micro_has_no_gradient(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout), Checkout(checkout))
    full = task.epoch_plan(0)[0].micros[0][0]
    empty = task.batch(replace(full, queries=()))
    loss, _ = task.loss(task.model(**empty), empty)
    loss.backward()
    assert loss.item() == 0
    for name, parameter in task.model.named_parameters():
        assert parameter.requires_grad == ("vision_tower" not in name)
        assert parameter.grad is None or not parameter.grad.any()


@pytest.mark.parametrize(
    ("training", "shift", "refused"),
    [
        ({}, 0.0, False),
        ({}, 0.01, True),
        ({"precision": "bf16"}, 0.0, False),  # though the store's are fp32
        ({"precision": "bf16"}, 1.0, True),
        ({"precision": "bf16", "engine": "ddp"}, 0.3, False),
        ({"precision": "bf16", "engine": "ddp"}, 1.0, True),
    ],
)
def test_log_probs_of_another_model_not_batches_are_refused(checkout: Path, training: dict[str, Any], shift: float, refused: bool) -> None:
    path = checkout / "artifacts/reference/train.parquet"
    original = path.read_bytes()
    log_probs = read_log_probs(path)
    rows = read_queries(checkout / "artifacts/validate/train/queries.parquet")
    settings = settings_of(checkout)
    settings = settings.model_copy(update={"training": settings.training.model_copy(update=training)})
    write_log_probs(path, rows, [[(log_probs[q.id, n][0] - shift, log_probs[q.id, n][1]) for n in range(len(q.responses))] for q in rows])
    try:
        with pytest.raises(UserError, match="reference stage") if refused else nullcontext():
            AlignmentTask(settings, Checkout(checkout))
    finally:
        path.write_bytes(original)


class Ranks(EpochContext):
    """The context of rank 0 among ranks whose values are those of `others` beside its own."""

    others: tuple[float, ...] = ()

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others]


def log_probs_after(changes: Callable[[int], float]) -> Callable[[dict[str, Any]], torch.Tensor]:
    """A forward pass whose log-probs differ from the reference by `changes` of the response's number in the batch."""

    def forward(batch: dict[str, Any]) -> torch.Tensor:
        reference_K: torch.Tensor = batch["batch"].reference_K
        return reference_K + torch.tensor([changes(number) for number in range(len(reference_K))])

    return forward


def micros_of(task: AlignmentTask, step: int = 0) -> list[dict[str, Any]]:
    return [task.batch(micro) for micro in task.epoch_plan(0)[step].micros[0]]


def mean_change(batches: list[dict[str, Any]], changes: Callable[[int], float]) -> float:
    pairs = [pair for batch in batches for pair in zip(batch["batch"].pairs.winner_P, batch["batch"].pairs.loser_P, strict=True)]
    return sum(changes(int(winner)) - changes(int(loser)) for winner, loser in pairs) / len(pairs)


def test_beta_of_a_beta_dpo_step_follows_its_implicit_margin(checkout: Path, tmp_path: Path) -> None:
    task = AlignmentTask(settings_of(checkout, beta_schedule="beta_dpo", beta_weight=0.5, beta_momentum=0.75), Checkout(checkout))
    context = Ranks(0, 1, tmp_path)
    batches = micros_of(task)
    small, large = (lambda n: -0.1 * n), (lambda n: -0.3 * n)
    first, second = mean_change(batches, small), mean_change(batches, large)

    task.begin_step(0, iter(batches), log_probs_after(small), context)
    assert logged(task, batches)["beta/mean"] == pytest.approx(0.1)
    task.begin_step(1, iter(batches), log_probs_after(large), context)
    metrics = logged(task, batches)
    assert metrics["beta/mean"] == pytest.approx(0.1 * (1 + 0.5 * (second - first)), rel=1e-5)
    assert metrics["beta/min"] == metrics["beta/mean"] == metrics["beta/max"]
    assert metrics["beta/running_margin"] == pytest.approx(first, rel=1e-5)
    assert context.extra["running_margin"] == pytest.approx(0.75 * first + 0.25 * second, rel=1e-5)


def logged(task: AlignmentTask, batches: list[dict[str, Any]]) -> dict[str, float]:
    """The step's metrics as the engine adds them up."""
    parts = [task.loss(batch["batch"].reference_K - 1.0, batch)[1] for batch in batches]
    return {name: sum(float(part[name]) for part in parts) for name in parts[0]}


def test_a_beta_dpo_step_is_that_of_its_beta(checkout: Path, tmp_path: Path) -> None:
    task = moved(AlignmentTask(settings_of(checkout, beta_schedule="beta_dpo"), Checkout(checkout)))
    context = Ranks(0, 1, tmp_path, {"running_margin": -0.7})
    with torch.no_grad():
        task.begin_step(3, iter(micros_of(task)), lambda batch: task.model(**batch), context)
        beta = logged(task, micros_of(task))["beta/mean"]
        assert beta != 0.1
        constant = moved(AlignmentTask(settings_of(checkout, beta_schedule="constant", beta=beta), Checkout(checkout)))
        assert step_loss(task).item() == step_loss(constant).item()


def test_each_ranks_margin_counts_and_resumed_beta_is_equal(checkout: Path, tmp_path: Path) -> None:
    task = AlignmentTask(settings_of(checkout, beta_schedule="beta_dpo"), Checkout(checkout))
    batches = micros_of(task)
    change = mean_change(batches, lambda n: -0.1 * n)
    single, together = Ranks(0, 1, tmp_path), Ranks(0, 2, tmp_path)
    together.others = (0.25,)
    for context in (single, together):
        task.begin_step(0, iter(batches), log_probs_after(lambda n: -0.1 * n), context)
    assert single.extra["running_margin"] == pytest.approx(change, rel=1e-5)
    assert together.extra["running_margin"] == pytest.approx(change + 0.25, rel=1e-5)

    resumed = Ranks(0, 2, tmp_path, json.loads(json.dumps(together.extra)))
    betas = []
    for context in (together, resumed):
        context.others = (0.125,)
        task.begin_step(1, iter(batches), log_probs_after(lambda n: 0.2 * n), context)
        betas.append(logged(task, batches)["beta/mean"])
    assert betas[0] == betas[1]
    assert together.extra == resumed.extra


def test_only_beta_dpo_asks_for_a_pass_and_is_refused_without_it(checkout: Path, tmp_path: Path) -> None:
    task = AlignmentTask(settings_of(checkout, beta_schedule="beta_dpo"), Checkout(checkout))
    with pytest.raises(ValueError, match="begin_step"):
        logged(task, micros_of(task))
    other = AlignmentTask(settings_of(checkout), Checkout(checkout))

    def never(_: dict[str, Any]) -> Any:
        raise AssertionError("a pass that nothing needs")

    other.begin_step(0, iter(micros_of(other)), never, Ranks(0, 1, tmp_path))
    assert logged(other, micros_of(other))["beta/mean"] > 0.1


def test_a_steps_betas_come_out_of_the_engines_sums_as_they_are(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout, queries_per_step=5), Checkout(checkout))
    batches = micros_of(task)
    assert len(batches) > 1
    metrics = logged(task, batches)
    assert [metrics[f"beta/{name}"] for name in ("min", "max")] == [task.pairs.beta.min(), task.pairs.beta.max()]
    assert metrics["beta/mean"] == pytest.approx(task.pairs.beta.mean(), rel=1e-12)
    assert 0 <= metrics["beta/share_at_cap"] <= 1


def test_logged_token_entropy_and_accuracy_keep_the_loss(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout), Checkout(checkout))
    batch = micros_of(task)[0]
    with torch.no_grad():
        (loss, metrics), (bare, fewer) = (task.loss(outputs, batch) for outputs in (task.model(**batch), task.model(batch["batch"])))
        scores = task.model(**batch)
    pairs = batch["batch"].pairs
    assert loss.item() == bare.item()
    assert metrics.keys() - fewer.keys() == {f"{name}/{side}" for name in ("entropy", "token_accuracy") for side in ("chosen", "rejected")}
    expected = sum(w * scores.entropy_K[i] for w, i in zip(pairs.weight_P, pairs.winner_P, strict=True))
    assert metrics["entropy/chosen"].item() == pytest.approx(expected.item(), rel=1e-5)
    expected = sum(w * scores.accuracy_K[i] for w, i in zip(pairs.weight_P, pairs.loser_P, strict=True))
    assert metrics["token_accuracy/rejected"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_two_ranks_report_a_steps_betas_once(checkout: Path) -> None:
    settings = settings_of(checkout)
    task = AlignmentTask(settings.model_copy(update={"training": settings.training.model_copy(update={"ranks": 2})}), Checkout(checkout))
    for step in task.epoch_plan(0):
        assert [[micro.leads for micro in rank] for rank in step.micros] == [
            [rank == position == 0 for position in range(len(micros))] for rank, micros in enumerate(step.micros)
        ]


def test_madpo_weighs_the_preference_loss_of_each_pair(checkout: Path) -> None:
    changes = {"beta_schedule": "madpo", "queries_per_step": 5, "sft_weight": 0.0}
    task = moved(AlignmentTask(settings_of(checkout, **changes), Checkout(checkout)))
    plain = moved(AlignmentTask(settings_of(checkout, **{**changes, "beta_schedule": "constant"}), Checkout(checkout)))
    with torch.no_grad():
        row_losses: dict[int, float] = {}
        for micro in plain.epoch_plan(0)[0].micros[0]:
            batch = plain.batch(micro)
            outputs = plain.model(batch["batch"])
            ratio = outputs - batch["batch"].reference_K
            rows = [row for index in micro.queries for row in plain.pairs.rows(index)]
            pairs = batch["batch"].pairs
            for row, winner, loser in zip(rows, pairs.winner_P, pairs.loser_P, strict=True):
                row_losses[row] = -logsigmoid(0.1 * (ratio[winner] - ratio[loser])).item()
        expected = sum(task.pairs.weight[row] * loss for row, loss in row_losses.items()) / len(row_losses)
        assert step_loss(task).item() == pytest.approx(expected, rel=1e-5)
        assert step_loss(task).item() != pytest.approx(step_loss(plain).item(), rel=1e-5)
    metrics = logged(task, micros_of(task))
    assert metrics["weight/mean"] == pytest.approx(1)
    assert [metrics["weight/min"], metrics["weight/max"]] == [task.pairs.weight.min(), task.pairs.weight.max()]


@pytest.mark.parametrize("normalize", ["pair", "query"])
def test_the_sft_term_once_a_query_is_of_its_best_responses(checkout: Path, normalize: str) -> None:
    task = AlignmentTask(settings_of(checkout, sft_per="query", normalize=normalize, queries_per_step=5), Checkout(checkout))
    with torch.no_grad():
        sft_loss = sum(float(task.loss(task.model(**batch), batch)[1]["loss/sft"]) for batch in micros_of(task))
    total, pairs = 0.0, sum(len(query.pairs()) for query in task.queries)
    for index, query in enumerate(task.queries):
        best = [number for number, response in enumerate(query.responses) if response.rank == 1]
        sums, tokens = task._reference(index)
        values = [-sums[number] / tokens[number] for number in best]
        share = len(query.pairs()) / pairs if normalize == "pair" else 1 / len(task.order)
        if task.pairs.rows(index):
            total += share * sum(values) / len(values)
    assert sft_loss == pytest.approx(total, rel=1e-4)


def test_the_stage_ends_with_the_log_probs_of_the_policy(checkout: Path) -> None:
    shutil.copytree(checkout / "data/base", checkout / "artifacts/align/model")
    settings = settings_of(checkout)
    reference = {key: value[0] for key, value in read_log_probs(checkout / "artifacts/reference/train.parquet").items()}
    ids = {identity for identity, _ in reference}
    assert stage.final_log_probs(settings, Checkout(checkout), ids) == reference, "an unchanged policy is the reference"
    task = moved(AlignmentTask(settings, Checkout(checkout)))
    shutil.rmtree(checkout / "artifacts/align/model")
    (checkout / "artifacts/align/model").mkdir()
    task.export(checkout / "artifacts/align/model")
    log_probs = stage.final_log_probs(settings, Checkout(checkout), ids)
    assert log_probs.keys() == reference.keys()
    with torch.no_grad():
        query = task.queries[0]
        tree = policy_tree(preprocessor(task.base, checkout / "data/preferences"), query)
        expected = [separate_log_prob(task.model.model, tree.root, branch).item() for branch in tree.branches]
    assert [log_probs[query.id, number] for number in range(len(query.responses))] == pytest.approx(expected, rel=1e-5)
    few = stage.final_log_probs(settings_of(checkout, diagnosed_queries=2), Checkout(checkout), ids)
    assert few == {key: log_probs[key] for key in log_probs if key[0] in diagnosed(ids, 2)}


def test_reference_under_ddp_in_bf16_is_computed_as_its_policy(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> None:
    settings = save_checkout(
        tmp_path, tiny_base, tiny_media, training={"engine": "ddp", "precision": "bf16", "row_tokens": 300, "ranks": 1}
    )
    reference_stage.run(settings, Checkout(tmp_path))
    write_judgements(tmp_path / "artifacts/critique/train.parquet", queries(), JUDGEMENTS)
    task = AlignmentTask(settings, Checkout(tmp_path))
    assert {parameter.dtype for parameter in task.model.parameters()} == {torch.float32}
    module = LossModule(task, policy_autocast(settings.training))
    differences = []
    for micro in task.epoch_plan(0)[0].micros[0]:
        batch = task.batch(micro)
        with torch.no_grad():
            outputs = module(batch, outputs_alone=True)
        differences.append((outputs.log_prob_K - batch["batch"].reference_K).abs().max())
    assert float(torch.stack(differences).max()) < 1e-3
