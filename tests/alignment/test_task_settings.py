"""What the alignment task hands to the loss for each value of its settings, against the pairs and log-probs worked out beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.alignment import reference_stage
from components.alignment.losses import LossSettings, PairBatch, SftBatch, pair_loss
from components.alignment.reference_table import read_log_probs, write_log_probs
from components.alignment.task import AlignmentTask, Micro
from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.critique.stage import write_judgements
from components.engine.task import EpochContext, check_plan
from components.errors import TrainingFault, UserError
from components.families.loading import load_model
from components.preferences.record import Query, read_queries, write_queries
from components.trees.planning import plan_epoch
from tests.tiny import queries, rephrased, save_checkout

SEED = 3


def training_queries() -> list[Query]:
    """The tiny queries with one of nothing but ties in their midst."""
    rows = queries()
    tied = rephrased(rows[2], "Tied?", id="tied", responses=tuple(replace(r, rank=1) for r in rows[2].responses))
    return [*rows[:2], tied, *rows[2:]]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    settings = save_checkout(
        root,
        tiny_base,
        tiny_media,
        training={"ranks": 1, "row_tokens": 300, "batch_rows": 1, "seed": SEED},
        alignment={"queries_per_step": 6},
        reference={"threads": 1},
    )
    write_queries(root / "artifacts/validate/train/queries.parquet", training_queries())
    reference_stage.run(settings, Checkout(root))
    judgements = [[("", -1.5 * r.rank + 0.1 * n) for n, r in enumerate(query.responses)] for query in training_queries()]
    write_judgements(root / "artifacts/critique/train.parquet", training_queries(), judgements)
    return root


def settings_of(root: Path, training: dict[str, Any] | None = None, **changes: Any) -> Settings:
    settings = load_settings(root / "params.yaml")
    sections = {"alignment": settings.alignment.model_copy(update=changes), "training": settings.training.model_copy(update=training or {})}
    return settings.model_copy(update=sections)


def whole_step(task: AlignmentTask) -> Micro:
    """The first step's queries in one micro-batch."""
    micros = task.epoch_plan(0)[0].micros[0]
    return replace(micros[0], queries=tuple(sorted(index for micro in micros for index in micro.queries)))


def by_hand(task: AlignmentTask) -> tuple[PairBatch, Tensor, Tensor, list[int]]:
    """The pairs of all queries that have some, with reference sums, token counts and the query of each pair."""
    winners, losers, owners, reference, tokens = [], [], [], [], []
    for index, query in enumerate(training_queries()):
        if not query.pairs():
            continue
        for winner, loser in query.pairs():
            winners.append(len(reference) + winner)
            losers.append(len(reference) + loser)
            owners.append(index)
        sums, counts = task._reference(index)
        reference += sums
        tokens += counts
    even = torch.full((17,), 1 / 17)
    beta_P = torch.tensor(task.pairs.beta, dtype=torch.float32)
    return PairBatch(torch.tensor(winners), torch.tensor(losers), beta_P, even), torch.tensor(reference), torch.tensor(tokens), owners


def close(actual: Tensor, expected: Tensor) -> bool:
    return bool(torch.allclose(actual, expected, rtol=1e-6, atol=0))


@pytest.mark.parametrize("normalize", ["pair", "query"])
@pytest.mark.parametrize("schedule", ["drs", "madpo"])
def test_batch_holds_pairs_betas_weights_and_reference_sums(checkout: Path, normalize: str, schedule: str) -> None:
    task = AlignmentTask(settings_of(checkout, normalize=normalize, beta_schedule=schedule), Checkout(checkout))
    expected, reference_K, tokens_K, owners = by_hand(task)
    prepared = task.batch(whole_step(task))["batch"]
    pairs = prepared.pairs
    assert pairs.winner_P.tolist() == expected.winner_P.tolist()
    assert pairs.loser_P.tolist() == expected.loser_P.tolist()
    assert close(pairs.beta_P, expected.beta_P)
    shares = [1 / 17 if normalize == "pair" else 1 / (5 * owners.count(owner)) for owner in owners]
    assert close(pairs.weight_P, torch.tensor(shares))
    assert pairs.sft is None
    if schedule == "madpo":
        assert close(pairs.emphasis_P, torch.tensor(task.pairs.weight, dtype=torch.float32))
    else:
        assert pairs.emphasis_P is None
    assert close(prepared.reference_K, reference_K)
    assert prepared.reference_K.dtype == torch.float32
    assert torch.bincount(prepared.branch_T).tolist() == tokens_K.tolist()


