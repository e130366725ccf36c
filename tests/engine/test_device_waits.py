"""No forward or backward pass asks a device for a value: the process would wait until the device has worked off all that it was given.

Passes run on fake tensors, which have shapes and no values: whatever asks for one (`item`, `tolist`, a shape that depends on values) raises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from components.alignment.losses import LossSettings, PairBatch, pair_loss
from components.families.base import Medium, Root
from components.families.loading import load_model
from components.features.embedding import run_vision_tower
from components.reward.losses import Comparisons, StepCounts, reward_loss
from components.reward.model import new_reward_model
from components.trees.logprobs import BranchScores, TreeModel, branch_tokens
from components.trees.scoring import policy_tree
from components.trees.trees import Tree, TreeBatch, build_batch
from tests.families.checkpoints import BUILDERS
from tests.tiny import preprocessor, queries

OWN_WAIT = pytest.mark.xfail(strict=True, reason="transformers adds Qwen3-VL's deeper features by a mask, once in each of its first layers")


@pytest.fixture(params=[pytest.param(name, marks=OWN_WAIT if name == "qwen3_vl" else ()) for name in sorted(BUILDERS)])
def batch(request: pytest.FixtureRequest, tmp_path: Path, tiny_media: Path) -> tuple[Any, TreeBatch]:
    """A model of a family, and trees of a text and of two pictures whose features are cached."""
    base = BUILDERS[request.param](tmp_path)
    model, prepared = load_model(base), preprocessor(base, tiny_media)
    trees = []
    for query in queries()[:3]:
        tree = policy_tree(prepared, query)
        media = tuple(replace(m, features=run_vision_tower(model, m, torch.float32, 1), tensors=_small(m)) for m in tree.root.media)
        trees.append(Tree(replace(tree.root, media=media), tree.branches))
    return model, build_batch(trees, 400, "cpu", prepared.end_id)


def _small(medium: Medium) -> dict[str, Any]:
    """What a projector's packing reads of a medium, as arrays: these lie in the process's memory, so that their values can be had."""
    return {name: tensor.numpy() for name, tensor in medium.tensors.items() if not name.startswith("pixel_values")}


def without_values(value: Any, mode: FakeTensorMode) -> Any:
    """`value` with fakes in place of its tensors, but for those of media, which lie in the process's memory."""
    if isinstance(value, Tensor):
        return mode.from_tensor(value)
    if isinstance(value, Root | Medium) or not is_dataclass(value):
        return value
    return replace(value, **{field.name: without_values(getattr(value, field.name), mode) for field in fields(value)})  # type: ignore[type-var]


def on_a_device(work: Callable[[FakeTensorMode], Tensor]) -> bool:
    """Run forward and backward without values; whether the loss had none."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        loss = work(mode)
        loss.backward()  # type: ignore[no-untyped-call]
    return isinstance(loss, FakeTensor)


def test_alignment_pass_waits_for_no_device(batch: tuple[Any, TreeBatch]) -> None:
    model, trees = batch
    pairs = PairBatch(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([0.1, 0.2]), torch.tensor([0.5, 0.5]))

    def work(mode: FakeTensorMode) -> Tensor:
        prepared = without_values(trees, mode)
        scores = TreeModel(model)(prepared, statistics=True)
        assert isinstance(scores, BranchScores)
        reference_K = mode.from_tensor(torch.zeros(trees.branches))
        return pair_loss(
            scores.log_prob_K, reference_K, branch_tokens(prepared), without_values(pairs, mode), LossSettings(0.25, 0.0, False, "sigmoid")
        ).loss

    assert on_a_device(work), "no value was computed"


def test_reward_pass_waits_for_no_device(batch: tuple[Any, TreeBatch]) -> None:
    model, trees = batch
    reward = new_reward_model(model, seed=0)
    comparisons = Comparisons(torch.tensor([[0, 1]]), torch.tensor([[2, 3]]), torch.tensor([0, 2]))

    def work(mode: FakeTensorMode) -> Tensor:
        judged = reward(without_values(trees, mode))
        return reward_loss(judged, without_values(comparisons, mode), StepCounts(1, 1, 2), tie_weight=0.1, critique_weight=1.0)[0]

    assert on_a_device(work), "no value was computed"


def test_values_of_fakes_cannot_be_asked_for() -> None:
    with pytest.raises(DataDependentOutputException):
        on_a_device(lambda mode: mode.from_tensor(torch.ones(2)) * int(mode.from_tensor(torch.ones(2)).sum()))
