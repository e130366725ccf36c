"""The optimiser's groups by part, and the gradients that every rank's backward pass has to reach."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from components.config.training import PartRates
from components.engine.groups import parameter_groups
from components.engine.loss_module import give_vision_gradients, occupancy
from components.families.loading import load_model
from components.trees.logprobs import TreeModel
from components.trees.scoring import policy_tree
from components.trees.trees import TreeBatch, build_batch
from tests.tiny import preprocessor, queries


class Scored(nn.Module):
    def __init__(self, base: Path) -> None:
        super().__init__()
        self.model = load_model(base)
        self.head = nn.Linear(32, 1)


def groups(model: nn.Module, **rates: float) -> list[dict[str, object]]:
    decayed = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    return parameter_groups(
        model,
        PartRates(**{"tower": 0.0, "projector": 1.0, "language_model": 1.0, "lm_head": 1.0} | rates),
        decayed=decayed,
        learning_rate=0.01,
        weight_decay=0.1,
    )


def test_parts_of_rate_1_share_two_groups_in_model_order(tiny_base: Path) -> None:
    model = Scored(tiny_base)
    decayed, rest = groups(model, tower=1.0)
    assert (decayed["lr"], decayed["weight_decay"], rest["lr"], rest["weight_decay"]) == (0.01, 0.1, 0.01, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(p) for p in model.parameters() if p.ndim > 1]  # type: ignore[attr-defined]
    assert [id(p) for p in rest["params"]] == [id(p) for p in model.parameters() if p.ndim == 1]  # type: ignore[attr-defined]


def test_part_learns_at_its_own_rate_and_a_score_head_in_full(tiny_base: Path) -> None:
    model = Scored(tiny_base)
    model.model.model.vision_tower.requires_grad_(False)
    rate = {id(p): group["lr"] for group in groups(model, projector=0.5) for p in group["params"]}  # type: ignore[attr-defined]
    assert {rate[id(p)] for p in model.model.model.multi_modal_projector.parameters()} == {0.005}
    assert rate[id(model.model.model.image_newline)] == 0.005
    assert {rate[id(p)] for p in model.model.model.language_model.parameters()} == {0.01}
    assert {rate[id(p)] for p in model.head.parameters()} == {0.01}
    assert not any(id(p) in rate for p in model.model.model.vision_tower.parameters())


def batch_of(base: Path, media: Path, indices: list[int]) -> TreeBatch:
    reader = preprocessor(base, media)
    return build_batch([policy_tree(reader, queries()[index]) for index in indices], 300, "cpu", reader.end_id)


def gradients(model: TreeModel, batch: TreeBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[str]]:
    order: list[str] = []
    handles = [
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    model.zero_grad()
    sums = model(batch)
    sums.square().mean().backward()
    for handle in handles:
        handle.remove()
    return sums.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, order


def test_text_gives_vision_gradients_in_order_and_changes_none(tiny_base: Path, tiny_media: Path) -> None:
    model = TreeModel(load_model(tiny_base))
    model.model.model.vision_tower.requires_grad_(False)
    image, text = batch_of(tiny_base, tiny_media, [0, 1]), batch_of(tiny_base, tiny_media, [2])
    before = gradients(model, image)
    assert not any("projector" in name for name in gradients(model, text)[1])
    give_vision_gradients(model)
    of_image, of_text = gradients(model, image), gradients(model, text)
    assert torch.equal(of_image[0], before[0])
    assert all(torch.equal(of_image[1][name], before[1][name]) for name in before[1])
    assert of_image[2] == of_text[2]
    assert all(not of_text[1][name].any() for name in of_text[1] if "projector" in name)


def test_occupancy_counts_tokens_and_padding(tiny_base: Path, tiny_media: Path) -> None:
    reader = preprocessor(tiny_base, tiny_media)
    trees = [policy_tree(reader, query) for query in queries()]
    batch = build_batch(trees, 300, "cpu", reader.end_id)
    tokens, slots = occupancy({"batch": batch}).tolist()
    assert tokens == sum(tree.tokens for tree in trees)
    assert slots == batch.input_ids_RL.numel() > tokens
    assert occupancy({"x": torch.zeros(3)}).tolist() == [0, 0]