@pytest.mark.parametrize("normalize", ["pair", "query"])
def test_sft_once_a_query_is_shared_by_its_best_responses(checkout: Path, normalize: str) -> None:
    task = AlignmentTask(settings_of(checkout, sft_per="query", normalize=normalize), Checkout(checkout))
    sft = task.batch(whole_step(task))["batch"].pairs.sft
    # Ranks 1 2 3 4, then 2 1, then 1 1 2, then 3 2 1, then 1 2 2 3: branches 0 to 3, 4 and 5, 6 to 8, 9 to 11, 12 to 15.
    assert sft.response_S.tolist() == [0, 5, 6, 7, 11, 12]
    shares = [6 / 17, 1 / 17, 1 / 17, 1 / 17, 3 / 17, 5 / 17] if normalize == "pair" else [0.2, 0.2, 0.1, 0.1, 0.2, 0.2]
    assert close(sft.weight_S, torch.tensor(shares))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"log_probs": "sum", "sft_weight": 0.0}, {"sft_weight": 0.0}),
        ({"log_probs": "mean", "sft_weight": 1.0}, {"sft_weight": 1.0, "mean_log_probs": True}),
        ({"preference_weight": 0.0}, {"sft_weight": 0.25, "preference_weight": 0.0}),
        ({"label_smoothing": 0.2}, {"sft_weight": 0.25, "label_smoothing": 0.2}),
        ({"loss_type": "ipo", "beta_schedule": "constant"}, {"sft_weight": 0.25, "loss_type": "ipo"}),
    ],
)
def test_settings_reach_the_loss(checkout: Path, changes: dict[str, Any], named: dict[str, Any]) -> None:
    task = AlignmentTask(settings_of(checkout, **changes), Checkout(checkout))
    pairs, reference_K, tokens_K, _ = by_hand(task)
    batch = task.batch(whole_step(task))
    log_prob_K = batch["batch"].reference_K + torch.linspace(-3, 2, 16)
    expected = pair_loss(log_prob_K, reference_K, tokens_K, pairs, LossSettings(**named))
    loss, metrics = task.loss(log_prob_K, batch)
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    for name, value in expected.metrics.items():
        assert metrics[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_sft_per_query_reaches_the_loss(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout, sft_per="query"), Checkout(checkout))
    pairs, reference_K, tokens_K, _ = by_hand(task)
    pairs = replace(pairs, sft=SftBatch(torch.tensor([0, 5, 6, 7, 11, 12]), torch.tensor([6, 1, 1, 1, 3, 5]) / 17))
    batch = task.batch(whole_step(task))
    log_prob_K = batch["batch"].reference_K + torch.linspace(-3, 2, 16)
    expected = pair_loss(log_prob_K, reference_K, tokens_K, pairs, LossSettings(sft_weight=0.25))
    assert task.loss(log_prob_K, batch)[0].item() == pytest.approx(expected.loss.item(), rel=1e-5)


class Lone(EpochContext):
    def gather(self, value: Any) -> list[Any]:
        return [value]


