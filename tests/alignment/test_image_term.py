"""The image term against separate forwards under the picture and under a gray one, its reference, its plan, and what refuses it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import logsigmoid

from components.alignment import reference_stage
from components.alignment.contrasts import best_responses
from components.alignment.losses import ImageBatch, LossSettings, PairBatch, pair_loss
from components.alignment.reference_table import read_blank_log_probs, read_log_probs
from components.alignment.task import AlignmentTask
from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.critique.stage import write_judgements
from components.errors import UserError
from components.families.loading import load_model
from components.preferences.record import Query
from components.trees.scoring import policy_tree
from tests.tiny import preprocessor, queries, save_checkout
from tests.trees.test_trees import separate_log_prob

WEIGHT = 0.5
JUDGEMENTS = [[("", -1.5 * response.rank + 0.1 * number) for number, response in enumerate(query.responses)] for query in queries()]
TABLE = "artifacts/reference/train.parquet"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    changes: dict[str, dict[str, object]] = {
        "training": {"ranks": 1, "row_tokens": 300, "batch_rows": 1},
        "alignment": {"image_weight": WEIGHT, "queries_per_step": 5},
    }
    reference_stage.run(save_checkout(root, tiny_base, tiny_media, **changes), Checkout(root))
    write_judgements(root / "artifacts/critique/train.parquet", queries(), JUDGEMENTS)
    return root


@pytest.fixture
def table(checkout: Path) -> Iterator[Path]:
    """The reference table, which is put back."""
    path = checkout / TABLE
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def settings_of(root: Path, **changes: Any) -> Settings:
    settings = load_settings(root / "params.yaml")
    return settings.model_copy(update={"alignment": settings.alignment.model_copy(update=changes)})


def moved(task: AlignmentTask) -> AlignmentTask:
    """The task with a policy that differs from the reference, as after some steps."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, task.model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return task


def first_step(task: AlignmentTask) -> tuple[float, dict[str, float]]:
    """Loss and metrics of the first step, summed over its micro-batches."""
    total, sums = 0.0, dict[str, float]()
    for micro in task.epoch_plan(0)[0].micros[0]:
        batch = task.batch(micro)
        loss, metrics = task.loss(task.model(**batch), batch)
        total += loss.item()
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return total, sums


def with_media() -> list[Query]:
    return [query for query in queries() if query.media]


@pytest.mark.parametrize("normalize", ["pair", "query"])
def test_term_is_that_of_separate_forwards_under_both_pictures(checkout: Path, normalize: str) -> None:
    settings = settings_of(checkout, normalize=normalize)
    task = moved(AlignmentTask(settings, Checkout(checkout)))
    plain, _ = first_step(moved(AlignmentTask(settings_of(checkout, normalize=normalize, image_weight=0.0), Checkout(checkout))))
    reference, live = load_model(task.base), preprocessor(task.base, checkout / "data/preferences")
    trained = [query for query in queries() if query.pairs()]
    pairs = sum(len(query.pairs()) for query in trained)
    expected = margins = 0.0
    with torch.no_grad():
        for query in with_media():
            seen, gray = policy_tree(live, query), policy_tree(live, query, blank=True)
            best = best_responses(query)
            share = len(query.pairs()) / pairs if normalize == "pair" else 1 / len(trained)
            for number in best:
                ratios = [
                    float(separate_log_prob(task.model.model, tree.root, tree.branches[number]))
                    - float(separate_log_prob(reference, tree.root, tree.branches[number]))
                    for tree in (seen, gray)
                ]
                margin = settings.alignment.beta * (ratios[0] - ratios[1])
                expected -= float(logsigmoid(torch.tensor(margin))) * share / len(best)
                margins += margin * share / len(best)
    total, metrics = first_step(task)
    assert metrics["loss/image"] == pytest.approx(expected, rel=1e-5)
    assert metrics["rewards/image_margin"] == pytest.approx(margins, rel=1e-3, abs=1e-6)
    assert total == pytest.approx(plain + WEIGHT * expected, rel=1e-5)


def test_policy_that_is_the_base_has_a_loss_of_ln_2(checkout: Path) -> None:
    _, metrics = first_step(AlignmentTask(settings_of(checkout), Checkout(checkout)))
    pairs = {query.id: len(query.pairs()) for query in queries()}
    share = sum(pairs[query.id] for query in with_media()) / sum(pairs.values())
    assert metrics["loss/image"] == pytest.approx(share * math.log(2), rel=1e-4)
    assert abs(metrics["rewards/image_margin"]) < 1e-4


def test_gray_media_have_log_probs_of_their_own(checkout: Path, tiny_base: Path, tiny_media: Path) -> None:
    blank, own = read_blank_log_probs(checkout / TABLE), read_log_probs(checkout / TABLE)
    assert {name for name, _ in blank} == {query.id for query in with_media()}
    model, live = load_model(tiny_base), preprocessor(tiny_base, tiny_media)
    with torch.no_grad():
        for query in with_media():
            tree = policy_tree(live, query, blank=True)
            for number, branch in enumerate(tree.branches):
                assert blank[query.id, number] == pytest.approx(separate_log_prob(model, tree.root, branch).item(), rel=1e-5)
                assert blank[query.id, number] != own[query.id, number][0]
    assert read_blank_log_probs(checkout / "artifacts/reference/heldout.parquet") == {}


