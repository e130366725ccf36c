"""The reward model's training task against separate forward passes: annotated and mixed steps, counts, plans."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.checkout import Checkout
from components.engine.task import check_plan
from components.errors import UserError
from components.families.processing import Preprocessor
from components.files import read_json
from components.generation.critiques import write_critiques
from components.preferences.record import Query, write_queries
from components.reward.calibration import is_calibration
from components.reward.losses import StepCounts
from components.reward.model import ScoreHead, load_reward_model
from components.reward.own_critiques import critiques_file, own_queries
from components.reward.task import RewardTask
from components.trees.planning import plan_epoch
from tests.reward.steps import (
    INSTRUCTION,
    SEED,
    OneProcess,
    annotated,
    begun,
    by_hand,
    checkout,
    live,
    made,
    mixed,
    settings_of,
    step_sums,
    training_queries,
)

__all__ = ["annotated", "checkout", "live", "mixed"]


@pytest.mark.parametrize("epoch", [0, 1])
def test_annotated_step_scores_and_learns_annotated_critiques(
    annotated: RewardTask, live: Preprocessor, tmp_path: Path, epoch: int
) -> None:
    sums = step_sums(begun(annotated, epoch, tmp_path), epoch)
    assert sums == pytest.approx(by_hand(annotated, live, {}), abs=1e-5)
    assert list(tmp_path.iterdir()) == [], "no critique is written"


def test_mixed_step_of_the_first_epoch_is_the_annotated_one(mixed: RewardTask, live: Preprocessor, tmp_path: Path) -> None:
    context = OneProcess(0, 1, tmp_path)
    mixed.begin_epoch(0, context)
    assert step_sums(mixed, 0) == pytest.approx(by_hand(mixed, live, {}), abs=1e-5)
    assert context.extra == {}
    assert context.barriers == 0


def test_mixed_step_scores_own_critiques_and_never_learns_them(mixed: RewardTask, live: Preprocessor, tmp_path: Path) -> None:
    begun(mixed, 1, tmp_path)
    chosen = own_queries(5, 0.4, SEED, 1)
    rows = [training_queries()[index] for index in chosen]
    own = {q.id: write_critiques(mixed.model.model, live, [(q, r.text) for r in q.responses], **WRITING) for q in rows}
    assert len(own) == 2
    assert all(text for texts in own.values() for text in texts)
    expected = by_hand(mixed, live, own)
    sums = step_sums(mixed, 1)
    assert sums == pytest.approx(expected, abs=1e-5)
    assert abs(sums["margin"] - by_hand(mixed, live, {})["margin"]) > 1e-4, "own critiques change the scores"


WRITING: dict[str, Any] = {"instruction": INSTRUCTION, "max_new_tokens": 5, "batch_size": 7}


def test_own_share_one_learns_no_critique_at_all(checkout: Path, live: Preprocessor, tmp_path: Path) -> None:
    task = begun(made(checkout, own_share=1.0), 1, tmp_path)
    own = read_json(critiques_file(tmp_path, 1))
    assert own.keys() == {query.id for query in training_queries()}
    sums = step_sums(task, 1)
    assert sums == pytest.approx(by_hand(task, live, own), abs=1e-5)
    assert sums["loss/critique"] == 0
    assert all(counts.critiques == 0 for _, counts in task.epoch_plan(1)[0].micros[0])


def test_own_share_zero_is_the_annotated_step(checkout: Path, live: Preprocessor, tmp_path: Path) -> None:
    task = begun(made(checkout, own_share=0.0), 1, tmp_path)
    assert step_sums(task, 1) == pytest.approx(by_hand(task, live, {}), abs=1e-5)
    assert list(tmp_path.iterdir()) == []


def test_targets_are_the_critiques_that_are_learned(mixed: RewardTask, tmp_path: Path) -> None:
    begun(mixed, 1, tmp_path)
    chosen = own_queries(5, 0.4, SEED, 1)
    for index, query in enumerate(training_queries()):
        batch = mixed.batch(([index], StepCounts(1, 1, 1)))["batch"]
        expected: list[int] = []
        for response in query.responses:
            if response.critique and index not in chosen:
                expected += mixed.preprocessor.critique_ids(response.critique)
        assert batch.target_T.tolist() == expected
        assert set(batch.branch_T.tolist()) == {n for n, r in enumerate(query.responses) if r.critique and index not in chosen}


def test_step_counts_its_pairs_ties_and_learned_critiques(mixed: RewardTask, annotated: RewardTask) -> None:
    # 4 + 2 + 3 + 3 + 4 responses; 1 of the first query and the 3 of the third have no critique.
    for task, epoch in ((annotated, 0), (annotated, 1), (mixed, 0)):
        assert {micro[1] for micro in task.epoch_plan(epoch)[0].micros[0]} == {StepCounts(17, 2, 12)}
    own = own_queries(5, 0.4, SEED, 1)
    left = sum(bool(r.critique) for index, query in enumerate(training_queries()) if index not in own for r in query.responses)
    assert left < 12
    assert {micro[1] for micro in mixed.epoch_plan(1)[0].micros[0]} == {StepCounts(17, 2, left)}


@pytest.mark.parametrize(("per_step", "ranks", "epoch"), [(5, 1, 0), (2, 1, 1), (2, 2, 0)])
def test_plan_deals_the_queries_by_their_lengths(checkout: Path, live: Preprocessor, per_step: int, ranks: int, epoch: int) -> None:
    task = RewardTask(settings_of(checkout, {"ranks": ranks}, queries_per_step=per_step, critique_source="annotated"), Checkout(checkout))
    lengths = []
    for query in training_queries():
        branches = [len(live.judge_ids(r.text)) + len(live.critique_ids(r.critique or "")) for r in query.responses]
        lengths.append(len(live.judge_root(query, INSTRUCTION).input_ids) + sum(branches))
    plan = plan_epoch(lengths, seed=SEED, epoch=epoch, queries_per_step=per_step, ranks=ranks, row_tokens=400, batch_rows=1)
    steps = task.epoch_plan(epoch)
    check_plan(steps, ranks, len(plan))
    assert [[[micro for micro, _ in rank] for rank in step.micros] for step in steps] == plan
    rows = training_queries()
    for step, planned in zip(steps, plan, strict=True):
        members = [rows[index] for rank in planned for micro in rank for index in micro]
        counts = StepCounts(
            sum(len(q.pairs()) for q in members),
            sum(len(q.ties()) for q in members),
            sum(bool(r.critique) for q in members for r in q.responses),
        )
        assert {micro[1] for rank in step.micros for micro in rank} == {counts}


def test_batch_numbers_comparisons_over_all_its_branches(annotated: RewardTask, tmp_path: Path) -> None:
    batch = begun(annotated, 0, tmp_path).batch(([4, 1, 2], StepCounts(8, 2, 3)))["batch"]
    # Ranks 1 2 2 3, then 2 1, then 1 1 2: branches 0 to 3, 4 and 5, 6 to 8.
    assert batch.comparisons.pair_P2.tolist() == [[0, 1], [0, 2], [0, 3], [1, 3], [2, 3], [5, 4], [6, 8], [7, 8]]
    assert batch.comparisons.tie_S2.tolist() == [[1, 2], [6, 7]]
    assert batch.counts == StepCounts(8, 2, 3)
    assert batch.branches == 9


def test_batch_without_ties_has_an_empty_table_of_them(annotated: RewardTask, tmp_path: Path) -> None:
    batch = begun(annotated, 0, tmp_path).batch(([1], StepCounts(1, 0, 2)))["batch"]
    assert batch.comparisons.tie_S2.shape == (0, 2)
    assert batch.comparisons.tie_S2.dtype == torch.long


def test_rows_of_a_batch_hold_the_set_number_of_tokens(checkout: Path, tmp_path: Path) -> None:
    for row_tokens, rows in ((150, 2), (4000, 1)):
        task = RewardTask(settings_of(checkout, {"row_tokens": row_tokens}), Checkout(checkout))
        batch = begun(task, 0, tmp_path).batch(([0, 4], StepCounts(1, 1, 1)))["batch"]
        assert batch.input_ids_RL.shape[0] == rows


def test_empty_micro_batch_learns_nothing_and_has_no_gradient(mixed: RewardTask, tmp_path: Path) -> None:
    batch = begun(mixed, 0, tmp_path).batch(([], StepCounts(17, 2, 12)))
    prepared = batch["batch"]
    assert (len(prepared.target_T), len(prepared.comparisons.pair_P2), len(prepared.comparisons.tie_S2)) == (0, 0, 0)
    assert prepared.branches == 4, "the first query runs, so that no rank waits"
    mixed.model.zero_grad()
    loss, metrics = mixed.loss(mixed.model(**batch), batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert not any(value.item() for value in metrics.values())
    assert not any(parameter.grad.any() for parameter in mixed.model.parameters() if parameter.grad is not None)
    mixed.model.zero_grad()


def test_calibration_queries_are_left_out_of_training(checkout: Path) -> None:
    share = 0.6
    expected = [query.id for query in training_queries() if not is_calibration(query.id, share)]
    assert 0 < len(expected) < 5
    task = RewardTask(settings_of(checkout, calibration_share=share), Checkout(checkout))
    assert [query.id for query in task.queries] == expected
    assert sorted(index for micro, _ in task.epoch_plan(0)[0].micros[0] for index in micro) == list(range(len(expected)))


@contextlib.contextmanager
def holding(checkout: Path, rows: list[Query]) -> Iterator[None]:
    """Inside, the training table has `rows`."""
    path = Checkout(checkout).queries("train")
    before = path.read_bytes()
    write_queries(path, rows)
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("calibration_share", [0.0, 0.999])
def test_only_ties_or_only_calibration_queries_are_refused(checkout: Path, calibration_share: float) -> None:
    tied = [replace(query, responses=tuple(replace(r, rank=1) for r in query.responses)) for query in training_queries()]
    with (
        holding(checkout, tied if calibration_share == 0 else training_queries()),
        pytest.raises(UserError, match="two responses of different rank"),
    ):
        RewardTask(settings_of(checkout, calibration_share=calibration_share), Checkout(checkout))


def test_one_query_with_a_pair_is_enough(checkout: Path) -> None:
    rows = [replace(q, responses=tuple(replace(r, rank=1) for r in q.responses)) if q.id != "q3" else q for q in training_queries()]
    with holding(checkout, rows):
        assert len(RewardTask(settings_of(checkout), Checkout(checkout)).queries) == 5


def test_task_starts_from_the_base_with_seeded_head_frozen_tower(checkout: Path) -> None:
    task = RewardTask(settings_of(checkout, epochs=4), Checkout(checkout))
    assert isinstance(task, RewardTask)
    assert task.epochs == 4
    torch.manual_seed(SEED)
    expected = ScoreHead(32).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in task.model.head.state_dict().items())
    for name, parameter in task.model.named_parameters():
        assert parameter.requires_grad == ("vision_tower" not in name)
    assert task.preprocessor.features is not None, "the frozen tower's outputs are cached"


def test_export_writes_what_scoring_opens(annotated: RewardTask, checkout: Path, tmp_path: Path) -> None:
    task = RewardTask(settings_of(checkout), Checkout(checkout))
    with torch.no_grad():
        task.model.head.out.bias.fill_(0.75)
    task.export(tmp_path)
    opened = load_reward_model(tmp_path)
    assert opened.head.out.bias.item() == 0.75
    assert (tmp_path / "tokenizer.json").read_bytes() == (annotated.base / "tokenizer.json").read_bytes()