@pytest.mark.parametrize("log_probs", ["sum", "mean"])
def test_implicit_margin_of_a_step_follows_the_kind_of_log_probs(checkout: Path, tmp_path: Path, log_probs: str) -> None:
    chosen = settings_of(checkout, beta_schedule="beta_dpo", log_probs=log_probs, beta_weight=0.25, beta_momentum=0.5, beta=0.2)
    task = AlignmentTask(chosen, Checkout(checkout))
    pairs, _, tokens_K, _ = by_hand(task)
    change_K = torch.linspace(-3, 2, 16)
    batch = task.batch(whole_step(task))
    calls: list[bool] = []

    def forward(inputs: dict[str, Any]) -> Tensor:
        calls.append(inputs["statistics"])
        return inputs["batch"].reference_K + change_K  # type: ignore[no-any-return]

    ratio_K = change_K / tokens_K if log_probs == "mean" else change_K
    margin = float((ratio_K[pairs.winner_P] - ratio_K[pairs.loser_P]).mean())
    context = Lone(0, 1, tmp_path, {"running_margin": 0.5})
    task.begin_step(0, iter([batch]), forward, context)
    assert calls == [False], "entropy and accuracy are not needed for a margin"
    assert context.extra == {"running_margin": pytest.approx(0.5 * 0.5 + 0.5 * margin, rel=1e-5)}
    metrics = task.loss(batch["batch"].reference_K + change_K, batch)[1]
    beta = 0.2 * (1 + 0.25 * (margin - 0.5))
    for name, value in {"min": beta, "mean": beta, "max": beta, "implicit_margin": margin, "running_margin": 0.5}.items():
        assert metrics[f"beta/{name}"].item() == pytest.approx(value, rel=1e-5), name
    expected = pair_loss(
        batch["batch"].reference_K + change_K,
        batch["batch"].reference_K,
        tokens_K,
        replace(pairs, beta_P=torch.full((17,), beta)),
        LossSettings(sft_weight=0.25, mean_log_probs=log_probs == "mean"),
    )
    assert metrics["loss/preference"].item() == pytest.approx(expected.metrics["loss/preference"].item(), rel=1e-5)


def test_first_step_of_beta_dpo_compares_its_margin_with_itself(checkout: Path, tmp_path: Path) -> None:
    task = AlignmentTask(settings_of(checkout, beta_schedule="beta_dpo"), Checkout(checkout))
    batch = task.batch(whole_step(task))
    context = Lone(0, 1, tmp_path)
    task.begin_step(0, iter([batch]), lambda inputs: inputs["batch"].reference_K + torch.arange(16.0), context)
    assert task.step_beta is not None
    assert task.step_beta["beta/mean"] == 0.1
    assert task.step_beta["beta/running_margin"] == task.step_beta["beta/implicit_margin"] == context.extra["running_margin"] != 0


@pytest.mark.parametrize(("per_step", "ranks", "epoch"), [(6, 1, 0), (2, 1, 1), (4, 2, 0)])
def test_plan_deals_the_queries_with_pairs_by_their_lengths(checkout: Path, per_step: int, ranks: int, epoch: int) -> None:
    task = AlignmentTask(settings_of(checkout, {"ranks": ranks}, queries_per_step=per_step), Checkout(checkout))
    order = [0, 1, 3, 4, 5]  # the query of ties has no pair to learn from
    lengths = []
    for index in order:
        query = training_queries()[index]
        root = len(task.preprocessor.policy_root(query).input_ids)
        lengths.append(root + sum(task._reference(index)[1]))
    plan = plan_epoch(lengths, seed=SEED, epoch=epoch, queries_per_step=per_step, ranks=ranks, row_tokens=300, batch_rows=1)
    steps = task.epoch_plan(epoch)
    check_plan(steps, ranks, len(plan))
    for step, planned in zip(steps, plan, strict=True):
        members = [order[position] for rank in planned for micro in rank for position in micro]
        assert [[list(micro.queries) for micro in rank] for rank in step.micros] == [
            [[order[position] for position in micro] for micro in rank] for rank in planned
        ]
        rows = [row for index in members for row in task.pairs.rows(index)]
        betas = task.pairs.beta[rows]
        for micro in (micro for rank in step.micros for micro in rank):
            assert (micro.pairs, micro.queries_with_pairs) == (len(rows), len(members))
            assert (micro.metrics["beta/min"], micro.metrics["beta/max"]) == (betas.min(), betas.max())
        assert sum(micro.leads for rank in step.micros for micro in rank) == 1
        assert step.micros[0][0].leads


def test_empty_micro_batch_has_weight_zero_throughout(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout, sft_per="query"), Checkout(checkout))
    prepared = task.batch(replace(whole_step(task), queries=(), leads=False))["batch"]
    assert prepared.branches == 4, "the first query runs, so that no rank waits"
    assert prepared.pairs.weight_P.tolist() == [0.0] * 6
    assert prepared.pairs.sft.weight_S.tolist() == [0.0]


