"""What a pass costs, by hand, and that engine and benchmarks count alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks._models import Shape
from benchmarks._operations import language_operations
from components.engine.operations import Operations, Weights, operations_of
from components.families.base import Root
from components.families.loading import load_model
from components.trees.trees import Branch, Tree, build_batch, tree_pairs

# tests.tiny's language model: two layers of width 32, 4 heads, 2 of keys, 64 between; a vocabulary of 261 that is tied.
TINY = Shape(32, 64, 2, 4, 2, 261, vision_hidden=32, vision_intermediate=64, vision_layers=1, vision_heads=2, side=2)


def test_forward_and_training_are_the_hand_calculation() -> None:
    operations = Operations(Weights(100, 60), Weights(50, 50), attention=8)
    assert operations.forward(10, 3, 40) == 2 * 100 * 10 + 2 * 50 * 3 + 4 * 8 * 40
    # Forward, the gradient of the input, and that of the weights that are trained.
    assert operations.training(10, 3, 40) == 2 * (100 + 100 + 60) * 10 + 2 * 3 * 50 * 3 + 3 * 4 * 8 * 40


def test_a_frozen_weight_costs_no_gradient_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    assert operations_of(model).training(1, 0, 0) == 6 * 12  # a bias is added
    model[0].requires_grad_(False)
    assert operations_of(model).training(1, 0, 0) == 4 * 9 + 6 * 3


def test_language_model_counts_as_its_shape_does(tiny_base: Path) -> None:
    model = load_model(tiny_base)
    assert model.lm_head.weight.shape == (TINY.vocabulary, TINY.hidden)
    assert operations_of(model) == language_operations(TINY)


def test_frozen_parts_and_lookups_are_left_out(tiny_base: Path) -> None:
    model = load_model(tiny_base)
    model.model.language_model.requires_grad_(False)
    operations = operations_of(model)
    assert (operations.layers.trained, operations.head.trained) == (0, 0)  # the head is the embedding's weight
    per_layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert operations.layers.every == 2 * per_layer


@pytest.mark.parametrize(("root", "branches"), [(1, [1]), (5, [3, 2]), (4, [1, 1, 6])])
def test_pairs_of_trees_are_those_that_the_mask_allows(root: int, branches: list[int]) -> None:
    tree = Tree(Root(tuple(range(root))), tuple(Branch(tuple(range(size))) for size in branches))
    batch = build_batch([tree, tree], 100, "cpu", 0)
    allowed = batch.mask_R1LL(torch.float32) == 0
    assert batch.attended == 2 * tree_pairs(root, branches) == int(allowed.sum())
