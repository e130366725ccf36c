"""Second phase of the base's training: the language model learns to answer and to check answers.

The vision tower and the projector are frozen. The model's own functions for images and clips compute each picture's features once. Padding
is on the right, where causal attention does not reach.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from demo.images import PIXELS, Picture
from demo.rows import Mix, RowMaker, TrainingRow, draw_rows
from demo.tasks import seeded
from demo.vision import load_images, to_pixels

BATCH = 64
SORTED_BATCHES = 6  # batches drawn at once and sorted by length, to waste less on padding
CHECK_SHARE = 0.6  # share of checks among the rows, from the step at which checks begin
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


@dataclass(frozen=True)
class Schedule:
    """One training of the language model: its steps, its peak learning rate, its draws, and the step from which rows check answers too."""

    steps: int
    learning_rate: float
    seed: int
    mix: Mix
    checks_from: int


def train_language(model: Any, maker: RowMaker, pictures: Sequence[Picture], schedule: Schedule) -> None:
    """Train the language model in place by `schedule`."""
    chance = seeded(f"language {schedule.seed}")
    features = PictureFeatures(model, pictures)
    parameters = [*model.model.language_model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.learning_rate, total_steps=schedule.steps, pct_start=0.05)
    model.train()
    waiting: list[list[TrainingRow]] = []
    started, recent = time.monotonic(), []
    for step in range(schedule.steps):
        if not waiting:
            share = CHECK_SHARE if step >= schedule.checks_from else 0.0
            drawn = sorted(draw_rows(maker, pictures, schedule.mix, BATCH * SORTED_BATCHES, share, chance), key=lambda row: len(row.tokens))
            waiting = [drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)]
            chance.shuffle(waiting)
        loss = row_loss(model, waiting.pop(), features)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
        recent.append(loss.item())
        if step % LOG_STEPS == LOG_STEPS - 1:
            mean, seconds = sum(recent) / len(recent), time.monotonic() - started
            logger.info("step %d of %d: loss %.4f, %.0f s", step + 1, schedule.steps, mean, seconds)
            recent = []
    model.eval()
