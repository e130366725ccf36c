"""First phase of the base's training: the vision tower and the projector learn to see.

- Heads read color, shape, side, height and size from *every* projected token, so that any token gives the language model each attribute.
  Heads on the mean of the tokens would leave the language model to find the right token first.
- Half of each batch are real images of the training part, half are newly drawn ones. Nothing saves the heads.
- The vision tower reads images as the processor would prepare them: 64 pixels need no resizing, only scaling.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from demo.architecture import HIDDEN
from demo.images import COLORS, HEIGHTS, SHAPES, SIDES, SIZES, UNKNOWN, Picture, draw, label_numbers, read_pixels

ATTRIBUTES = {"colour": len(COLORS), "shape": len(SHAPES), "side": len(SIDES), "height": len(HEIGHTS), "size": len(SIZES)}
BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 1.5e-3, 0.01

logger = logging.getLogger(__name__)


def to_pixels(images: Tensor) -> Tensor:
    """Scale bytes 0..255 [..., 3, H, W] as the processor does: (x / 255 - 0.5) / 0.5."""
    return (images.float() / 255 - 0.5) / 0.5


def load_images(pictures: Sequence[Picture]) -> Tensor:
    """Bytes [N, 3, 64, 64] of the pictures, in their order."""
    return torch.from_numpy(np.stack([read_pixels(picture.path) for picture in pictures])).permute(0, 3, 1, 2).contiguous()


def project(model: Any, pixels: Tensor) -> Tensor:
    """Projected tokens [B, 16, H] of single tiles, as both image and video path make them before packing and pooling."""
    features = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[model.config.vision_feature_layer]
    projected: Tensor = model.model.multi_modal_projector(features)
    return projected


def train_vision(model: Any, pictures: Sequence[Picture], *, steps: int, seed: int, heldout: Sequence[Picture] = ()) -> dict[str, float]:
    """Train vision tower and projector in place for `steps` batches; return each head's accuracy on `heldout` by attribute."""
    generator = torch.Generator().manual_seed(seed)
    heads = nn.ModuleDict({name: nn.Linear(HIDDEN, classes) for name, classes in ATTRIBUTES.items()})
    parameters = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    real, labels = load_images(pictures), torch.tensor([label_numbers(picture) for picture in pictures])
    model.train()
    for step in range(steps):
        chosen = torch.randint(len(real), (BATCH // 2,), generator=generator)
        drawn, drawn_labels = draw(BATCH // 2, generator)
        loss = _loss(model, heads, to_pixels(torch.cat([real[chosen].float(), drawn])), torch.cat([labels[chosen], drawn_labels]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps - 1:
            accuracy = measure_vision(model, heads, heldout) if heldout else ""
            logger.info("vision tower step %d of %d: loss %.4f %s", step, steps, loss.item(), accuracy)
    return measure_vision(model, heads, heldout) if heldout else {}


def _loss(model: Any, heads: nn.ModuleDict, pixels: Tensor, labels: Tensor) -> Tensor:
    tokens = project(model, pixels)
    losses = [
        cross_entropy(head(tokens).flatten(0, 1), labels[:, index].repeat_interleave(tokens.shape[1]), ignore_index=UNKNOWN)
        for index, head in enumerate(heads.values())
    ]
    return torch.stack(losses).sum()


@torch.no_grad()
def measure_vision(model: Any, heads: nn.ModuleDict, heldout: Sequence[Picture]) -> dict[str, float]:
    """Accuracy by attribute: each head's mean logits over the tokens against the picture's label; dead zones are left out."""
    model.eval()
    logits_of = project(model, to_pixels(load_images(heldout)))
    labels = torch.tensor([label_numbers(picture) for picture in heldout])
    scores = {}
    for index, (name, head) in enumerate(heads.items()):
        labeled = labels[:, index] != UNKNOWN
        scores[name] = round((head(logits_of).mean(dim=1).argmax(dim=1) == labels[:, index])[labeled].float().mean().item(), 3)
    model.train()
    return scores
