"""Second phase of the base's training: the language model learns to answer and to check answers.

Tower and projector are frozen, so that each picture's features are computed once, by the model's own functions for images and clips. Rows
are padded on the right, where causal attention does not look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from demo.images import PIXELS, Picture
from demo.rows import Mix, RowMaker, TrainingRow, draw_rows
from demo.tasks import seeded
from demo.tower import load_images, to_pixels

BATCH = 64
SORTED_BATCHES = 6  # so many batches are drawn at once and sorted by length, to waste less on padding
CHECK_SHARE = 0.6  # share of the rows that are checks, once they begin
LOG_STEPS = 50

logger = logging.getLogger(__name__)


class PictureFeatures:
    """Projected features of pictures as the standard path packs them: 36 tokens an image, 4 a frame and the newline after the last."""

    def __init__(self, model: Any, pictures: Sequence[Picture]) -> None:
        self.images: dict[str, Tensor] = {}
        self.frames: dict[str, Tensor] = {}
        self.newline: Tensor | None = None
        with torch.no_grad():
            for start in range(0, len(pictures), BATCH):
                chosen = pictures[start : start + BATCH]
                pixels = to_pixels(load_images(chosen))
                sizes = torch.full((len(chosen), 2), PIXELS)
                tiles = pixels[:, None].expand(-1, 2, -1, -1, -1)  # the whole image, and the one tile of its grid
                images = model.model.get_image_features(tiles, sizes).pooler_output
                clips = model.model.get_video_features(pixels[:, None]).pooler_output
                for picture, image, clip in zip(chosen, images, clips, strict=True):
                    self.images[picture.name] = image
                    self.frames[picture.name] = clip[:-1]
                    self.newline = clip[-1:]

    def of(self, pictures: Sequence[Picture]) -> Tensor:
        """Features [tokens, H] of one image, or of a clip."""
        if len(pictures) == 1:
            return self.images[pictures[0].name]
        assert self.newline is not None
        return torch.cat([*(self.frames[picture.name] for picture in pictures), self.newline])


def row_loss(model: Any, rows: Sequence[TrainingRow], features: PictureFeatures) -> Tensor:
    """Mean cross-entropy over the learned tokens of the rows."""
    width = max(len(row.tokens) for row in rows)
    tokens = torch.zeros((len(rows), width), dtype=torch.long)
    learned = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row.tokens)] = torch.tensor(row.tokens)
        learned[index, row.learned_from : len(row.tokens)] = True
    embeddings = model.get_input_embeddings()(tokens)
    placeholder = (tokens == model.config.image_token_id) | (tokens == model.config.video_token_id)
    media = torch.cat([features.of(row.pictures) for row in rows])
    hidden = model.model.language_model(
        inputs_embeds=embeddings.masked_scatter(placeholder[..., None], media), use_cache=False
    ).last_hidden_state
    return cross_entropy(model.lm_head(hidden[:, :-1][learned[:, 1:]]), tokens[:, 1:][learned[:, 1:]])


def train_language(
    model: Any,
    maker: RowMaker,
    pictures: Sequence[Picture],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    mix: Mix,
    checks_from: int,
) -> None:
    """Train the language model in place; rows that check answers begin at step `checks_from`."""
    chance = seeded(f"language {seed}")
    features = PictureFeatures(model, pictures)
    parameters = [*model.model.language_model.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.05)
    model.train()
    waiting: list[list[TrainingRow]] = []
    started, recent = time.monotonic(), []
    for step in range(steps):
        if not waiting:
            share = CHECK_SHARE if step >= checks_from else 0.0
            drawn = sorted(draw_rows(maker, pictures, mix, BATCH * SORTED_BATCHES, share, chance), key=lambda row: len(row.tokens))
            waiting = [drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)]
            chance.shuffle(waiting)
        loss = row_loss(model, waiting.pop(), features)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        recent.append(loss.item())
        if step % LOG_STEPS == LOG_STEPS - 1:
            logger.info("step %d of %d: loss %.4f, %.0f s", step + 1, steps, sum(recent) / len(recent), time.monotonic() - started)
            recent = []
    model.eval()
