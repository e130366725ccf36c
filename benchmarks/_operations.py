"""Counts the floating-point operations of a training step on a tree from its shapes, for MFU.

components/engine/operations.py says what counts of the language model; projector and vision tower, which a benchmark's step runs, are added.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._models import PATCH, Shape
from components.engine.operations import Operations, Weights
from components.trees.trees import tree_pairs

VIEWS = 2  # a base view and a tile
FORWARD_AND_BACKWARD = 3


def language_operations(shape: Shape) -> Operations:
    """Of the language model with all its weights trained, as the engine counts them."""
    projections = 2 * shape.hidden**2 + 2 * shape.hidden * shape.key_value_heads * (shape.hidden // shape.heads)
    layers, head = shape.layers * (projections + 3 * shape.hidden * shape.intermediate), shape.hidden * shape.vocabulary
    return Operations(Weights(layers, layers), Weights(head, head), shape.layers * shape.hidden)


def vision_operations(shape: Shape) -> int:
    """Forward of the vision tower on an image's views."""
    patches = shape.side**2
    width = shape.vision_hidden
    layer = 2 * patches * (4 * width**2 + 2 * width * shape.vision_intermediate) + 4 * patches**2 * width
    return VIEWS * (shape.vision_layers * layer + 2 * patches * 3 * PATCH**2 * width)


def projector_operations(shape: Shape) -> int:
    """Forward of the projector on an image's views."""
    return VIEWS * 2 * shape.side**2 * (shape.vision_hidden * shape.hidden + shape.hidden**2)


def step_operations(shape: Shape, root: int, branches: Sequence[int]) -> int:
    """Forward and backward of a policy with a frozen vision tower on one tree; a store gives the reference log-probs."""
    tokens, targets = root + sum(branches), sum(branches)
    language = language_operations(shape).training(tokens, targets, tree_pairs(root, branches))
    return language + FORWARD_AND_BACKWARD * projector_operations(shape) + vision_operations(shape)
