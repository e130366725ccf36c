"""From media to the language model's input: tower, projector and packing by the family's adapter.

Features go to the placeholders in reading order. Media of one kind run through the tower together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from components.vlm.families import Medium, Projected, Root, family_of


def media_features(model: Any, media: Sequence[Medium]) -> list[Projected]:
    """What goes to the placeholders of each medium, in order."""
    family = family_of(model.config)
    found: dict[int, Projected] = {}
    for kind in ("image", "video"):
        indices = [index for index, medium in enumerate(media) if medium.kind == kind]
        if kind == "video":
            # Videos of unequal length in one pass would be cut differently from a video alone.
            groups = [[i for i in indices if _shape(media[i]) == shape] for shape in sorted({_shape(media[i]) for i in indices})]
        else:
            groups = [indices] if indices else []
        for group in groups:
            chosen = [media[index] for index in group]
            found.update(zip(group, family.project(model, chosen, family.tower(model, chosen)), strict=True))
    return [found[index] for index in range(len(media))]


def embed(model: Any, input_ids_RL: Tensor, roots: Sequence[Root]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Input embeddings [R, L, H] with the roots' media at their placeholders, where these are [R, L], and what deeper layers add.

    `roots` stand in the order in which their placeholders appear, row by row. Raises ValueError when the counts differ.
    """
    embeddings: Tensor = model.get_input_embeddings()(input_ids_RL)
    placeholders = torch.tensor(family_of(model.config).placeholder_ids(model.config), device=input_ids_RL.device)
    media_RL = torch.isin(input_ids_RL, placeholders)
    projected = media_features(model, [medium for root in roots for medium in root.media])
    if not projected:
        return embeddings, media_RL, []
    flat = torch.cat([item.features_LH for item in projected]).to(embeddings.dtype)
    if int(media_RL.sum()) != len(flat):
        raise ValueError(f"{int(media_RL.sum())} media placeholders, but {len(flat)} features: the processor and the model do not fit")
    deeper = [torch.cat(level) for level in zip(*(item.deeper for item in projected), strict=True)]
    return embeddings.masked_scatter(media_RL[..., None], flat), media_RL, deeper


def _shape(medium: Medium) -> tuple[int, ...]:
    return tuple(medium.tensors[max(medium.tensors, key=lambda name: medium.tensors[name].nbytes)].shape)
