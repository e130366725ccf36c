"""The alignment task against pair-by-pair DPO computed from separate forwards of policy and reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from components.alignment import reference_stage
from components.alignment.reference_table import read_log_probs, write_log_probs
from components.alignment.task import AlignmentTask
from components.config import Settings, load_settings
from components.critique.stage import write_opinions
from components.errors import UserError
from components.preferences.record import read_queries
from components.vlm.loading import load_model
from tests.tiny import queries, save_checkout
from tests.vlm.test_trees import separate_log_prob


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    settings = save_checkout(root, tiny_base, tiny_media, training={"ranks": 1, "row_tokens": 300, "batch_rows": 1})
    reference_stage.run(settings, root)
    opinions = [[("", -1.5 * response.rank + 0.1 * number) for number, response in enumerate(query.responses)] for query in queries()]
    write_opinions(root / "artifacts/critique/train.parquet", queries(), opinions)
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
        for parameter in task.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return task


@pytest.mark.parametrize("normalise", ["pair", "query"])
def test_a_step_is_pair_by_pair_dpo_with_a_beta_a_pair(checkout: Path, normalise: str) -> None:
    task = moved(AlignmentTask(settings_of(checkout, normalise=normalise, queries_per_step=5), checkout))
    reference = load_model(task.base)
    total, trained = torch.zeros(()), [query for query in task.queries if query.pairs()]
    pairs = sum(len(query.pairs()) for query in trained)
    row = 0
    with torch.no_grad():
        for index, query in enumerate(task.queries):
            tree = task.trees.get(index)
            for winner, loser in query.pairs():
                assert tree is not None
                policy = [separate_log_prob(task.model.model, tree.root, tree.branches[i]) for i in (winner, loser)]
                base = [separate_log_prob(reference, tree.root, tree.branches[i]) for i in (winner, loser)]
                beta = float(task.pairs.beta[row])
                loss = -logsigmoid(beta * ((policy[0] - base[0]) - (policy[1] - base[1])))
                loss = loss - 0.25 * policy[0] / len(tree.branches[winner].input_ids)
                total += loss / pairs if normalise == "pair" else loss / (len(trained) * len(query.pairs()))
                row += 1
    assert step_loss(task).item() == pytest.approx(total.item(), rel=1e-5)


def test_without_weight_the_step_is_that_of_constant_beta_bit_for_bit(checkout: Path) -> None:
    one = step_loss(moved(AlignmentTask(settings_of(checkout, beta_weight=0.0), checkout)))
    other = step_loss(moved(AlignmentTask(settings_of(checkout, beta_schedule="constant"), checkout)))
    scaled = step_loss(moved(AlignmentTask(settings_of(checkout), checkout)))
    assert one.item() == other.item()
    assert one.item() != scaled.item()


def test_the_tower_is_frozen_and_an_empty_micro_batch_has_no_gradient(checkout: Path) -> None:
    task = AlignmentTask(settings_of(checkout), checkout)
    full = task.epoch_plan(0)[0].micros[0][0]
    empty = task.batch(type(full)((), full.pairs, full.queries_with_pairs))
    loss, _ = task.loss(task.model(**empty), empty)
    loss.backward()
    assert loss.item() == 0
    for name, parameter in task.model.named_parameters():
        assert parameter.requires_grad == ("vision_tower" not in name)
        assert parameter.grad is None or not parameter.grad.any()


def test_log_probs_of_another_model_are_refused(checkout: Path) -> None:
    path = checkout / "artifacts/reference/train.parquet"
    kept = path.read_bytes()
    found = read_log_probs(path)
    rows = read_queries(checkout / "artifacts/validate/train/queries.parquet")
    write_log_probs(path, rows, [[(found[q.id, n][0] - 1.0, found[q.id, n][1]) for n in range(len(q.responses))] for q in rows])
    with pytest.raises(UserError, match="reference stage"):
        AlignmentTask(settings_of(checkout), checkout)
    path.write_bytes(kept)
