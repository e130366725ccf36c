"""From pixels to the language model's input: tower, projector and packing, with the family's own functions.

Media are run in groups of equal shape (videos by their number of frames), and their features go to the placeholders in reading order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from components.vlm.processing import Root


def media_features(model: Any, roots: Sequence[Root], device: torch.device | str) -> list[Tensor]:
    """Features of each root's medium [tokens, H], in the roots' order; text-only roots give nothing."""
    dtype = model.dtype
    found: dict[int, Tensor] = {}
    images = [index for index, root in enumerate(roots) if root.kind == "image"]
    if images:
        pixels = [roots[index].pixels["pixel_values"] for index in images]
        tiles = max(p.shape[1] for p in pixels)
        stacked = torch.cat([pad(p, (0, 0, 0, 0, 0, 0, 0, tiles - p.shape[1])) for p in pixels]).to(device, dtype)
        sizes = torch.cat([roots[index].pixels["image_sizes"] for index in images]).to(device)
        found.update(zip(images, model.model.get_image_features(stacked, sizes).pooler_output, strict=True))
    by_frames: dict[int, list[int]] = defaultdict(list)
    for index, root in enumerate(roots):
        if root.kind == "video":
            by_frames[root.pixels["pixel_values_videos"].shape[1]].append(index)
    for indices in by_frames.values():
        stacked = torch.cat([roots[index].pixels["pixel_values_videos"] for index in indices]).to(device, dtype)
        found.update(zip(indices, model.model.get_video_features(stacked).pooler_output, strict=True))
    return [found[index] for index in sorted(found)]


def embed(model: Any, input_ids: Tensor, roots: Sequence[Root]) -> Tensor:
    """Input embeddings [R, L, H] of `input_ids` [R, L] with the media features of `roots` in the place of their placeholders.

    `roots` stand in the order in which their placeholders appear, row by row. Raises ValueError when the counts differ.
    """
    embeddings: Tensor = model.get_input_embeddings()(input_ids)
    features = media_features(model, roots, input_ids.device)
    if not features:
        return embeddings
    placeholder = (input_ids == model.config.image_token_id) | (input_ids == model.config.video_token_id)
    flat = torch.cat(features).to(embeddings.dtype)
    if int(placeholder.sum()) != len(flat):
        raise ValueError(f"{int(placeholder.sum())} media placeholders, but {len(flat)} features: the processor and the model do not fit")
    return embeddings.masked_scatter(placeholder[..., None], flat)