def test_table_without_term_is_the_same_to_the_byte(tmp_path: Path, tiny_base: Path, tiny_media: Path, checkout: Path) -> None:
    reference_stage.run(save_checkout(tmp_path, tiny_base, tiny_media, training={"row_tokens": 300}), Checkout(tmp_path))
    assert pq.read_schema(tmp_path / TABLE).names == ["id", "response", "log_prob", "tokens"]
    assert read_log_probs(tmp_path / TABLE) == read_log_probs(checkout / TABLE)


def test_killed_reference_goes_on_with_gray_media_too(checkout: Path) -> None:
    repeated = reference_stage.run(load_settings(checkout / "params.yaml"), Checkout(checkout))
    assert (repeated.times["queries_computed"], repeated.times["queries_cached"]) == (0, 14)  # 5, 5 and 4 with media


def test_table_without_gray_media_is_refused_before_training(checkout: Path, table: Path) -> None:
    pq.write_table(pq.read_table(table).drop_columns(["log_prob_blank"]), table)
    AlignmentTask(settings_of(checkout, image_weight=0.0), Checkout(checkout))
    with pytest.raises(UserError, match=r"no log-prob under gray media of a response of query 'q0'.*reference stage"):
        AlignmentTask(settings_of(checkout), Checkout(checkout))


def test_second_tree_counts_in_the_plan(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout), Checkout(checkout))
    live = preprocessor(task.base, checkout / "data/preferences")
    lengths = []
    for query in queries():
        tree = policy_tree(live, query)
        best = sum(len(tree.branches[number].input_ids) for number in best_responses(query))
        lengths.append(tree.tokens + (len(tree.root.input_ids) + best if query.media else 0))
    assert task._lengths() == lengths


def test_micro_batch_of_text_has_an_empty_term(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout), Checkout(checkout))
    micro = task.epoch_plan(0)[0].micros[0][0]
    text = next(number for number, query in enumerate(task.queries) if not query.media)
    batch = task.batch(replace(micro, queries=(text,)))
    _, metrics = task.loss(task.model(**batch), batch)
    assert metrics["loss/image"] == 0


def test_empty_micro_batch_has_no_gradient(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout), Checkout(checkout))
    batch = task.batch(replace(task.epoch_plan(0)[0].micros[0][0], queries=()))
    loss, _ = task.loss(task.model(**batch), batch)
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in task.model.parameters())


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mean", [False, True])
def test_term_is_the_hand_calculation(weight: float, mean: bool) -> None:
    log_probs, reference = torch.tensor([-10.0, -12.0, -14.0]), torch.tensor([-11.0, -11.5, -13.0])
    tokens = torch.tensor([4, 4, 4])
    image = ImageBatch(torch.tensor([0]), torch.tensor([2]), torch.tensor([0.8]))
    one = torch.tensor([0]), torch.tensor([1]), torch.tensor([0.3]), torch.tensor([1.0])
    options: dict[str, Any] = {"sft_weight": 0.25, "mean_log_probs": mean}
    without = pair_loss(log_probs, reference, tokens, PairBatch(*one), LossSettings(**options))
    settings = LossSettings(**options, image_weight=weight, image_beta=0.1)
    result = pair_loss(log_probs, reference, tokens, PairBatch(*one, image=image), settings)
    margin = 0.1 * (1.0 - -1.0) / (4 if mean else 1)  # the ratios are 1 and -1
    loss = 0.8 * math.log1p(math.exp(-margin))
    assert result.loss.item() == pytest.approx(without.loss.item() + weight * loss, rel=1e-6)
    assert result.metrics["loss/image"].item() == pytest.approx(loss, rel=1e-6)
    assert result.metrics["rewards/image_margin"].item() == pytest.approx(0.8 * margin, rel=1e-6)
    assert result.metrics["rewards/image_accuracy"].item() == pytest.approx(0.8)


def test_gradient_prefers_own_picture_to_gray(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout, preference_weight=0.0, sft_weight=0.0, image_weight=1.0), Checkout(checkout))
    optimizer = torch.optim.SGD([parameter for parameter in task.model.parameters() if parameter.requires_grad], lr=0.1)
    margins = []
    for _ in range(3):
        optimizer.zero_grad()
        margin = 0.0
        for micro in task.epoch_plan(0)[0].micros[0]:
            batch = task.batch(micro)
            loss, metrics = task.loss(task.model(**batch), batch)
            loss.backward()
            margin += float(metrics["rewards/image_margin"])
        margins.append(margin)
        optimizer.step()
    assert np.all(np.diff(margins) > 0)