@pytest.mark.parametrize("row_tokens", [300, 3000])
def test_rows_of_a_batch_hold_the_set_number_of_tokens(checkout: Path, row_tokens: int) -> None:
    task = AlignmentTask(settings_of(checkout, {"row_tokens": row_tokens}), Checkout(checkout))
    length = task.batch(whole_step(task))["batch"].input_ids_RL.shape[1]
    whole = int(task.tokens.policy_tokens()[task.order].sum())
    assert length == whole if row_tokens == 3000 else length <= row_tokens < whole


@pytest.mark.parametrize(
    ("query", "shift", "refused"),
    [(0, 9e-4, False), (0, 1.1e-3, True), (4, 1.1e-3, True), (5, 1.1e-3, False)],
)
def test_reference_of_the_first_four_queries_is_computed_again(checkout: Path, query: int, shift: float, refused: bool) -> None:
    rows, path = training_queries(), checkout / "artifacts/reference/train.parquet"
    stored, before = read_log_probs(path), path.read_bytes()
    moved = {(rows[query].id, 1): shift}
    values = [[(stored[r.id, n][0] + moved.get((r.id, n), 0.0), stored[r.id, n][1]) for n in range(len(r.responses))] for r in rows]
    write_log_probs(path, rows, values)
    try:
        if refused:
            with pytest.raises(UserError, match=f"query '{rows[query].id}'"):
                AlignmentTask(settings_of(checkout), Checkout(checkout))
        else:
            AlignmentTask(settings_of(checkout), Checkout(checkout))
    finally:
        path.write_bytes(before)


def test_reference_with_other_token_counts_is_refused(checkout: Path) -> None:
    rows, path = training_queries(), checkout / "artifacts/reference/train.parquet"
    stored, before = read_log_probs(path), path.read_bytes()
    write_log_probs(path, rows, [[(stored[r.id, n][0], stored[r.id, n][1] + 1) for n in range(len(r.responses))] for r in rows])
    try:
        with pytest.raises(UserError, match="run the reference stage again"):
            AlignmentTask(settings_of(checkout), Checkout(checkout))
    finally:
        path.write_bytes(before)


def test_task_trains_the_base_but_its_tower_for_the_set_epochs(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout, epochs=5), Checkout(checkout))
    assert isinstance(task, AlignmentTask)
    assert task.epochs == 5
    base = load_model(checkout / "data/base").state_dict()
    assert all(torch.equal(tensor, base[name]) for name, tensor in task.model.model.state_dict().items())
    for name, parameter in task.model.named_parameters():
        assert parameter.requires_grad == ("vision_tower" not in name)
    assert task.preprocessor.features is not None, "the frozen tower's outputs are cached"


def test_task_leaves_calibration_queries_in_training(checkout: Path) -> None:
    settings = settings_of(checkout, margins="calibrated")
    settings = settings.model_copy(update={"reward": settings.reward.model_copy(update={"calibration_share": 0.999})})
    task = AlignmentTask(settings, Checkout(checkout))
    assert task.pairs.calibration.all()
    assert len(task.pairs.beta) == 17


def test_task_stops_a_policy_that_collapses(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout), Checkout(checkout))
    sums = {"log_ratios/chosen": -4.0, "rewards/accuracy": 0.5}
    for step in range(9):
        task.check_metrics(step, sums)
    with pytest.raises(TrainingFault, match="at step 10"):
        task.check_metrics(9, sums)


def test_export_writes_the_policy_with_the_bases_processor(checkout: Path, tmp_path: Path) -> None:
    task = AlignmentTask(settings_of(checkout), Checkout(checkout))
    with torch.no_grad():
        task.model.model.model.language_model.norm.weight.fill_(0.5)
    task.export(tmp_path)
    assert set(load_model(tmp_path).model.language_model.norm.weight.tolist()) == {0.5}
    assert (tmp_path / "tokenizer.json").read_bytes() == (checkout / "data/base/tokenizer.json").read_bytes()


def test_training_rows_are_those_of_the_validated_table(checkout: Path) -> None:
    assert [q.id for q in read_queries(checkout / "artifacts/validate/train/queries.parquet")] == ["q0", "q1", "tied", "q2", "q3", "q4"]
