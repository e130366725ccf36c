"""The queries of a rehearsal: the longest ones, those with the longest answers or the largest media, and a sample of the rest.

Tokens are estimated from characters and pixels, as in `workload`. They order the rows and carry what was measured on the sample over to all
rows; the rehearsal itself counts with the base's tokenizer and processor.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.rehearsal.media import MediumSize, processor_limits
from components.rehearsal.parameters import Architecture
from components.rehearsal.workload import CHARACTERS_A_TOKEN, asked_characters, media_of, medium_size

STEPS = 3  # of a training: the first warms up
HELDOUT_LEAST = 8
SEED = 0


@dataclass(frozen=True)
class Row:
    """A line of a preferences file with its estimated costs: `targets` are the tokens of responses and critiques among its `tokens`. `media` are
    their paths in the preferences folder; `size` is that of all."""

    line: str
    tokens: float
    targets: float
    responses: int
    media: tuple[str, ...]
    size: MediumSize


@dataclass(frozen=True)
class Totals:
    """Counts of rows; `tokens` are estimated."""

    queries: int
    responses: int
    tokens: float
    media: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Totals:
        """The totals of `rows`."""
        media = {path for row in rows for path in row.media}
        return cls(len(rows), sum(row.responses for row in rows), sum(row.tokens for row in rows), len(media))


@dataclass(frozen=True)
class Sample:
    """The rows that a rehearsal takes, and the totals of all rows, by split."""

    train: list[Row]
    heldout: list[Row]
    whole: Mapping[str, Totals]

    def taken(self, split: str) -> Totals:
        """The totals of the sampled rows."""
        return Totals.of(self.train if split == "train" else self.heldout)


def read_sample(checkout: Checkout, settings: Settings, model: Architecture) -> Sample:
    """Choose the rows. Raises UserError where there are too few for a step on every rank."""
    folder = checkout.preferences
    reader = _RowReader(folder, settings, model)
    train = list(reader.rows(folder / "data.jsonl"))
    heldout = list(reader.rows(folder / "heldout.jsonl"))
    if not heldout:
        shuffled = random.Random(SEED).sample(train, len(train))  # noqa: S311 -- a sample, no secret
        cut = round(len(train) * settings.validate_.heldout_share)
        train, heldout = shuffled[cut:], shuffled[:cut]
    steps = train_queries(settings)
    if len(train) < 2 or not heldout:
        raise UserError(f"{folder / 'data.jsonl'} has {len(train)} usable rows: a rehearsal takes {steps}")
    # A full batch has the stage's peak of memory. Critiques are batched by responses, over both splits; answers by queries.
    critiques, answers = (section.batch_size * section.ranks for section in (settings.critique, settings.evaluate))
    whole = {"train": Totals.of(train), "heldout": Totals.of(heldout)}
    filling = {split: math.ceil(critiques * totals.queries / max(1, totals.responses)) for split, totals in whole.items()}
    # The same holds for the passes over all queries that precede and follow a training's steps.
    passed = math.ceil(
        settings.training.ranks * settings.training.batch_rows * settings.training.row_tokens * len(train) / max(1.0, whole["train"].tokens)
    )
    return Sample(
        choose(train, max(steps, passed, filling["train"])), choose(heldout, max(HELDOUT_LEAST, filling["heldout"], answers)), whole
    )


def train_queries(settings: Settings) -> int:
    """How many training queries fill the steps of both trainings."""
    return STEPS * max(settings.reward.queries_per_step, settings.alignment.queries_per_step)


def choose(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` rows in file order: a quarter the longest, a quarter those with the longest answers, which decide what the LM head takes,
    an eighth those with the largest media, the rest drawn from all."""
    numbers = range(len(rows))
    longest = sorted(numbers, key=lambda number: -rows[number].tokens)[: max(1, count // 4)]
    answered = sorted(numbers, key=lambda number: -rows[number].targets)[: max(1, count // 4)]
    largest = sorted(numbers, key=lambda number: -rows[number].size.patches)[: max(1, count // 8)]
    drawn = random.Random(SEED).sample(numbers, len(rows))  # noqa: S311 -- a sample, no secret
    return [rows[number] for number in sorted(list(dict.fromkeys([*longest, *answered, *largest, *drawn]))[:count])]


class _RowReader:
    """Reads rows and the pixels of their media, each medium once."""

    def __init__(self, folder: Path, settings: Settings, model: Architecture) -> None:
        self._folder, self._settings, self._model = folder, settings, model
        self._limits = processor_limits(folder.parents[1] / settings.model.base)
        self._sizes: dict[str, MediumSize] = {}

    def rows(self, path: Path) -> Iterator[Row]:
        """The rows of a file that are JSON objects; validation names the others."""
        if not path.is_file():
            return
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    values = json.loads(line)
                except ValueError:
                    continue
                if isinstance(values, dict):
                    yield self._row(line, values)

    def _row(self, line: str, values: Mapping[str, Any]) -> Row:
        outputs = values.get("models_output")
        outputs = outputs if isinstance(outputs, list) else []
        texts = [*map(str, outputs), *map(str, values.get("score_reasons") or [])]
        media = tuple(media_of(values))
        sizes = [self._size(path) for path in media]
        size = MediumSize(*(sum(column) for column in zip(*map(astuple, sizes), strict=True))) if sizes else MediumSize(0, 0, 0)
        targets = sum(map(len, texts)) / CHARACTERS_A_TOKEN
        return Row(line, asked_characters(values) / CHARACTERS_A_TOKEN + targets + size.tokens, targets, len(outputs), media, size)

    def _size(self, path: str) -> MediumSize:
        if path not in self._sizes:
            size = medium_size(self._folder / path, self._settings, self._model, self._limits)
            self._sizes[path] = size or MediumSize(0, 0, 0)
        return self._sizes[path]
