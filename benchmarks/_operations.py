"""Counts the floating-point operations of a training step on a tree from its shapes, for MFU.

The count includes only necessary operations: of attention the token pairs that the mask allows, and no recomputation. A product of matrices
[m, k] and [k, n] takes 2 * m * k * n operations; backward takes twice as many as forward.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._models import PATCH, Shape

VIEWS = 2  # a base view and a tile
FORWARD_AND_BACKWARD = 3


def tree_pairs(root: int, branches: Sequence[int]) -> int:
    """Token pairs whose second token attends to the first."""
    return root * (root + 1) // 2 + sum(root * tokens + tokens * (tokens + 1) // 2 for tokens in branches)


def language_operations(shape: Shape, tokens: int, pairs: int, targets: int) -> int:
    """Forward of the language model on `tokens` tokens, with its head at `targets` positions."""
    head_size = shape.hidden // shape.heads
    projections = 2 * shape.hidden**2 + 2 * shape.hidden * shape.key_value_heads * head_size
    layer = 2 * tokens * (projections + 3 * shape.hidden * shape.intermediate) + 4 * pairs * shape.hidden
    return shape.layers * layer + 2 * targets * shape.hidden * shape.vocabulary


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
    trained = language_operations(shape, tokens, tree_pairs(root, branches), targets) + projector_operations(shape)
    return FORWARD_AND_BACKWARD * trained + vision_operations(shape)
