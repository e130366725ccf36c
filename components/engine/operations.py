"""Floating-point operations of a language model's passes, as MFU counts them: what is necessary, from shapes.

- A product of matrices [m, k] and [k, n] takes 2 * m * k * n operations. Backward takes as many again for the gradient of its input, and as
  many for that of a weight that is trained.
- Of attention the token pairs count that the mask allows. Of the head, the positions that it is computed for. The embedding is looked up.
- Neither recomputation counts, nor the vision tower, whose output is cached or costs once, nor the projector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from components.engine.groups import vision_language_model
from components.engine.partitions import size
from components.families.adapters import family_of


@dataclass(frozen=True)
class Weights:
    """Numbers of a part's weights: all, and those that are trained."""

    every: int
    trained: int = 0

    def training(self) -> int:
        """Operations of forward and backward for one position."""
        return 2 * (2 * self.every + self.trained)


@dataclass(frozen=True)
class Operations:
    """What a pass costs: weights that every token multiplies, weights of the head, and the attention's width, summed over its layers."""

    layers: Weights
    head: Weights = Weights(0)
    attention: int = 0

    def forward(self, tokens: int, targets: int, pairs: int) -> int:
        """Of a pass over `tokens`, with the head at `targets` positions and `pairs` of tokens that attend to each other."""
        return 2 * self.layers.every * tokens + 2 * self.head.every * targets + 4 * self.attention * pairs

    def training(self, tokens: int, targets: int, pairs: int) -> int:
        """Of a pass forward and backward."""
        return self.layers.training() * tokens + self.head.training() * targets + 3 * 4 * self.attention * pairs


def operations_of(model: nn.Module) -> Operations:
    """The operations of the language model in a task's model; where there is none, those of all its matrices."""
    inner = vision_language_model(model)
    if inner is None:
        return Operations(_weights([model]))
    family, config = family_of(inner.config), inner.config.text_config
    embedding = inner.get_input_embeddings().weight
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Operations(
        _weights(family.modules(inner)["language_model"], but=embedding),
        _weights([inner.lm_head]),
        config.num_hidden_layers * config.num_attention_heads * head_size,
    )


def _weights(owners: Sequence[nn.Module | nn.Parameter], but: nn.Parameter | None = None) -> Weights:
    """Of the matrices of `owners`: a vector is added or multiplied, which is little."""
    members: list[Any] = [p for owner in owners for p in ([owner] if isinstance(owner, nn.Parameter) else owner.parameters())]
    matrices = [parameter for parameter in members if parameter is not but and len(getattr(parameter, "ds_shape", parameter.shape)) > 1]
    return Weights(sum(map(size, matrices)), sum(size(parameter) for parameter in matrices if parameter.requires_grad))
